# make results/sky_fvd.json makes everything that the file needs, `.venv` included. Needs Python 3.11-3.13 and make.

CORES ?= all
# Of `make report`, one or several.
EXPERIMENTS ?= sky
# Of `make pull`; left out, sky's. Not from the environment, where others have a TARGET, too.
TARGET :=
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/ready
# For what the tools call themselves: dvc calls snakemake, jupyter its kernels.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport PYTHONHOME
unexport PYTHONPATH

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help test lab pull report docs repro clean-venv FORCE

help:
	@echo "make results/sky_fvd.json   train, sample and measure; any file below results/ that the Snakefile makes"
	@echo "make test                   the whole test suite"
	@echo "make lab                    JupyterLab on the notebooks"
	@echo "make pull                   fetch the results of the last commit from the DVC remote; TARGET=results/waves_fvd.json"
	@echo "make repro                  dvc repro: run what changed and note it in dvc.lock"
	@echo "make report                 results/report.html: what was made, how, how long it took; EXPERIMENTS='sky waves'"
	@echo "make docs                   the documentation as a site: docs/_build/html/index.html"
	@echo "make clean-venv             remove $(VENV)"
	@echo "CORES=4 make ...            use 4 cores; default: all"
	@echo "LAB='--no-browser --port 9000' make lab   options for jupyter lab; in a container also --allow-root"

# FORCE: whether anything is out of date is for Snakemake to say.
results/%: $(READY) FORCE
	@$(VENV)/bin/snakemake --cores $(CORES) $@

# A file of tests is one process's; threads within each would only wait for one another.
test: $(READY)
	@OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Without weights the lab opens all the same: notebook 06 alone needs them. It asks no server for news.
lab: $(READY)
	@$(VENV)/bin/vidm weights fetch i3d || echo "lab: notebook 06 will ask for these weights again" >&2
	@$(VENV)/bin/jupyter lab --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	    $(LAB) notebooks

pull: $(READY)
	@$(PYTHON) workflow/scripts/pull.py $(TARGET)

repro: $(READY)
	@$(VENV)/bin/dvc repro

# What lacks is made first, and the tables after the reports that they are made of. Ablations take hours: only where
# they are there, their figure is drawn.
REPORTED = $(foreach e,$(EXPERIMENTS),results/$(e)/report/videos.html results/$(e)/figures/index.html \
    $(and $(wildcard results/$(e)_ablations.json),results/$(e)/figures/ablations.png))
report: $(READY)
	@$(VENV)/bin/snakemake --cores $(CORES) $(REPORTED)
	@$(VENV)/bin/snakemake --cores $(CORES) results/tables/index.html
	@$(VENV)/bin/snakemake --report results/report.html --report-stylesheet workflow/report/style.css \
	    $(REPORTED) results/tables/index.html

docs: $(READY)
	@$(VENV)/bin/sphinx-build --fail-on-warning --nitpicky --quiet docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Written last: an environment without it is half made, and made again.
$(READY): pyproject.toml constraints.txt workflow/scripts/environment.sh
	@bash workflow/scripts/environment.sh $(VENV)

clean-venv:
	rm -rf $(VENV)

FORCE:

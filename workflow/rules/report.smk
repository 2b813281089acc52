# Pages of `make report` for what Snakemake's own report does not show by itself: videos, numbers, facts.


rule pages:
    """How long each step took is read from what benchmarks are there: another time is no reason to run again."""
    input:
        fvd="results/{experiment}_fvd.json",
        runs=[f"models/{{experiment}}/{part}_run.json" for part in ("content", "motion")],
        videos=lambda wildcards: shown(experiment(wildcards).name),
    output:
        videos=report(
            "results/{experiment}/report/videos.html",
            category="Samples",
            caption="../report/videos.rst",
            labels={"experiment": "{experiment}", "what": "videos"},
        ),
        numbers=report(
            "results/{experiment}/report/numbers.html",
            category="Metrics",
            caption="../report/numbers.rst",
            labels={"experiment": "{experiment}", "what": "numbers"},
        ),
        facts=report(
            "results/{experiment}/report/facts.html",
            category="Facts",
            caption="../report/facts.rst",
            labels={"experiment": "{experiment}", "what": "parameters, versions, run times"},
        ),
    log:
        "logs/pages/{experiment}.log",
    conda:
        "../../environment.yml"
    params:
        facts=lambda wildcards: text(
            experiment(wildcards),
            FACTS.dataset(experiment(wildcards).dataset),
            model_version=FACTS.model_version,
        ),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "python workflow/scripts/pages.py experiment {wildcards.experiment} {params.folder:q} --facts {params.facts:q}"
        " --fvd {input.fvd:q} --runs {input.runs:q} --videos {input.videos:q} 2>&1 | tee {log:q}"


rule tables_page:
    input:
        sheets=expand("results/tables/table_{n}.csv", n=["1", "2", "3a", "3b"]),
        titles=expand("results/tables/table_{n}.md", n=["1", "2", "3a", "3b"]),
    output:
        report(
            "results/tables/index.html",
            category="Metrics",
            caption="../report/tables.rst",
            labels={"experiment": "all", "what": "the paper's tables"},
        ),
    log:
        "logs/tables_page.log",
    conda:
        "../../environment.yml"
    shell:
        "python workflow/scripts/pages.py tables {output:q} {input.sheets:q} 2>&1 | tee {log:q}"

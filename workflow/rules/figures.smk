# Figures, drawn by the notebooks in notebooks/figures; the executed notebooks are results too.

# Of each notebook its figures, each with a sentence for the page.
FIGURES = {
    "qualitative": {
        "filmstrips": "Generated videos and real clips of the test split (Figs. 3a and 3b of the paper).",
        "same_content": "Two videos from one first frame, and where they differ (Fig. 1a).",
        "long_strip": "128 frames: beyond the trained ones, the last frame becomes a new first one (Fig. 1b).",
    },
    "latents": {
        "latent_flow": "The motion code z(n), flow from frame 0 to frame n-1, below its frames (Fig. 4).",
        "latent_components": "All z of many videos by their first two principal components; a line is a video.",
        "posgn_maps": "Scale and shift of a positional group norm over frame n and diffusion step t.",
    },
    "metrics": {
        "loss_curves": "The loss of both networks over training.",
        "fvd": "FVD of the samples, and the baselines that it can be read against.",
        "fvd_against_n": "How the FVD depends on the number of videos.",
        "over_time": "Sharpness, contrast, mean and motion of each frame over those of the test clips.",
    },
    "ablations": {
        "ablation_strips": "Video 0 of each row of the ablations (Fig. 3c).",
        "ablations": "FVD of each row over seeds (Tables 3a and 3b).",
    },
}
# Those of a single training; ablations are asked for by name, since they take hours.
PAGE = ["qualitative", "latents", "metrics"]
SAMPLES = "results/{experiment}/samples/samples.h5"
CONTENT, MOTION = (f"models/{{experiment}}/{part}.safetensors" for part in ("content", "motion"))
# What each notebook reads.
DRAWN_FROM = {
    "qualitative": {"frames": frames, "samples": SAMPLES, "content": CONTENT, "motion": MOTION},
    "latents": {"samples": SAMPLES, "motion": MOTION},
    "metrics": {
        "report": "results/{experiment}_fvd.json",
        "curves": [f"models/{{experiment}}/{part}_loss.csv" for part in ("content", "motion")],
    },
    "ablations": {"report": "results/{experiment}_ablations.json", "samples": samples_of_rows},
}


for notebook, captions in FIGURES.items():

    rule:
        """The notebook is an input, as figures cost little: drawn again where it changed."""
        name:
            f"figures_{notebook}"
        input:
            **DRAWN_FROM[notebook],
            notebook=f"notebooks/figures/{notebook}.ipynb",
        output:
            executed=f"results/{{experiment}}/notebooks/{notebook}.ipynb",
            drawings=[f"results/{{experiment}}/figures/{figure}.svg" for figure in captions],
            pictures=[
                report(
                    f"results/{{experiment}}/figures/{figure}.png",
                    category="Figures",
                    caption="../report/figure.rst",
                    labels={"experiment": "{experiment}", "figure": figure},
                )
                for figure in captions
            ],
        log:
            f"logs/figures_{notebook}/{{experiment}}.log",
        benchmark:
            f"logs/benchmarks/figures_{notebook}/{{experiment}}.tsv"
        conda:
            "../../environment.yml"
        threads: cores
        resources:
            gpu=1 if notebook in ("qualitative", "latents") else 0,
        params:
            captions=captions,
        shell:
            "(papermill -k python3 --no-progress-bar -p experiment {wildcards.experiment} -p root ."
            " {input.notebook:q} {output.executed:q}.part.ipynb"
            " && mv {output.executed:q}.part.ipynb {output.executed:q}) 2>&1 | tee {log:q}"


rule figures:
    """One page of all figures of an experiment, which needs no other file."""
    input:
        pictures=[
            f"results/{{experiment}}/figures/{figure}.png"
            for notebook in PAGE
            for figure in FIGURES[notebook]
        ],
        notebooks=[f"results/{{experiment}}/notebooks/{notebook}.ipynb" for notebook in PAGE],
    output:
        "results/{experiment}/figures/index.html",
    log:
        "logs/figures/{experiment}.log",
    conda:
        "../../environment.yml"
    params:
        captions=json.dumps({k: v for notebook in PAGE for k, v in FIGURES[notebook].items()}),
    shell:
        "python workflow/scripts/page.py {wildcards.experiment} {output:q} {params.captions:q}"
        " {input.pictures:q} --notebooks {input.notebooks:q} 2>&1 | tee {log:q}"

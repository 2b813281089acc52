# The Fréchet video distance, with its protocol, baselines and provenance; ablations; the paper's tables.


rule evaluate:
    input:
        unpack(judges),
        unpack(from_real_frames),
        frames=frames,
        samples="results/{experiment}/samples/samples.h5",
    output:
        fvd=report(
            "results/{experiment}_fvd.json",
            category="Metrics",
            caption="../report/fvd.rst",
            labels={"experiment": "{experiment}", "what": "report, JSON"},
        ),
        nearest=report(
            "results/{experiment}/figures/nearest.png",
            category="Samples",
            caption="../report/nearest.rst",
            labels={"experiment": "{experiment}", "what": "nearest training clips"},
        ),
    log:
        "logs/evaluate/{experiment}.log",
    benchmark:
        "logs/benchmarks/evaluate/{experiment}.tsv"
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=1,
    params:
        facts=lambda wildcards: text(
            experiment(wildcards).metrics,
            protocols=own_protocols(wildcards),
            model_version=FACTS.model_version,
        ),
        inception=lambda wildcards, input: (
            f"--inception {shlex.quote(input.inception)}" if "inception" in input.keys() else ""
        ),
        given=lambda wildcards, input: (
            f"--given {shlex.quote(input.given)}" if "given" in input.keys() else ""
        ),
    shell:
        "vidm evaluate {wildcards.experiment} --frames {input.frames:q} --samples {input.samples:q}"
        " {params.given} --detector {input.detector:q} {params.inception} --out {output.fvd:q}"
        " --nearest {output.nearest:q} 2>&1 | tee {log:q}"


if CELLS:

    use rule evaluate as evaluate_cell with:
        output:
            fvd="results/{experiment}_fvd.json",
            nearest="results/{experiment}/figures/nearest.png",
        wildcard_constraints:
            experiment="|".join(map(re.escape, sorted(CELLS))),

    ruleorder: evaluate_cell > evaluate


rule ablations:
    """Every cell is an experiment, with files of its own: what was made stays made, in whatever order."""
    input:
        cells,
    output:
        report(
            "results/{experiment}_ablations.json",
            category="Metrics",
            caption="../report/ablations.rst",
            labels={"experiment": "{experiment}", "what": "ablations, JSON"},
        ),
    log:
        "logs/ablations/{experiment}.log",
    conda:
        "../../environment.yml"
    params:
        facts=lambda wildcards: text(ablation(wildcards)),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "vidm ablations {wildcards.experiment} --results {params.folder:q} --out {output:q} 2>&1 | tee {log:q}"


rule ablation_tables:
    input:
        "results/{experiment}_ablations.json",
    output:
        expand("results/tables/{{experiment}}_ablations.{kind}", kind=["md", "csv"]),
    log:
        "logs/ablation_tables/{experiment}.log",
    conda:
        "../../environment.yml"
    params:
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "vidm tables --ablations {input:q} --out {params.folder:q} 2>&1 | tee {log:q}"


rule tables:
    """From the reports that are there, and none is made for it: those of a cluster may lie here without their videos.
    So they are a param, by their content, and no input."""
    output:
        expand("results/tables/table_{n}.{kind}", n=["1", "2", "3a", "3b"], kind=["md", "csv"]),
    log:
        "logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        reports=lambda wildcards: reports(),
        folder=lambda wildcards, output: os.path.dirname(output[0]),
    shell:
        "vidm tables --results results --out {params.folder:q} 2>&1 | tee {log:q}"

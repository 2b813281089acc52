# The Fréchet video distance, with its protocol, baselines and provenance.


rule evaluate:
    input:
        frames=frames,
        samples="results/{experiment}/samples/samples.h5",
        detector="data/weights/i3d.safetensors",
    output:
        report(
            "results/{experiment}_fvd.json",
            category="Metrics",
            caption="../report/fvd.rst",
            labels={"experiment": "{experiment}"},
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
            model_version=FACTS.model_version,
        ),
    shell:
        "vidm evaluate {wildcards.experiment} --frames {input.frames:q} --samples {input.samples:q}"
        " --detector {input.detector:q} --out {output:q} 2>&1 | tee {log:q}"

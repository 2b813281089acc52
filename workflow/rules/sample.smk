# Generated videos: lossless frames for the metrics, mp4s and a contact sheet for people.

# A rule for each experiment: how many files it makes is a fact of the experiment, which no wildcard can say.
for name in FACTS.experiments:

    rule:
        name:
            f"sample_{name}"
        input:
            content=f"models/{name}/content.safetensors",
            motion=f"models/{name}/motion.safetensors",
        output:
            samples=f"results/{name}/samples/samples.h5",
            sheet=report(
                f"results/{name}/samples/contact_sheet.png",
                category="Samples",
                caption="../report/contact_sheet.rst",
                labels={"experiment": name},
            ),
            preview=f"results/{name}/samples/preview.webp",
            videos=shown(name),
        log:
            f"logs/sample/{name}.log",
        benchmark:
            f"logs/benchmarks/sample/{name}.tsv"
        conda:
            "../../environment.yml"
        threads: cores
        resources:
            gpu=1,
        params:
            facts=text(
                FACTS.experiments[name].sampling,
                seed=FACTS.experiments[name].seed,
                frames=FACTS.experiments[name].frames,
                model_version=FACTS.model_version,
            ),
            experiment=name,
            folder=lambda wildcards, output: os.path.dirname(output.samples),
        shell:
            "vidm sample {params.experiment} --content {input.content:q} --motion {input.motion:q}"
            " --out {params.folder:q} 2>&1 | tee {log:q}"

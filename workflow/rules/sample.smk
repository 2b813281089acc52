# Generated videos: lossless frames for the metrics, mp4s and a contact sheet for people.

# A rule for each experiment: how many files it makes is a fact of the experiment, which no wildcard can say.
for name in FACTS.every:
    if FACTS.experiment(name).sampling.shards == 1:

        rule:
            name:
                f"sample_{name}"
            input:
                content=f"models/{name}/content.safetensors",
                motion=f"models/{name}/motion.safetensors",
            output:
                samples=f"results/{name}/samples/samples.h5",
                sheet=reported(
                    name,
                    f"results/{name}/samples/contact_sheet.png",
                    category="Samples",
                    caption="../report/contact_sheet.rst",
                    labels={"experiment": name, "what": "frames"},
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
                facts=sampled(name),
                experiment=name,
                folder=lambda wildcards, output: os.path.dirname(output.samples),
            shell:
                "vidm sample {params.experiment} --content {input.content:q} --motion {input.motion:q}"
                " --out {params.folder:q} 2>&1 | tee {log:q}"

    else:

        # The folder's name has how many videos in how many parts, so that no part of another split lies in it.
        rule:
            name:
                f"shard_{name}"
            input:
                content=f"models/{name}/content.safetensors",
                motion=f"models/{name}/motion.safetensors",
            output:
                temp(shards(name)[0]),
            log:
                f"logs/shard/{name}/{{shard}}.log",
            benchmark:
                f"logs/benchmarks/shard/{name}/{{shard}}.tsv"
            conda:
                "../../environment.yml"
            threads: cores
            resources:
                gpu=1,
            params:
                facts=sampled(name),
                experiment=name,
                part=lambda wildcards, n=FACTS.experiment(name).sampling.shards: f"{wildcards.shard}/{n}",
                folder=lambda wildcards, output: os.path.dirname(output[0]),
            shell:
                "vidm sample {params.experiment} --content {input.content:q} --motion {input.motion:q}"
                " --shard {params.part} --out {params.folder:q} 2>&1 | tee {log:q}"

        rule:
            name:
                f"sample_{name}"
            input:
                shards(name)[1:],
            output:
                samples=f"results/{name}/samples/samples.h5",
                sheet=reported(
                    name,
                    f"results/{name}/samples/contact_sheet.png",
                    category="Samples",
                    caption="../report/contact_sheet.rst",
                    labels={"experiment": name, "what": "frames"},
                ),
                preview=f"results/{name}/samples/preview.webp",
                videos=shown(name),
            log:
                f"logs/sample/{name}.log",
            benchmark:
                f"logs/benchmarks/sample/{name}.tsv"
            conda:
                "../../environment.yml"
            params:
                sheet=FACTS.experiment(name).sampling.sheet,
                experiment=name,
                folder=lambda wildcards, output: os.path.dirname(output.samples),
            shell:
                "vidm gather {params.experiment} {input:q} --out {params.folder:q} 2>&1 | tee {log:q}"


rule given:
    """Videos from real first frames: what the motion network makes by itself, for metrics.motion_only.

    The mp4s are no outputs: where there are few test clips, there are fewer than the sheet may show."""
    input:
        frames=frames,
        motion="models/{experiment}/motion.safetensors",
    output:
        samples="results/{experiment}/given/samples.h5",
        sheet=report(
            "results/{experiment}/given/contact_sheet.png",
            category="Samples",
            caption="../report/given.rst",
            labels={"experiment": "{experiment}", "what": "frames after real first ones"},
        ),
        preview="results/{experiment}/given/preview.webp",
    log:
        "logs/given/{experiment}.log",
    benchmark:
        "logs/benchmarks/given/{experiment}.tsv"
    wildcard_constraints:
        experiment="|".join(name for name, facts in FACTS.every.items() if facts.metrics.motion_only),
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=1,
    params:
        facts=lambda wildcards: sampled(
            wildcards.experiment, "videos", "seeds", "content_steps", "content_sampler"
        ),
        asked=asked_of_given,
        folder=lambda wildcards, output: os.path.dirname(output.samples),
    shell:
        "vidm sample {wildcards.experiment} --motion {input.motion:q} --first {input.frames:q} {params.asked}"
        " --out {params.folder:q} 2>&1 | tee {log:q}"

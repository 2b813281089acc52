# Training. Params hold what trains and nothing else: a change of sampling or metrics never trains again.


rule train_content:
    input:
        frames=frames,
    output:
        weights="models/{experiment}/content.safetensors",
        curve="models/{experiment}/content_loss.csv",
        run="models/{experiment}/content_run.json",
    log:
        "logs/train_content/{experiment}.log",
    benchmark:
        "logs/benchmarks/train_content/{experiment}.tsv"
    wildcard_constraints:
        experiment=training("content"),
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=gpus,
        # Read by the SLURM executor: `mpi` leaves the starting of processes on all nodes to the shell command.
        nodes=on_nodes(lambda running: running.nodes),
        tasks=on_nodes(lambda running: running.nodes),
        tasks_per_gpu=on_nodes(lambda running: 0),
        gres=on_nodes(lambda running: None if running.gpus == 0 else f"gpu:{running.gpus or 1}"),
        mpi=on_nodes(lambda running: "srun"),
    params:
        launch=launch,
        facts=lambda wildcards: text(
            experiment(wildcards).content,
            seed=experiment(wildcards).seed,
            class_conditioning=experiment(wildcards).class_conditioning,
            model_version=FACTS.model_version,
        ),
    shell:
        "{params.launch} train content {wildcards.experiment} --frames {input.frames:q} --out {output.weights:q}"
        " 2>&1 | tee {log:q}"


rule share:
    """An experiment that takes another one's network (content_of, motion_of): an ablation trains one part alone."""
    input:
        weights=lambda wildcards: f"models/{other(wildcards)}/{wildcards.part}.safetensors",
        curve=lambda wildcards: f"models/{other(wildcards)}/{wildcards.part}_loss.csv",
        run=lambda wildcards: f"models/{other(wildcards)}/{wildcards.part}_run.json",
    output:
        weights="models/{experiment}/{part}.safetensors",
        curve="models/{experiment}/{part}_loss.csv",
        run="models/{experiment}/{part}_run.json",
    log:
        "logs/share_{part}/{experiment}.log",
    wildcard_constraints:
        part="content|motion",
    conda:
        "../../environment.yml"
    shell:
        "(cp {input.weights:q} {output.weights:q} && cp {input.curve:q} {output.curve:q}"
        " && cp {input.run:q} {output.run:q}) 2>&1 | tee {log:q}"


rule train_motion:
    input:
        unpack(pretrained),
        frames=frames,
    output:
        weights="models/{experiment}/motion.safetensors",
        curve="models/{experiment}/motion_loss.csv",
        run="models/{experiment}/motion_run.json",
    log:
        "logs/train_motion/{experiment}.log",
    benchmark:
        "logs/benchmarks/train_motion/{experiment}.tsv"
    wildcard_constraints:
        experiment=training("motion"),
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=gpus,
        # Read by the SLURM executor: `mpi` leaves the starting of processes on all nodes to the shell command.
        nodes=on_nodes(lambda running: running.nodes),
        tasks=on_nodes(lambda running: running.nodes),
        tasks_per_gpu=on_nodes(lambda running: 0),
        gres=on_nodes(lambda running: None if running.gpus == 0 else f"gpu:{running.gpus or 1}"),
        mpi=on_nodes(lambda running: "srun"),
    params:
        launch=launch,
        facts=lambda wildcards: text(
            experiment(wildcards).motion,
            seed=experiment(wildcards).seed,
            class_conditioning=experiment(wildcards).class_conditioning,
            frames=experiment(wildcards).frames,
            model_version=FACTS.model_version,
        ),
        spynet=lambda wildcards, input: (
            f"--spynet {shlex.quote(input.spynet)}" if "spynet" in input.keys() else ""
        ),
    shell:
        "{params.launch} train motion {wildcards.experiment} --frames {input.frames:q} {params.spynet}"
        " --out {output.weights:q} 2>&1 | tee {log:q}"


ruleorder: train_content > train_motion > share

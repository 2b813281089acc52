# Videos to frames, and the pretrained weights.


rule render:
    """The embedded sky, for a data set whose raw folder has no video. Beside that folder, never in it."""
    output:
        temp(directory("data/rendered/{dataset}")),
    log:
        "logs/render/{dataset}.log",
    benchmark:
        "logs/benchmarks/render/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: cores
    params:
        facts=lambda wildcards: text(dataset(wildcards).procedural),
    shell:
        "vidm data render {wildcards.dataset} --out {output:q} 2>&1 | tee {log:q}"


rule extract:
    """The videos are a param, not inputs: their names may hold anything, and there may be 100 000 of them."""
    input:
        rendered,
    output:
        "data/frames/{dataset}.h5",
    log:
        "logs/extract/{dataset}.log",
    benchmark:
        "logs/benchmarks/extract/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: cores
    params:
        facts=lambda wildcards: text(extracted(wildcards)),
        videos=lambda wildcards: listing(dataset(wildcards)),
        source=lambda wildcards, input: (
            f"{input[0]} --rendered --prune" if input else shlex.quote(dataset(wildcards).raw)
        ),
    shell:
        "vidm data extract {params.source} --dataset {wildcards.dataset} --out {output:q} 2>&1 | tee {log:q}"


# By the login node of a cluster, whose other nodes often have no network.
localrules:
    weights,


rule weights:
    """Pretrained files, checked by hash: SpyNet for the motion code, I3D for the FVD."""
    output:
        "data/weights/{name}.safetensors",
    log:
        "logs/weights/{name}.log",
    wildcard_constraints:
        name="[a-z0-9-]+",
    conda:
        "../../environment.yml"
    params:
        sha256=lambda wildcards: SHA256.get(wildcards.name),  # another version has other weights by that name
    shell:
        "vidm weights fetch {wildcards.name} --out {output:q} 2>&1 | tee {log:q}"

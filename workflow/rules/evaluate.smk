"""Downstream evaluation (paper, section 5): frozen features once per run, then every protocol on them."""


rule extract_features:
    input:
        data="results/{study}/data/manifest.json",
        weights="results/{study}/runs/{run}/weights.safetensors",
    output:
        "results/{study}/runs/{run}/features.safetensors",
    log:
        "logs/{study}/{run}/extract_features.log",
    wildcard_constraints:
        run="|".join(RUNS),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=0,
    params:
        run=coordinates,
    message:
        "{wildcards.run}: features"
    shell:
        """
        hirl features {ASKED} {params.run} --data $(dirname {input.data}) --weights {input.weights} --out {output} \
            >{log} 2>&1
        """


# The control: what the evaluations say of the same network before any training.
rule extract_untrained_features:
    input:
        data="results/{study}/data/manifest.json",
    output:
        "results/{study}/runs/{run}/features.safetensors",
    log:
        "logs/{study}/{run}/extract_features.log",
    wildcard_constraints:
        run="|".join(map(re.escape, CONTROLS)),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=0,
    params:
        run=coordinates,
        config=untrained_hash,
    message:
        "{wildcards.run}: features"
    shell:
        "hirl features {ASKED} {params.run} --data $(dirname {input.data}) --out {output} > {log} 2>&1"


rule evaluate:
    input:
        features="results/{study}/runs/{run}/features.safetensors",
    output:
        "results/{study}/runs/{run}/evaluation/{task}.json",
    log:
        "logs/{study}/{run}/evaluate_{task}.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=0,
    params:
        run=coordinates,
        config=task_hash,
    message:
        "{wildcards.run}: {wildcards.task}"
    shell:
        """
        hirl evaluate {wildcards.task} {ASKED} {params.run} --features {input.features} --out {output} >{log} 2>&1
        """


# How well the discovered hierarchy agrees with the true one, level by level.
rule evaluate_hierarchy:
    input:
        features="results/{study}/runs/{run}/features.safetensors",
        tree="results/{study}/runs/{run}/tree.safetensors",
    output:
        "results/{study}/runs/{run}/evaluation/hierarchy.json",
    log:
        "logs/{study}/{run}/evaluate_hierarchy.log",
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        run=coordinates,
    message:
        "{wildcards.run}: hierarchy"
    shell:
        """
        hirl evaluate hierarchy {ASKED} {params.run} --features {input.features} --snapshot {input.tree} \
            --out {output} >{log} 2>&1
        """

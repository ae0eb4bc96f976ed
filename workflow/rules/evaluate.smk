"""Downstream evaluation (paper, section 5): protocols on frozen features, and protocols that train the network on."""

FROZEN = [task for task in study.tasks if task in get_args(FrozenTask) and task != "hierarchy"]
TRAINED = [task for task in study.tasks if task in get_args(TrainedTask)]


rule extract_features:
    input:
        data="results/{study}/data/manifest.json",
        weights=weights,
    output:
        "results/{study}/runs/{run}/features.safetensors",
    log:
        "logs/{study}/{run}/extract_features.log",
    threads: 1
    resources:
        mem_mb=MEMORY,
        runtime=120,
        gpu=0,
    params:
        network=network,
        config=network_hash,
    message:
        "{wildcards.run}: features"
    shell:
        """
        hirl features {ASKED} {params.network} --data $(dirname {input.data}) --out {output} --ranks {resources.gpu} \
            >{log} 2>&1
        """


if FROZEN:

    rule evaluate_frozen:
        input:
            features="results/{study}/runs/{run}/features.safetensors",
        output:
            evaluations=expand("results/{{study}}/runs/{{run}}/evaluation/{task}.json", task=FROZEN),
        log:
            "logs/{study}/{run}/evaluate_frozen.log",
        threads: 1
        resources:
            mem_mb=MEMORY,
            runtime=120,
            gpu=0,
        params:
            tasks=FROZEN,
            run=coordinates,
            config=settings_hash(FROZEN),
        message:
            "{wildcards.run}: {params.tasks}"
        shell:
            """
            hirl evaluate {params.tasks} {ASKED} {params.run} --features {input.features} --out $(dirname {output.evaluations[0]}) \
                >{log} 2>&1
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
        mem_mb=MEMORY,
        runtime=60,
    params:
        run=coordinates,
    message:
        "{wildcards.run}: hierarchy"
    shell:
        """
        hirl evaluate hierarchy {ASKED} {params.run} --features {input.features} --snapshot {input.tree} \
            --out $(dirname {output}) >{log} 2>&1
        """


# Trainings of minutes or days are jobs of their own; of seconds, less than a job takes to start, they share one per run.
JOBS = {"evaluate_trained": TRAINED} if DATA.storage == "memory" else {f"evaluate_{task}": [task] for task in TRAINED}

for job, tasks in JOBS.items():
    if not tasks:
        continue

    rule:
        name:
            job.replace("-", "_")
        input:
            data="results/{study}/data/manifest.json",
            further=looked_at(tasks),
            weights=weights,
        output:
            evaluations=expand("results/{{study}}/runs/{{run}}/evaluation/{task}.json", task=tasks),
        log:
            f"logs/{{study}}/{{run}}/{job}.log",
        threads: 1
        resources:
            mem_mb=MEMORY,
            runtime=1440,
            gpu=0,
        params:
            tasks=tasks,
            network=network,
            config=settings_hash(tasks),
            scratch=f"scratch/{STUDY}",
        message:
            "{wildcards.run}: {params.tasks}"
        shell:
            """
            hirl evaluate {params.tasks} {ASKED} {params.network} --data $(dirname {input.data}) \
                --transfer results/{wildcards.study}/transfer --scenes results/{wildcards.study}/scenes \
                --scratch {params.scratch} --out $(dirname {output.evaluations[0]}) --ranks {resources.gpu} >{log} 2>&1
            """

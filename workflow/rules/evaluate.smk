"""Downstream evaluation (paper, section 5): protocols on frozen features, and protocols that train from the backbone."""

ASKED_TASKS = [TASKS[name] for name in study.config.tasks]
FROZEN = [task.name for task in ASKED_TASKS if task.protocol == "frozen" and not task.reads_tree]
TRAINED = [task.name for task in ASKED_TASKS if task.protocol == "trained"]


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
        "{wildcards.run}: extract features"
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
            "{wildcards.run}: evaluate {params.tasks}"
        shell:
            """
            hirl evaluate {params.tasks} {ASKED} {params.run} --features {input.features} --out $(dirname {output.evaluations[0]}) \
                >{log} 2>&1
            """


# Agreement of the discovered hierarchy with the true one, level by level.
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
        "{wildcards.run}: compare the semantic tree with the true classes"
    shell:
        """
        hirl evaluate hierarchy {ASKED} {params.run} --features {input.features} --snapshot {input.tree} \
            --out $(dirname {output}) >{log} 2>&1
        """


# Trainings of minutes or days are jobs of their own. Trainings of seconds, less than a job needs to start, share one job
# per run.
JOBS = {"evaluate_trained": TRAINED} if DATA.storage == "memory" else {f"evaluate_{task}": [task] for task in TRAINED}

for job, tasks in JOBS.items():
    if not tasks:
        continue

    rule:
        name:
            job.replace("-", "_")
        input:
            data="results/{study}/data/manifest.json",
            further=extra_inputs(tasks),
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
            "{wildcards.run}: evaluate {params.tasks}"
        shell:
            """
            hirl evaluate {params.tasks} {ASKED} {params.network} --data $(dirname {input.data}) \
                --transfer results/{wildcards.study}/transfer --scenes results/{wildcards.study}/scenes \
                --scratch {params.scratch} --out $(dirname {output.evaluations[0]}) --ranks {resources.gpu} >{log} 2>&1
            """

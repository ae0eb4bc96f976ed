"""Downstream evaluation (paper, section 5): protocols on frozen features, and protocols that train from the backbone."""

ASKED_TASKS = [TASKS[name] for name in study.config.tasks]
OF_TREES = [task.name for task in ASKED_TASKS if task.reads_tree]
OF_NETWORKS = [task.name for task in ASKED_TASKS if not task.reads_tree]
FROZEN = [name for name in OF_NETWORKS if TASKS[name].protocol == "frozen"]
TRAINED = [name for name in OF_NETWORKS if TASKS[name].protocol == "trained"]

if DATA.storage == "memory":

    # Evaluations of seconds, which a job of their own would double, are one job per run.
    rule evaluate:
        input:
            data="results/{study}/data/manifest.json",
            further=extra_inputs(OF_NETWORKS),
            weights=weights,
        output:
            features="results/{study}/runs/{run}/features.safetensors",
            evaluations=expand("results/{{study}}/runs/{{run}}/evaluation/{task}.json", task=OF_NETWORKS),
        log:
            "logs/{study}/{run}/evaluate.log",
        wildcard_constraints:
            run=one_of(set(ALL_RUNS) - set(HIRL_RUNS)),
        threads: 1
        resources:
            mem_mb=MEMORY,
            runtime=1440,
            gpu=0,
        params:
            tasks=OF_NETWORKS,
            network=network,
            config=settings_hash(OF_NETWORKS),
            scratch=f"scratch/{STUDY}",
        message:
            "{wildcards.run}: evaluate {params.tasks}"
        shell:
            """
            hirl evaluate {params.tasks:q} {ASKED} {params.network} --data "$(dirname {input.data:q})" \
                --transfer results/{wildcards.study:q}/transfer --scenes results/{wildcards.study:q}/scenes \
                --save-features {output.features:q} --scratch {params.scratch:q} --ranks {resources.gpu} \
                --out "$(dirname {output.features:q})/evaluation" >{log:q} 2>&1
            """

    if HIRL_RUNS:

        # A HIRL run has a tree besides, which is compared with the true classes, level by level.
        use rule evaluate as evaluate_hirl with:
            input:
                data="results/{study}/data/manifest.json",
                further=extra_inputs(OF_NETWORKS),
                weights=weights,
                tree="results/{study}/runs/{run}/tree.safetensors",
            output:
                features="results/{study}/runs/{run}/features.safetensors",
                evaluations=expand(
                    "results/{{study}}/runs/{{run}}/evaluation/{task}.json", task=[*OF_NETWORKS, *OF_TREES]
                ),
            wildcard_constraints:
                run=one_of(HIRL_RUNS),
            params:
                tasks=[*OF_NETWORKS, *OF_TREES],
                network=network_and_tree,
                config=settings_hash(OF_NETWORKS),
                scratch=f"scratch/{STUDY}",

else:

    # Evaluations of minutes or days are jobs of their own.
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
            hirl features {ASKED} {params.network} --data "$(dirname {input.data:q})" --out {output:q} \
                --ranks {resources.gpu} >{log:q} 2>&1
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
                hirl evaluate {params.tasks:q} {ASKED} {params.run} --features {input.features:q} \
                    --out "$(dirname {output.evaluations[0]:q})" >{log:q} 2>&1
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
            hirl evaluate hierarchy {ASKED} {params.run} --features {input.features:q} --snapshot {input.tree:q} \
                --out "$(dirname {output:q})" >{log:q} 2>&1
            """

    for task in TRAINED:

        rule:
            name:
                f"evaluate_{TASKS[task].settings}"
            input:
                data="results/{study}/data/manifest.json",
                further=extra_inputs([task]),
                weights=weights,
            output:
                f"results/{{study}}/runs/{{run}}/evaluation/{task}.json",
            log:
                f"logs/{{study}}/{{run}}/evaluate_{task}.log",
            threads: 1
            resources:
                mem_mb=MEMORY,
                runtime=1440,
                gpu=0,
            params:
                task=task,
                network=network,
                config=settings_hash([task]),
                scratch=f"scratch/{STUDY}",
            message:
                "{wildcards.run}: evaluate {params.task}"
            shell:
                """
                hirl evaluate {params.task:q} {ASKED} {params.network} --data "$(dirname {input.data:q})" \
                    --transfer results/{wildcards.study:q}/transfer --scenes results/{wildcards.study:q}/scenes \
                    --scratch {params.scratch:q} --out "$(dirname {output:q})" --ranks {resources.gpu} >{log:q} 2>&1
                """

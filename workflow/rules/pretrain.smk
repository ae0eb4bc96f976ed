"""Pretraining (paper, section 4): each method as its authors made it, and under HIRL."""


# The resume folder is undeclared and named by the configuration's hash: a killed or failed training continues from it, a
# changed value makes the run stale and starts it afresh.
rule pretrain_baseline:
    input:
        data=f"results/{STUDY}/data/manifest.json",
        tokenizer=tokenizer,
    output:
        weights=f"results/{STUDY}/runs/{{run}}/weights.safetensors",
        history=f"results/{STUDY}/runs/{{run}}/history.csv",
        config=f"results/{STUDY}/runs/{{run}}/config.json",
    log:
        f"logs/{STUDY}/{{run}}/pretrain.log",
    wildcard_constraints:
        run=r".+-baseline-s\d+",
    priority: 1
    threads: 1
    resources:
        mem_mb=MEMORY,
        runtime=1440,
        gpu=0,
    params:
        run=with_tokenizer,
        scratch=resume_folder,
    message:
        "{wildcards.run}: pretraining"
    shell:
        """
        hirl pretrain {ASKED} {params.run} --data $(dirname {input.data}) --out $(dirname {output.weights}) \
            --scratch {params.scratch} --ranks {resources.gpu} 2>&1 | tee {log}
        """


# The longer trainings start first. The last tree is what the hierarchy is measured on.
use rule pretrain_baseline as pretrain_hirl with:
    output:
        weights=f"results/{STUDY}/runs/{{run}}/weights.safetensors",
        history=f"results/{STUDY}/runs/{{run}}/history.csv",
        config=f"results/{STUDY}/runs/{{run}}/config.json",
        tree=f"results/{STUDY}/runs/{{run}}/tree.safetensors",
    wildcard_constraints:
        run=r".+-hirl-s\d+",
    priority: 2


# What BEiT predicts: a tokenizer is trained once for all of its runs, where --config names none.
TOKENIZED = next((run for run in RUNS.values() if run.uses_tokenizer), None)

if TOKENIZED and "tokenizer" not in config:

    rule train_tokenizer:
        input:
            data=f"results/{STUDY}/data/manifest.json",
        output:
            TOKENIZER,
        log:
            f"logs/{STUDY}/train_tokenizer.log",
        priority: 3
        threads: 1
        resources:
            mem_mb=MEMORY,
            runtime=1440,
            gpu=0,
        params:
            run=shlex.join(["--method", TOKENIZED.method, "--variant", "baseline", "--seed", str(TOKENIZED.seed)]),
            scratch=f"scratch/{STUDY}/tokenizer-{digest([TOKENIZED.model.tokenizer.model_dump(mode='json'), TOKENIZED.views.model_dump(mode='json')])}",
        message:
            "tokenizer: training"
        shell:
            """
            hirl tokenizer {ASKED} {params.run} --data $(dirname {input.data}) --out {output} --scratch {params.scratch} \
                --ranks {resources.gpu} >{log} 2>&1
            """

"""Pretraining (paper, section 4): each method as its authors published it, and under HIRL."""


# A training keeps its state in scratch/, in a folder named by all that decides its result, which is no declared output:
# an interrupted training resumes from it; a changed value, image or tokenizer starts a new one.
rule pretrain_baseline:
    input:
        data=f"results/{STUDY}/data/manifest.json",
        tokenizer=tokenizer,
    output:
        weights=f"results/{STUDY}/runs/{{run}}/weights.safetensors",
        history=f"results/{STUDY}/runs/{{run}}/history.csv",
        config=f"results/{STUDY}/runs/{{run}}/config.json",
        stems=directory(STEMS),
    log:
        f"logs/{STUDY}/{{run}}/pretrain.log",
    wildcard_constraints:
        run=one_of(ASKED_BASELINES),
    priority: 2
    threads: 1
    resources:
        mem_mb=MEMORY,
        runtime=1440,
        gpu=0,
    params:
        run=run_options,
        config=training_hash,
        scratch=f"scratch/{STUDY}",
    message:
        "{wildcards.run}: pretrain"
    shell:
        """
        hirl pretrain {ASKED} {params.run} --data "$(dirname {input.data:q})" --out "$(dirname {output.weights:q})" \
            --scratch {params.scratch:q} --ranks {resources.gpu} 2>&1 | tee -i {log:q}
        """


# A HIRL run goes on from its baseline's state at the start epoch, so baselines start first. The state is no `ancient`
# input: Snakemake would then not see a change of the run's own params in a call that also trains its baseline.
# The last tree is an output: it is compared with the true classes.
use rule pretrain_baseline as pretrain_hirl with:
    input:
        data=f"results/{STUDY}/data/manifest.json",
        tokenizer=tokenizer,
        stems=stems,
    output:
        weights=f"results/{STUDY}/runs/{{run}}/weights.safetensors",
        history=f"results/{STUDY}/runs/{{run}}/history.csv",
        config=f"results/{STUDY}/runs/{{run}}/config.json",
        tree=f"results/{STUDY}/runs/{{run}}/tree.safetensors",
    wildcard_constraints:
        run=one_of(HIRL_RUNS),
    priority: 1


if OTHER_BASELINES:

    # Without its baseline a HIRL run finds no state and trains all epochs. Inputs and params are those of
    # pretrain_baseline, so that a finished study stays finished when HIRL alone is asked for.
    rule no_stems:
        input:
            data=f"results/{STUDY}/data/manifest.json",
            tokenizer=tokenizer,
        output:
            stems=directory(STEMS),
        wildcard_constraints:
            run=one_of(OTHER_BASELINES),
        localrule: True
        params:
            run=run_options,
            config=training_hash,
            scratch=f"scratch/{STUDY}",
        message:
            "{wildcards.run}: not trained, so its HIRL runs train all epochs"
        shell:
            "mkdir -p {output.stems:q}"


# BEiT predicts the tokens of a tokenizer: one, of seed 0, is trained for all of its runs, unless --config names one.
TOKENIZED = next((run for run in RUNS.values() if run.uses_tokenizer), None)

if TOKENIZED and "tokenizer" not in config:
    DECIDING = (TOKENIZED.model.tokenizer, TOKENIZED.views)
    TOKENIZER_HASH = digest([section.model_dump(mode="json") for section in DECIDING])

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
            run=shlex.join(RunName(TOKENIZED.method, "baseline", 0).arguments),
            config=TOKENIZER_HASH,
            scratch=f"scratch/{STUDY}",
        message:
            "tokenizer: train"
        shell:
            """
            hirl tokenizer {ASKED} {params.run} --data "$(dirname {input.data:q})" --out {output:q} \
                --scratch {params.scratch:q} --ranks {resources.gpu} >{log:q} 2>&1
            """

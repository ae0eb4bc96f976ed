"""Publish weights: `snakemake publish` shares a finished study, `--config pretrained=weights` evaluates shared weights.

Shared weights are rounded to half precision, and the shared numbers are measured on the rounded weights: the study
`NAME-published` is the study NAME with its weights rounded (by whoever trained) or fetched (by anyone else).
"""

PUBLISHED = f"results/{STUDY}-published"
TRAINED, ROUNDED, SHARED = map(shlex.quote, (f"results/{STUDY}", PUBLISHED, f"weights/{STUDY}"))
PUBLISHED_RUNS = [
    *expand(f"{PUBLISHED}/runs/{{run}}/{{file}}", run=RUNS, file=["weights.safetensors", "history.csv", "config.json"]),
    *expand(f"{PUBLISHED}/runs/{{run}}/tree.safetensors", run=HIRL_RUNS),
]

if "pretrained" in config:

    rule fetch_weights:
        input:
            "weights.dvc",
        output:
            PUBLISHED_RUNS,
        log:
            f"logs/{STUDY}-published/fetch_weights.log",
        params:
            runs=list(RUNS),
        message:
            "weights: fetch through DVC and verify"
        shell:
            f"""
            dvc pull {{input:q}} >{{log:q}} 2>&1
            hirl publish unpack --runs {{params.runs:q}} --from {SHARED} --out {ROUNDED} >>{{log:q}} 2>&1
            """

else:

    rule round_weights:
        input:
            weights=expand(f"results/{STUDY}/runs/{{run}}/weights.safetensors", run=RUNS),
            trees=expand(f"results/{STUDY}/runs/{{run}}/tree.safetensors", run=HIRL_RUNS),
        output:
            PUBLISHED_RUNS,
        log:
            f"logs/{STUDY}-published/round_weights.log",
        params:
            runs=list(RUNS),
        message:
            "weights: round to half precision"
        shell:
            f"hirl publish round --runs {{params.runs:q}} --from {TRAINED} --out {ROUNDED} > {{log:q}} 2>&1"


# Not part of `all`.
rule publish:
    input:
        f"{PUBLISHED}/summary.csv",
    log:
        f"logs/{STUDY}-published/publish.log",
    params:
        runs=list(RUNS),
    message:
        "weights: add to DVC; then commit weights.dvc and the bundled remote"
    shell:
        f"""
        hirl publish pack --runs {{params.runs:q}} --from {ROUNDED} --out {SHARED} >{{log:q}} 2>&1
        dvc add weights >>{{log:q}} 2>&1
        dvc push weights.dvc >>{{log:q}} 2>&1
        """

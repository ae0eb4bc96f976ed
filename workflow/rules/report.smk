"""One table, the figures, one page to read."""

EVALUATIONS = [
    f"results/{{study}}/runs/{run}/evaluation/{task}.json"
    for run, task in product(ALL_RUNS, study.tasks)
    if task != "hierarchy" or run in HIRL_RUNS
]


rule summarise:
    input:
        evaluations=EVALUATIONS,
        histories=expand("results/{{study}}/runs/{run}/history.csv", run=RUNS),
    output:
        summary=report(
            "results/{study}/summary.csv", category="Table", caption="../report/summary.rst", labels={"format": "CSV"}
        ),
        markdown="results/{study}/table.md",
        latex="results/{study}/table.tex",
    log:
        "logs/{study}/summarise.log",
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        runs=ALL_RUNS,
        tasks=list(study.tasks),
    message:
        "summary: table and figures"
    shell:
        "hirl summarise {ASKED} --results $(dirname {output.summary}) --runs {params.runs} --tasks {params.tasks} > {log} 2>&1"


rule write_report:
    input:
        summary="results/{study}/summary.csv",
        table="results/{study}/table.md",
        trees=expand("results/{{study}}/runs/{run}/tree.safetensors", run=HIRL_RUNS),
    output:
        report("results/{study}/report.html", category="Report", caption="../report/report.rst"),
    log:
        "logs/{study}/write_report.log",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=ALL_RUNS,
    message:
        "report: {output}"
    shell:
        "hirl report {ASKED} --results $(dirname {input.summary}) --runs {params.runs} --out {output} > {log} 2>&1"


# Trainings keep records of their own; MLflow shows them, and losing it loses nothing.
rule sync_tracking:
    input:
        summary="results/{study}/summary.csv",
        report="results/{study}/report.html",
    output:
        touch("results/{study}/tracked"),
    log:
        "logs/{study}/sync_tracking.log",
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        runs=ALL_RUNS,
    message:
        "tracking: all runs in MLflow"
    shell:
        "hirl track sync {ASKED} --results $(dirname {input.summary}) --runs {params.runs} > {log} 2>&1"

"""The summary table, the figures, the report, and the runs in MLflow."""

EVALUATIONS = [
    f"results/{{study}}/runs/{run}/evaluation/{task}.json"
    for run, task in product(ALL_RUNS, study.config.tasks)
    if not TASKS[task].reads_tree or run in HIRL_RUNS
]
# By method: its first HIRL run. The atlases of all variants and seeds would be dozens of megabytes.
ATLASES = {RUNS[run].method: run for run in reversed(HIRL_RUNS)}

ATLAS_PAGE = [f"results/{SHOWN}/atlas.html"] if OF_TREES and HIRL_RUNS else []


# These figures need no evaluation, so they are drawn while evaluations run.
rule draw_figures:
    input:
        data="results/{study}/data/manifest.json",
        histories=expand("results/{{study}}/runs/{run}/history.csv", run=RUNS),
        trees=expand("results/{{study}}/runs/{run}/tree.safetensors", run=HIRL_RUNS),
    output:
        training=report(
            "results/{study}/figures/training.png",
            category="Figures",
            labels={"Figure": "Training curves"},
            caption="../report/training.rst",
        ),
        hierarchy=report(
            expand("results/{{study}}/figures/{figure}.png", figure=["hierarchy"] if HIRL_RUNS else []),
            category="Figures",
            labels={"Figure": "Semantic trees by epoch"},
            caption="../report/hierarchy.rst",
        ),
        atlases=[
            report(
                f"results/{{study}}/figures/atlas-{run}.png",
                category="Atlases",
                labels={"Method": method_title(method)},
                caption="../report/atlas.rst",
            )
            for method, run in ATLASES.items()
        ],
    log:
        "logs/{study}/draw_figures.log",
    priority: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=ALL_RUNS,
    message:
        "figures: draw trainings and semantic trees"
    shell:
        "hirl figures {ASKED} --results results/{wildcards.study:q} --runs {params.runs:q} > {log:q} 2>&1"


# One page per study, on which all trees can be walked. It reads the features that evaluations keep.
rule draw_atlas:
    input:
        data="results/{study}/data/manifest.json",
        trees=expand("results/{{study}}/runs/{run}/tree.safetensors", run=HIRL_RUNS),
        features=expand("results/{{study}}/runs/{run}/features.safetensors", run=[*HIRL_RUNS, *ASKED_BASELINES]),
    output:
        "results/{study}/atlas.html",
    log:
        "logs/{study}/draw_atlas.log",
    resources:
        mem_mb=MEMORY,
        runtime=120,
    params:
        runs=HIRL_RUNS,
    message:
        "atlas: draw the page of all trees"
    shell:
        """
        hirl study-atlas {ASKED} --results "$(dirname {output:q})" --runs {params.runs:q} --out {output:q} >{log:q} 2>&1
        """


rule summarise:
    input:
        data="results/{study}/data/manifest.json",
        figures=rules.draw_figures.output,
        atlas=["results/{study}/atlas.html"] if ATLAS_PAGE else [],
        evaluations=EVALUATIONS,
    output:
        summary=report(
            "results/{study}/summary.csv",
            category="Tables",
            labels={"Table": "Every number"},
            caption="../report/summary.rst",
        ),
        table=report(
            "results/{study}/table.csv",
            category="Tables",
            labels={"Table": "Baseline and HIRL by method"},
            caption="../report/table.rst",
        ),
        shown="results/{study}/table.txt",
        markdown="results/{study}/table.md",
        latex="results/{study}/table.tex",
        paper=report(
            "results/{study}/paper.csv",
            category="Tables",
            labels={"Table": "The paper's numbers beside ours"},
            caption="../report/paper.rst",
        ),
        paper_latex="results/{study}/table-paper.tex",
        gains=report(
            "results/{study}/figures/gains.png",
            category="Figures",
            labels={"Figure": "From baseline to HIRL"},
            caption="../report/gains.rst",
        ),
        gate=report(
            expand("results/{{study}}/figures/{figure}.png", figure=["gate"] if study.config.compares_trees else []),
            category="Figures",
            labels={"Figure": "Gain by tree agreement"},
            caption="../report/gate.rst",
        ),
        page=report(
            "results/{study}/report.html",
            category="Report",
            labels={"Page": "The whole study"},
            caption="../report/report.rst",
        ),
    log:
        "logs/{study}/summarise.log",
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        runs=ALL_RUNS,
        tasks=list(study.config.tasks),
    message:
        "summary: write tables, gains and report"
    shell:
        """
        hirl summarise {ASKED} --results "$(dirname {output.summary:q})" --runs {params.runs:q} --tasks {params.tasks:q} \
            --report {output.page:q} >{output.shown:q} 2>{log:q}
        """


# Each training keeps its own record; MLflow is a view of them and can be rebuilt. This job does not wait for tables and
# report: `make mlflow` adds them.
rule sync_tracking:
    input:
        evaluations=EVALUATIONS,
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
        "tracking: replay all runs into MLflow"
    shell:
        'hirl track sync --results "$(dirname {output:q})" --runs {params.runs:q} > {log:q} 2>&1'

"""Images in: decoded once, read by every job."""

SPLIT_FORMAT = "safetensors" if DATA.storage == "memory" else "csv"


# The demo's pictures come with the repository, through DVC; altered files end here.
rule fetch_data:
    input:
        "data.dvc",
    output:
        touch("scratch/data.fetched"),
    log:
        "logs/fetch_data.log",
    message:
        "data: the taxonomy, from the bundled DVC remote"
    shell:
        """
        dvc pull {input} >{log} 2>&1
        dvc status {input} >>{log} 2>&1
        dvc status --quiet {input}
        """


rule prepare_data:
    input:
        [] if DATA.name != "taxonomy" or "data_root" in config else rules.fetch_data.output,
    output:
        manifest="results/{study}/data/manifest.json",
        train=f"results/{{study}}/data/train.{SPLIT_FORMAT}",
        validation=f"results/{{study}}/data/validation.{SPLIT_FORMAT}",
    log:
        "logs/{study}/prepare_data.log",
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=digest(DATA.model_dump(mode="json")),
        root=shlex.join(["--data-root", config["data_root"]] if "data_root" in config else []),
    message:
        f"data: {DATA.name}, decoded and split"
    shell:
        "hirl data prepare {ASKED} {params.root} --out $(dirname {output.manifest}) > {log} 2>&1"

"""Images: decoded once, read by every job."""

SPLIT_FORMAT = "safetensors" if DATA.storage == "memory" else "csv"


# The demo's images come with the repository, through DVC, which refuses altered files.
rule fetch_data:
    input:
        "data.dvc",
    output:
        touch("scratch/data.fetched"),
    log:
        "logs/fetch_data.log",
    message:
        "data: fetch the taxonomy from the bundled DVC remote"
    shell:
        """
        dvc pull {input:q} >{log:q} 2>&1
        dvc status {input:q} >>{log:q} 2>&1
        dvc status --quiet {input:q}
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
        mem_mb=MEMORY,
        runtime=60,
    params:
        config=digest(DATA.model_dump(mode="json", exclude={"label_lists"})),
        images=images("data_root"),
    message:
        f"data: decode and split {DATA.name}"
    shell:
        'hirl data prepare {ASKED} {params.images} --out "$(dirname {output.manifest:q})" > {log:q} 2>&1'


# The transfer task trains on another data set.
use rule prepare_data as prepare_transfer with:
    input:
        [],
    output:
        manifest="results/{study}/transfer/manifest.json",
    log:
        "logs/{study}/prepare_transfer.log",
    params:
        config=digest(ANY_RUN.transfer_data.model_dump(mode="json")),
        images=f"--transfer {images('transfer_root')}",
    message:
        f"data: decode and split {ANY_RUN.transfer_data.name} for transfer"


# Detection trains on scenes with boxes and masks.
rule prepare_scenes:
    output:
        manifest="results/{study}/scenes/manifest.json",
    log:
        "logs/{study}/prepare_scenes.log",
    resources:
        mem_mb=MEMORY,
        runtime=60,
    params:
        config=digest(ANY_RUN.scenes.model_dump(mode="json")),
        images=images("scenes_root"),
    message:
        f"data: prepare scenes of {ANY_RUN.scenes.name} with boxes and masks"
    shell:
        'hirl data scenes {ASKED} {params.images} --out "$(dirname {output.manifest:q})" > {log:q} 2>&1'


# The images that keep their labels: drawn once, balanced over classes, or listed by the user. All percentages are drawn,
# whether or not a task uses them: a further task then changes no file of another.
rule choose_labels:
    input:
        data="results/{study}/data/manifest.json",
        given=list(DATA.label_lists.values()),
    output:
        expand("results/{{study}}/data/labels-{percent}.csv", percent=LABEL_PERCENTS),
    log:
        "logs/{study}/choose_labels.log",
    message:
        "data: choose the images that keep their labels"
    shell:
        'hirl data labels {ASKED} --data "$(dirname {input.data:q})" > {log:q} 2>&1'

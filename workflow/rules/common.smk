"""What was asked for, resolved once; every rule reads the names defined here."""

import os
import re
import shlex
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from hirl.config import (
    FrozenTask,
    TrainedTask,
    digest,
    load_study,
    parse_override,
    resolve,
    resolve_control,
    study_name,
)

# Every job calls this environment's hirl and dvc, and nothing phones home.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
)


def check_config():
    """Holds --config to its schema, and fills in the defaults."""
    schema = yaml.safe_load(Path(workflow.source_path("../schemas/config.schema.yaml")).read_text())
    if error := best_match(Draft202012Validator(schema).iter_errors(config)):
        raise ValueError(
            f"--config {' '.join(error.path)}: {error.message}; known keys: {', '.join(schema['properties'])}"
        )
    config.setdefault("study", schema["properties"]["study"]["default"])


def chosen_study():
    """The study, narrowed to the methods, variants, seeds and tasks that --config names."""
    narrowed = [key for key in ("methods", "variants", "seeds", "tasks") if key in config]
    return load_study(
        config["study"], {key: [yaml.safe_load(value) for value in str(config[key]).split(",")] for key in narrowed}
    )


def resolved_runs():
    """Every run of the study, by its name."""
    runs = [
        resolve(config["study"], method, variant, seed, OVERRIDES)
        for method, variant, seed in product(study.methods, study.variants, study.seeds)
    ]
    return {run.name: run for run in runs}


def resolved_controls():
    """One untrained network per backbone, by its run's name."""
    backbones = {run.backbone.name: None for run in RUNS.values()}
    return {f"untrained-{name}-s0": resolve_control(config["study"], name, OVERRIDES) for name in backbones}


def check_roots():
    """Images in a folder of the user's lie where only the user knows."""
    yours = {"folder", "imagenet", "places205", "coco"}
    asked = {
        "data_root": DATA.name in yours,
        "transfer_root": ANY_RUN.transfer_data.name in yours and "transfer" in study.tasks,
        "scenes_root": ANY_RUN.scenes.name in yours and "detection" in study.tasks,
    }
    for key in (key for key in asked if asked[key] and key not in config):
        raise ValueError(f"study {STUDY} reads images from a folder of yours: add {key}=FOLDER to --config")


# A user's mistake is one line, without a traceback.
try:
    check_config()
    SETTINGS = shlex.split(config.get("set", ""))
    OVERRIDES = dict(map(parse_override, SETTINGS))
    study = chosen_study()
    RUNS = resolved_runs()
    STUDY = study_name(config["study"])
    CONTROLS = resolved_controls()
    ANY_RUN = next(iter(RUNS.values()))
    DATA = ANY_RUN.data
    check_roots()
except ValueError as error:
    sys.exit(str(error))

ALL_RUNS = [*RUNS, *CONTROLS]
MEMORY = 4000 if DATA.storage == "memory" else 64000  # MB, of a job that holds images, or features of all of them
TOKENIZER = config.get("tokenizer", f"results/{STUDY}/tokenizer.safetensors")
HIRL_RUNS = [name for name, run in RUNS.items() if run.variant == "hirl"]
SHOWN = f"{STUDY}-published" if "pretrained" in config else STUDY  # the results folder that is asked for

# Which study, in the command line's words. Not among the params: a run is stale when a value of its own has changed.
ASKED = shlex.join(["--study", config["study"], *(word for setting in SETTINGS for word in ("--set", setting))])


wildcard_constraints:
    study=f"{STUDY}(-published)?",  # trained here, or the published weights
    run="|".join(map(re.escape, ALL_RUNS)),
    percent="1|10",


def coordinates(wildcards):
    method, _, rest = wildcards.run.partition("-")
    variant, _, seed = rest.rpartition("-s")
    return f"--method {method} --variant {variant} --seed {seed}"


def resume_folder(wildcards):
    run = RUNS[wildcards.run]
    predicted = f"-{digest(TOKENIZER)}" if run.uses_tokenizer and "tokenizer" in config else ""
    return f"scratch/{STUDY}/{run.name}-{run.pretraining_hash}{predicted}"


def weights(wildcards):
    """The run's weights; an untrained control has none."""
    return [] if wildcards.run in CONTROLS else f"results/{wildcards.study}/runs/{wildcards.run}/weights.safetensors"


def network(wildcards):
    """The network to evaluate, in the command line's words."""
    return " ".join([coordinates(wildcards), *(["--weights", path] if (path := weights(wildcards)) else [])])


def network_hash(wildcards):
    """What decides an untrained control; a run's weights are an input."""
    if wildcards.run not in CONTROLS:
        return ""
    control = CONTROLS[wildcards.run]
    return digest([control.backbone.model_dump(mode="json"), control.views.global_size])


def settings_hash(tasks):
    """Of a run, what its evaluations depend on beside its inputs."""
    return lambda wildcards: [
        network_hash(wildcards),
        *((RUNS | CONTROLS)[wildcards.run].task_hash(task) for task in tasks),
    ]


def tokenizer(wildcards):
    """The tokenizer, for the methods that predict one's tokens."""
    return TOKENIZER if RUNS[wildcards.run].uses_tokenizer else []


def with_tokenizer(wildcards):
    """The run to train, in the command line's words."""
    return " ".join([coordinates(wildcards), *(["--tokenizer", path] if (path := tokenizer(wildcards)) else [])])


def looked_at(tasks):
    """The images and labels that some trainings need beside the study's own."""
    needed = {
        "semisup-1": "data/labels-1.csv",
        "semisup-10": "data/labels-10.csv",
        "transfer": "transfer/manifest.json",
        "detection": "scenes/manifest.json",
    }
    return [f"results/{{study}}/{needed[task]}" for task in tasks if task in needed]


def root(key):
    return shlex.join(["--data-root", config[key]] if key in config else [])


def print_table():
    table = Path(f"results/{SHOWN}/table.txt")
    if table.is_file():
        print(f"\n{table.read_text()}\nReport: results/{SHOWN}/report.html")

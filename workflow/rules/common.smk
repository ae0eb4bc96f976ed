"""Read --config once and define the names that every rule uses."""

import os
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from hirl.config import LABEL_PERCENTS, TASKS, RunName, digest, load_study, parse_override, parse_yaml
from hirl.reporting.titles import method_title

# Every job calls this environment's hirl and dvc, without telemetry.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
)


def check_config():
    """Check --config against its schema, and fill in the defaults."""
    schema = yaml.safe_load(Path(workflow.source_path("../schemas/config.schema.yaml")).read_text())
    if error := best_match(Draft202012Validator(schema).iter_errors(config)):
        raise ValueError(
            f"--config {' '.join(error.path)}: {error.message}; known keys: {', '.join(schema['properties'])}"
        )
    config.setdefault("study", schema["properties"]["study"]["default"])


def chosen_study():
    """Load the study, narrowed to the methods, variants, seeds and tasks that --config names."""
    narrowed = [key for key in ("methods", "variants", "seeds", "tasks") if key in config]
    return load_study(config["study"], {key: listed(key) for key in narrowed})


def listed(key):
    """Return the values that --config gives under a key, separated by commas."""
    try:
        return [parse_yaml(value) for value in str(config[key]).split(",")]
    except ValueError as error:
        raise ValueError(f"--config {key}={config[key]}: {error}") from error


def resolved(run):
    """Return the configuration of a run; a control has that of the first method with its backbone."""
    if run.is_control:
        return study.resolve_control(run.backbone, run.seed, OVERRIDES)
    return study.resolve(run.method, run.variant, run.seed, OVERRIDES)


def check_roots():
    """Check that --config gives the folder of every data set that only the user has."""
    yours = {"folder", "imagenet", "places205", "coco"}
    folders = {TASKS[task].folder for task in study.config.tasks} | {"data"}
    sources = {"data": ANY_RUN.data, "transfer": ANY_RUN.transfer_data, "scenes": ANY_RUN.scenes}
    for folder in sorted(folders):
        if sources[folder].name in yours and f"{folder}_root" not in config:
            raise ValueError(
                f"study {study.name} reads images from a folder of yours: add {folder}_root=FOLDER to --config"
            )


# A user's mistake is one line, without a traceback.
try:
    check_config()
    SETTINGS = shlex.split(config.get("set", ""))
    OVERRIDES = dict(map(parse_override, SETTINGS))
    study = chosen_study()
    STUDY = study.name
    NAMES = study.run_names(OVERRIDES)
    RUNS = {str(run): resolved(run) for run in NAMES if not run.is_control}
    CONTROLS = {str(run): resolved(run) for run in NAMES if run.is_control}
    ANY_RUN = next(iter(RUNS.values()))
    DATA = ANY_RUN.data
    check_roots()
except ValueError as error:
    sys.exit(str(error))

ALL_RUNS = [*RUNS, *CONTROLS]
MEMORY = 4000 if DATA.storage == "memory" else 64000  # MB, for a job that holds all images or their features
TOKENIZER = config.get("tokenizer", f"results/{STUDY}/tokenizer.safetensors")
TRAININGS = {run.baseline.name: run.baseline for run in RUNS.values()} | RUNS  # baselines that are not asked for, too
STEMS = f"results/{STUDY}/runs/{{run}}/stems"  # of a baseline: its state at the epochs at which HIRL starts
ASKED_BASELINES = [name for name, run in RUNS.items() if not run.hierarchy]
OTHER_BASELINES = [name for name in TRAININGS if name not in RUNS]
HIRL_RUNS = [name for name, run in RUNS.items() if run.hierarchy]  # these have a tree
SHOWN = f"{STUDY}-published" if "pretrained" in config else STUDY  # the results folder that rule all makes

# The study, as options of `hirl`. Not in params: a run becomes stale only when one of its own values changes.
ASKED = shlex.join(["--study", config["study"], *(word for setting in SETTINGS for word in ("--set", setting))])


def one_of(runs):
    """Return a regular expression that matches the names of these runs alone; without runs it matches nothing."""
    return "|".join(map(re.escape, sorted(runs))) or "(?!)"


wildcard_constraints:
    study=f"{re.escape(STUDY)}(-published)?",  # trained here, or the published weights
    run=one_of(ALL_RUNS),


def coordinates(wildcards):
    """Return the run, as options of `hirl`."""
    return shlex.join(RunName.parse(wildcards.run).arguments)


def training_hash(wildcards):
    """Return the hash of what decides a training's result beside its inputs."""
    run = TRAININGS[wildcards.run]
    return run.pretraining_hash + (digest(TOKENIZER) if run.uses_tokenizer and "tokenizer" in config else "")


def weights(wildcards):
    """Return the run's weights; an untrained control has none."""
    return [] if wildcards.run in CONTROLS else f"results/{wildcards.study}/runs/{wildcards.run}/weights.safetensors"


def network(wildcards):
    """Return the network to evaluate, as options of `hirl`."""
    path = weights(wildcards)
    return f"{coordinates(wildcards)} --weights {shlex.quote(path)}" if path else coordinates(wildcards)


def network_and_tree(wildcards):
    """Return the network to evaluate and its tree, as options of `hirl`."""
    tree = f"results/{wildcards.study}/runs/{wildcards.run}/tree.safetensors"
    return f"{network(wildcards)} --snapshot {shlex.quote(tree)}"


def network_hash(wildcards):
    """Return the hash of what decides an untrained control; of other runs the weights are an input."""
    if wildcards.run not in CONTROLS:
        return ""
    control = CONTROLS[wildcards.run]
    return digest([control.backbone.model_dump(mode="json"), control.views.global_size])


def settings_hash(tasks):
    """Return a function of the wildcards: the hashes of all that these tasks depend on beside their inputs."""

    def hashes(wildcards):
        run = (RUNS | CONTROLS)[wildcards.run]
        return [network_hash(wildcards), *(run.task_hash(task) for task in tasks)]

    return hashes


def tokenizer(wildcards):
    """Return the tokenizer of a method that predicts tokens; others have none."""
    return TOKENIZER if TRAININGS[wildcards.run].uses_tokenizer else []


def with_tokenizer(wildcards):
    """Return the run to train, as options of `hirl`."""
    path = tokenizer(wildcards)
    return f"{coordinates(wildcards)} --tokenizer {shlex.quote(path)}" if path else coordinates(wildcards)


def stems(wildcards):
    """Return the folder in which a run's baseline leaves its state; none for a run with trees from the first epoch."""
    run = TRAININGS[wildcards.run]
    return STEMS.format(run=run.baseline.name) if run.stem_epochs or not run.hierarchy else []


def run_options(wildcards):
    """Return the run to train, its tokenizer and its stems, as options of `hirl`."""
    folder = stems(wildcards)
    return f"{with_tokenizer(wildcards)} --stems {shlex.quote(folder)}" if folder else with_tokenizer(wildcards)


def extra_inputs(tasks):
    """Return the images and label lists that tasks need beside the study's own data."""
    return [f"results/{{study}}/{file}" for task in tasks if (file := TASKS[task].extra_input)]


def images(key):
    """Return the folder of images that --config gives under a key, as an option of `hirl`; no option without one."""
    return shlex.join(["--data-root", config[key]] if key in config else [])


def print_table():
    """Print the study's table and where its report is."""
    table = Path(f"results/{SHOWN}/table.txt")
    if table.is_file():
        print(f"\n{table.read_text()}\nReport: results/{SHOWN}/report.html")

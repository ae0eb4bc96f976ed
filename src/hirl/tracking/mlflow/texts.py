"""What runs, experiments and models are called and say about themselves: names, tags, descriptions. Without mlflow."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hirl.config import TASKS, RunName, pretraining_digest
from hirl.config.tasks import GATE, OUTCOMES

KEY = "hirl.key"  # the tag that identifies a run, so that any process finds it again after a kill
CONTENT = "hirl.content"  # the tag with the digest of what was stored; unchanged content is not stored again
NOTE = "mlflow.note.content"  # the description that MLflow shows, in Markdown
VIEW = "results"  # the key of the shared view of an experiment: its trainings, sorted by the headline metric
UNHASHED = ("evaluation", "scenes", "transfer_data", "hash")  # settings of evaluations; these have them as their own
MACHINE = ("images_per_second", "memory_mb", "seconds", "threads")  # MLflow shows them apart, as system metrics


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric_names(kind: str, values: Mapping[str, float]) -> dict[str, float]:
    """Return a record's numbers by the names they have in MLflow, whose charts are grouped by the part before a slash.

    The numbers of clusters of a tree never change: they are a parameter, `hierarchy.num_clusters`.
    """
    if kind == "system":
        return {f"system/{key}": value for key, value in values.items() if key != "sample"}
    known = {key: value for key, value in values.items() if key != "epoch" and value is not None}
    if kind == "metrics":
        return {f"system/{key}" if key in MACHINE else f"train/{key}": value for key, value in known.items()}
    empty = [value for key, value in known.items() if key.startswith("empty_")]
    changing = {key: value for key, value in known.items() if not key.startswith(("clusters_", "empty_"))}
    return {f"snapshot/{key}": value for key, value in changing.items()} | (
        {"snapshot/empty_clusters": sum(empty)} if empty else {}
    )


def headlines(task: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of an evaluation that its training shows too, to two decimals, so that columns can be read.

    They are those that figures draw, and a tree's agreement with the classes.
    """
    shown = [metric.name for metric in TASKS[task].shown if metric.is_headline]
    shown += [name for other, name in GATE if other == task and name not in shown]
    return {headline(task, name): round(metrics[name], 2) for name in shown if name in metrics}


def headline(task: str, name: str) -> str:
    """Return the name of an evaluation's number among the metrics of the training: `eval/knn_top1`."""
    return f"eval/{TASKS[task].settings}_{name}"


BEST = headline(*OUTCOMES[0])  # what runs are sorted by, and what the best model has most of


# --- tags -------------------------------------------------------------------------------------------------------------


def run_tags(run: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a training run; its key holds the run's name and the hash of what decides its weights."""
    config_hash = pretraining_digest({key: value for key, value in config.items() if key != "hash"})
    tags = {key: str(config[key]) for key in ("study", "method", "variant", "seed")}
    tags |= {"backbone": config["backbone"]["name"], "stage": "pretrain", "config_hash": config_hash}
    return {KEY: f"{run}/{config_hash}", **tags, **source("hirl pretrain")}


def control_tags(run: str, result: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of an untrained control, which has no configuration, from one of its evaluations."""
    tags = {key: str(result[key]) for key in ("study", "method", "variant", "backbone", "seed")}
    return {KEY: run, **tags, "stage": "control", **source("hirl evaluate")}


def source(command: str, commit: str | None = None) -> dict[str, str]:
    """Return the tags that MLflow shows as a run's source and user."""
    tags = {"mlflow.source.name": command, "mlflow.source.type": "LOCAL", "mlflow.user": _user()}
    return tags | ({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {})


def _user() -> str:
    """Return the name of who copies the run; a container's number may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


# --- descriptions -----------------------------------------------------------------------------------------------------


def experiment_tags(experiment: str) -> dict[str, str]:
    """Return the tags of an experiment: its kind, its headline metric and the view of its results."""
    return {
        "mlflow.experimentKind": "custom_model_development",  # models that are trained, not traces of language models
        "mlflow.experiment.primaryMetric.name": BEST,
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(shared_view()),
    }


def experiment_note(experiment: str, number: str) -> str:
    """Return the description of an experiment; it starts with a link, since MLflow shows its first line alone.

    Args:
        number: the experiment's id.
    """
    return f"""**[Results of {experiment}, best first]({view_path(number)})**

One run per training: a method as its authors published it (*baseline*), or under HIRL (*hirl*). Its evaluations are \
its children; their headline metrics are its own, `eval/...`. To compare baseline with HIRL, open the results, tick \
both runs and press *Compare*. The run `report` holds the tables, the figures and the report."""


def shared_view() -> dict[str, Any]:
    """Return the state of MLflow's page that shows trainings with a metric of each evaluation, the best first."""
    first = {task.name: metric.name for task in TASKS.values() for metric in reversed(task.shown)} | dict(OUTCOMES)
    columns = [f"metrics.`{headline(task, metric)}`" for task, metric in first.items()]
    return {
        "searchFilter": "tags.stage = 'pretrain'",
        "orderByKey": f"metrics.`{BEST}`",
        "orderByAsc": False,
        "selectedColumns": ["attributes.`Duration`", *columns],
    }


def view_path(number: str) -> str:
    """Return the path of that page on a server, in the mode that shows models and runs."""
    return f"/#/experiments/{number}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def view_address(number: str, uri: str) -> str:
    """Return the address of that page: on the store's own server, or on the one that `make mlflow` starts."""
    server = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return server + view_path(number)


def training_note(folder: Path, config: Mapping[str, Any], config_hash: str) -> str:
    """Return the description of a training: what it is, and the commands that redo it.

    Args:
        folder: of its results.
        config_hash: part of the name of its resume state.
    """
    study, run = config["study"], folder.name
    what = "alone" if config["hierarchy"] is None else "under HIRL"
    training, backbone = config["training"], config["backbone"]["name"]
    about = (
        f"**{config['method']}** {what}, seed {config['seed']}: {backbone} on {config['data']['name']}, "
        f"{training['epochs']} epochs of batches of {training['batch_size']}."
    )
    if folder.parents[1].name != study:
        options = f"study={study} pretrained=weights"
        return f"{about} Published weights, rounded to half precision. To evaluate them again:\n\n" + _code(
            f"snakemake --cores all --config {options} --force {folder / 'evaluation' / 'knn.json'}"
        )
    return f"{about} To train it again, delete its resume state first:\n\n" + _code(
        f"rm -r scratch/{study}/{run}-{config_hash}",
        f"snakemake --cores all --config study={study} --force {folder / 'weights.safetensors'}",
    )


def evaluation_note(path: Path, found: Mapping[str, Any]) -> str:
    """Return the description of an evaluation: what it measures, and the command that redoes it.

    Args:
        path: of its results, `{run}/evaluation/{task}.json`.
        found: what the file holds.
    """
    run, folder, task = RunName.parse(path.parents[1].name), path.parents[1], TASKS[found["task"]]
    network = [] if run.is_control else [f"--weights {folder / 'weights.safetensors'}"]
    tree = [f"--snapshot {folder / 'tree.safetensors'}"] if task.reads_tree else []
    options = [f"--study {found['study']}", *_pairs(run.arguments), *network, *tree, f"--out {path.parent}"]
    command = [f"hirl evaluate {task.name}", *options, "--scratch scratch/again"]
    about = f"{task.title[0].upper()}{task.title[1:]} of {folder.name}. To evaluate it again:"
    return f"{about}\n\n" + _code(" \\\n    ".join(command))


def report_note(study_folder: Path) -> str:
    """Return the description of the run that holds a study's tables, figures and report."""
    return f"Tables, figures, report and atlas of the study **{study_folder.name}**: see the artifacts."


def _pairs(arguments: list[str]) -> list[str]:
    """Return options with their values: ["--seed", "0"] -> ["--seed 0"]."""
    return [" ".join(pair) for pair in zip(arguments[::2], arguments[1::2], strict=True)]


def _code(*lines: str) -> str:
    return "\n".join(["```bash", *lines, "```"])

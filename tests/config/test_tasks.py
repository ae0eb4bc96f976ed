from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from hirl.config import FROZEN, METRICS, TASKS, TRAINED, EvaluationConfig

ROOT = Path(__file__).parents[2]
SHARED_WORDS = {"transfer", "hierarchy"}  # also a folder's, and a section of the configuration
NAMES = "|".join(sorted(TASKS.keys() - SHARED_WORDS))
LITERAL = re.compile(rf"[\"']({NAMES})[\"']")
TABLE = ROOT / "src" / "hirl" / "config" / "tasks.py"
FILES = [
    path
    for folder in ("src/hirl", "workflow")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".smk") and path != TABLE
]


def test_every_task_is_frozen_or_trained() -> None:
    assert {*FROZEN, *TRAINED} == set(TASKS)
    assert len(FROZEN) + len(TRAINED) == len(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_protocol_and_settings(name: str) -> None:
    task = TASKS[name]
    assert find_spec(f"hirl.evaluation.{task.module}")
    assert (task.settings in EvaluationConfig.model_fields) != task.reads_tree


def test_every_setting_belongs_to_a_task() -> None:
    assert set(EvaluationConfig.model_fields) <= {task.settings for task in TASKS.values()}


def test_metrics_keep_the_order_of_the_tasks() -> None:
    assert [(metric.task, metric.name) for metric in METRICS] == [
        (task.name, metric) for task in TASKS.values() for metric in task.metrics
    ]


def test_tasks_say_which_files_they_need_beside_the_studys_images() -> None:
    assert {name: task.extra_input for name, task in TASKS.items() if task.extra_input} == {
        "semisup-1": "data/labels-1.csv",
        "semisup-10": "data/labels-10.csv",
        "transfer": "transfer/manifest.json",
        "detection": "scenes/manifest.json",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_lists_tasks(path: Path) -> None:
    named = set(LITERAL.findall(path.read_text()))
    assert len(named) <= 1  # a file may be about one task

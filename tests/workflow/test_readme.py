"""The page that everyone reads first: its commands, examples, paths and numbers hold."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import torch

from hirl.cli import parser
from hirl.config import MODEL_CONFIGS, load_study
from tests.conftest import METHODS
from tests.workflow.conftest import ROOT, Project
from workflow.show_results import FIGURE

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
EXAMPLES = {block.split()[1]: block for language, block in BLOCKS if language in ("yaml", "python")}


@pytest.fixture
def clone(project) -> Project:
    """A project with the page's own files in it, and with weights that were published."""
    for name, content in EXAMPLES.items():
        (project.folder / name).write_text(content)
    (project.folder / "weights.dvc").touch()
    return project


@pytest.fixture(autouse=True)
def forget_plugins():
    yield
    for name in MODEL_CONFIGS.keys() - set(METHODS):
        del MODEL_CONFIGS[name]


def words_of(command: str) -> list[str]:
    """The words of a command, without the variables before it."""
    words = shlex.split(command, comments=True)
    return words[sum("=" in word for word in words[:1]) :]


@pytest.mark.parametrize("command", [c for c in COMMANDS if words_of(c)[0] == "snakemake"])
def test_every_snakemake_command_makes_a_plan(clone, command):
    words = words_of(command)[1:]
    config = dict(word.split("=", 1) for word in words[words.index("--config") + 1 :]) if "--config" in words else {}
    options = words[: words.index("--config")] if "--config" in words else words
    plan = [] if {"--unlock", "--dry-run"} & set(options) else ["--dry-run"]
    said = clone.snakemake(*plan, *options, **config)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if words_of(c)[0] == "hirl"])
def test_every_step_is_one_that_the_command_line_takes(command):
    assert callable(parser().parse_args(words_of(command)[1:]).step)


def test_every_make_target_is_one():
    shown = re.findall(r"`?make ([a-z]+)\b", "\n".join([*COMMANDS, *re.findall(r"`make [a-z]+`", README)]))
    assert {"reproduce", "test"} <= set(shown)
    said = subprocess.run(["make", "--dry-run", *shown], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_no_command_goes_unchecked():
    assert {words_of(command)[0] for command in COMMANDS} == {"make", "snakemake", "hirl", "source"}


def test_the_example_method_trains_under_hirl(clone, monkeypatch):
    from hirl.methods.base import Step
    from hirl.training.loop import build_method

    monkeypatch.chdir(clone.folder)
    config = load_study("flowers.yaml").resolve("barlow", "hirl", 0, {"backbone.name": "resnet8"})
    method = build_method(config)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    output = method([images, images.flip(3)], Step(0, 1, 1, torch.arange(8)))
    output.loss.backward()
    assert method.backbone.conv1.weight.grad.abs().sum() > 0
    assert output.embedding.shape == method.embed(images).shape == (8, config.model.embedding_dim)


def test_every_path_of_the_layout_is_there_and_every_file_has_its_place():
    layout = next(block for language, block in BLOCKS if language == "text")
    paths = [line.split()[0] for line in layout.splitlines()]
    assert not [path for path in paths if not (ROOT / path).exists()]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.partition("/")[0] for path in tracked if not path.startswith(".")}
    assert not [name for name in top - {"README.md"} if not re.search(rf"(^|\W){re.escape(name)}\b", layout)]


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert not [link for link in links if not (ROOT / link).exists() and not FIGURE.search(f"![]({link})")]


def test_the_pictures_stay_small():
    assert sum(path.stat().st_size for path in ROOT.glob("docs/images/*")) < 600_000

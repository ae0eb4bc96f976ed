"""The README and the pages of docs/: their commands, examples, paths and links hold."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from hirl.cli.parser import build_parser
from hirl.config import MODEL_CONFIGS, load_study
from tests.conftest import METHODS
from tests.workflow.conftest import ROOT, Project

README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = {"make", "snakemake", "hirl", "torchrun", "python", "pytest", "dvc"}  # each has its test below

# Lines that no test runs, each read by a person: the shell's own, and fragments that stand for a kind of command.
REVIEWED = {
    "source .venv/bin/activate",
    "hirl",
    "hirl fit",
    "hirl embed",
    "hirl path",
    "hirl neighbours",
    "hirl ...",
    "hirl ... --ranks",
    "hirl ... --ranks n",
    "hirl pretrain",
}


class Command(NamedTuple):
    """A command line that a page shows."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The words of the command, without the variables before it."""
        words = shlex.split(self.line, comments=True)
        return words[sum("=" in word for word in words[:1]) :]

    @property
    def program(self) -> str:
        return self.words[0]


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """Yield page and content of every block in one of these languages."""
    for page, text in PAGES.items():
        yield from ((page, content) for language, content in BLOCK.findall(text) if language in languages)


def shown_commands() -> list[Command]:
    """Return the lines of every bash block, and every command that stands in a sentence."""
    commands = [Command(page, line) for page, block in blocks("bash") for line in block.splitlines() if line]
    for page, text in PAGES.items():
        spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
        commands += [Command(page, span) for span in spans if span.split()[0] in PROGRAMS]
    return sorted({command for command in commands if command.line not in REVIEWED})


COMMANDS = shown_commands()
EXAMPLES = [
    (block.split()[1], block) for _, block in blocks("yaml", "python") if re.match(r"# [\w-]+\.(yaml|py)\n", block)
]


def called(*programs: str) -> list:
    """Return the commands of these programs as parameters of a test, the same words once, named by page and line."""
    distinct = {tuple(command.words): command for command in reversed(COMMANDS) if command.program in programs}
    return [pytest.param(command, id=f"{command.page}: {command.line}") for command in distinct.values()]


@pytest.fixture
def clone(project) -> Project:
    """Return a project with the pages' own files in it, and with weights that were published."""
    for name, content in EXAMPLES:
        (project.folder / name).write_text(content)
    (project.folder / "weights.dvc").touch()
    return project


@pytest.fixture(autouse=True)
def forget_plugins():
    yield
    for name in MODEL_CONFIGS.keys() - set(METHODS):
        del MODEL_CONFIGS[name]


def test_no_command_goes_unchecked():
    assert {command.program for command in COMMANDS} == PROGRAMS


def test_every_reviewed_line_is_still_on_a_page():
    assert not [
        line
        for line in REVIEWED
        if not any(re.search(rf"(`|^){re.escape(line)}(`|$)", text, re.M) for text in PAGES.values())
    ]


@pytest.mark.parametrize("command", called("snakemake"))
def test_every_snakemake_command_makes_a_plan(clone, command):
    words = command.words[1:]
    config = dict(word.split("=", 1) for word in words[words.index("--config") + 1 :]) if "--config" in words else {}
    options = words[: words.index("--config")] if "--config" in words else words
    if "tokenizer" in config:  # a file that the reader has
        (clone.folder / "encoder.pkl").touch()
        config["tokenizer"] = clone.folder / "encoder.pkl"
    plan = [] if {"--unlock", "--dry-run"} & set(options) else ["--dry-run"]
    said = clone.snakemake(*plan, *options, **config)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("command", called("hirl", "torchrun"))
def test_every_step_is_one_that_the_command_line_takes(command, capsys):
    words = command.words
    arguments = words[words.index("hirl.cli") + 1 :] if command.program == "torchrun" else words[1:]
    if {"--help", "--version"} & set(arguments):
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args(arguments)
        return
    assert callable(build_parser().parse_args(arguments).step)


def test_every_make_target_is_one():
    targets = {word for command in COMMANDS if command.program == "make" for word in command.words[1:]}
    assert {"reproduce", "test", "check", "docs"} <= targets
    said = subprocess.run(["make", "--dry-run", *sorted(targets)], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("command", called("python"))
def test_every_script_that_is_called_is_there(command):
    script = command.words[1]
    assert (ROOT / script).is_file()


@pytest.mark.parametrize("command", called("pytest"))
def test_every_pytest_call_names_markers_and_folders_that_exist(command):
    options = (ROOT / "pyproject.toml").read_text()
    words = command.words[1:]
    markers = words[words.index("-m") + 1].replace("not ", "").split(" and ") if "-m" in words else []
    assert not [marker for marker in markers if f'"{marker}:' not in options]
    assert not [word for word in words if "/" in word and not (ROOT / word).exists()]


@pytest.mark.parametrize("command", called("dvc"))
def test_what_dvc_pulls_lies_in_the_repository(command):
    assert command.words[:2] == ["dvc", "pull"]
    pointers = [ROOT / word for word in command.words[2:]] or list(ROOT.glob("[!.]*.dvc"))
    hashes = [out["md5"] for pointer in pointers for out in yaml.safe_load(pointer.read_text())["outs"]]
    assert hashes
    assert not [md5 for md5 in hashes if not (ROOT / "bundled" / "files" / "md5" / md5[:2] / md5[2:]).exists()]


def test_an_example_has_one_content_wherever_it_stands():
    assert len({name for name, _ in EXAMPLES}) == len(set(EXAMPLES))


def test_every_example_study_is_used_by_a_command():
    studies = {name for name, _ in EXAMPLES if name.endswith(".yaml")}
    assert not [name for name in studies if not any(f"study={name}" in command.line for command in COMMANDS)]


def test_the_example_method_trains_under_hirl(clone, monkeypatch):
    from hirl.methods.base import Step
    from hirl.training.loop import build_method

    monkeypatch.chdir(clone.folder)
    config = load_study("mine.yaml").resolve("barlow", "hirl", 0, {"backbone.name": "resnet8"})
    method = build_method(config)
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    output = method([images, images.flip(3)], Step(0, 1, 1, torch.arange(8)))
    output.loss.backward()
    assert method.backbone.conv1.weight.grad.abs().sum() > 0
    assert output.embedding.shape == method.embed(images).shape == (8, config.model.embedding_dim)


def test_every_path_of_the_layout_is_there_and_every_file_has_its_place():
    layout = next(block for language, block in BLOCK.findall(README) if language == "text")
    paths = [path for line in layout.splitlines() for path in re.split(r" {2,}", line)[0].split(", ")]
    assert not [path for path in paths if not (ROOT / path).exists()]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {path.partition("/")[0] for path in tracked if not path.startswith(".")}
    assert not [name for name in top - {"README.md"} if not re.search(rf"(^|\W){re.escape(name)}\b", layout)]


def test_every_room_of_the_package_is_in_the_layout():
    rooms = {path.name for path in (ROOT / "src" / "hirl").iterdir() if (path / "__init__.py").is_file()}
    assert not [room for room in rooms if f"src/hirl/{room}/" not in README]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_a_sentence_is_there(page):
    spans = re.findall(r"`((?:src|config|workflow|tests|benchmarks|docs)/[\w./-]+)[^`\n]*`", BLOCK.sub("", PAGES[page]))
    assert not [span for span in spans if not (ROOT / span).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]) if "://" not in link]
    folder = (ROOT / page).parent
    assert not [link for link in links if not (folder / link.partition("#")[0]).exists()]


def test_every_page_is_in_the_site_and_in_the_index():
    pages = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")}
    site, index = (ROOT / "mkdocs.yml").read_text(), PAGES["docs/index.md"]
    assert not [page for page in pages if not re.search(rf": {page}$", site, re.MULTILINE)]
    assert not [page for page in pages - {"index.md"} if f"]({page})" not in index]


def test_the_readme_stays_a_page():
    assert len(README.splitlines()) <= 170


def test_the_pictures_stay_small():
    assert sum(path.stat().st_size for path in Path(ROOT / "docs" / "images").iterdir()) < 1_200_000

"""A tiny study, its prepared data, and other fixtures that several folders of tests share."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"
METHODS = ("mocov2", "simsiam", "swav", "mocov3", "dino", "ibot", "beit")

# One thread for every worker of pytest-xdist, and for every process that a test starts: tiny networks gain by no more.
os.environ["OMP_NUM_THREADS"] = "1"

# The files that take longest come first, so that no worker is left with one of them at the end.
SLOWEST = (
    "workflow/test_imagenet.py",
    "workflow/test_whole_study.py",
    "distributed/test_launch.py",
    "workflow/test_readme.py",
    "training/test_loop_on_two_ranks.py",
    "workflow/test_notebooks.py",
    "models/test_detectors.py",
    "training/test_loop.py",
    "models/test_blocks.py",
    "workflow/test_dry_run.py",
    "tracking/mlflow/test_studies.py",
    "evaluation/test_on_two_ranks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the slowest files to the front."""
    rank = {HERE / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that returns a path, read-only, that one worker makes for all: made_once("study", write_study)."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        with (home / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / name).exists():
                fill(home / f"{name}.unfinished")
                (home / f"{name}.unfinished").rename(home / name)
        return home / name

    return make


@pytest.fixture(scope="session")
def tiny_study() -> str:
    """The path of the tiny study, for the command line."""
    return str(TINY)


@pytest.fixture(scope="session")
def tiny_run() -> Callable[..., Any]:
    """A function that returns the configuration of a tiny run: tiny_run("mocov2", "hirl", training={"epochs": 1})."""
    from hirl.config import flatten, load_study

    def build(method: str, variant: str = "baseline", **overrides: Any) -> Any:
        return load_study(str(TINY)).resolve(method, variant, 0, flatten(overrides))

    return build


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an untrained discrete VAE of 16 tokens of 4 pixels a side."""
    import torch

    from hirl.models.tokenizer import DiscreteVAE, save_tokenizer

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.safetensors"
    save_tokenizer(DiscreteVAE(vocabulary=16, width=8, patch_size=4), path)
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: 64 random pictures of 4 classes, read-only."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "validation"):
        labels = torch.arange(64).remainder(4)[:, None]
        coarse = torch.rand(64, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
        save_file({"images": (coarse * 255).to(dtype=torch.uint8), "labels": labels}, folder / f"{split}.safetensors")
    manifest = {
        "dataset": "taxonomy",
        "image_size": 32,
        "storage": "memory",
        "root": None,
        "levels": ["class"],
        "class_names": [["a", "b", "c", "d"]],
        "parents": [],
        "splits": {"train": 64, "validation": 64},
        "digest": "0" * 64,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have a fixed order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

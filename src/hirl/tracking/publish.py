"""Weights out and in: a finished study's runs, in half precision, beside a manifest of what every file holds.

A published folder holds for each run what evaluations and reports read (the weights, their configuration, history and
record, the last semantic tree), `summary.csv` with the numbers measured on exactly these weights, and `manifest.json`
with every file's bytes and SHA-256.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hirl.files import atomic_path, read_json, sha256, write_json

MANIFEST, SUMMARY, WEIGHTS = "manifest.json", "summary.csv", "weights.safetensors"


def round_runs(results: str | Path, runs: Iterable[str], out: str | Path) -> None:
    """Copies trained runs, their weights rounded to half precision: `results/runs/{run}` -> `out/runs/{run}`."""
    for run in runs:
        source, target = Path(results, "runs", run), Path(out, "runs", run)
        _copy(source, target, companions(source))
        round_weights(source / WEIGHTS, target / WEIGHTS)


def companions(run: Path) -> list[str]:
    """What of a run's folder is published beside its weights, by its path in that folder."""
    snapshots = sorted(run.glob("snapshots/*.safetensors"))[-1:]
    files = ["config.json", "history.csv", "record.jsonl", "tree.safetensors"]
    return [name for name in files if (run / name).is_file()] + [str(path.relative_to(run)) for path in snapshots]


def round_weights(source: str | Path, target: str | Path) -> None:
    """Writes weights in half precision.

    Vectors (biases, normalisation, running statistics) stay as they are: they weigh nothing, and a variance may leave
    the range of half precision.
    """
    with safe_open(source, framework="numpy") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - no mapping
        metadata = weights.metadata()
    rounded = {
        name: value.astype(np.float16) if value.ndim > 1 and value.dtype == np.float32 else value
        for name, value in tensors.items()
    }
    with atomic_path(target) as temporary:
        save_file(rounded, temporary, metadata)


def pack(results: str | Path, runs: Iterable[str], out: str | Path) -> None:
    """Fills the published folder from an evaluated study of rounded weights, manifest last."""
    results, out = Path(results), Path(out)
    shutil.rmtree(out, ignore_errors=True)
    for run in runs:
        source = results / "runs" / run
        _copy(source, out / run, [WEIGHTS, *companions(source)])
    _copy(results, out, [SUMMARY])
    files = sorted(path for path in out.rglob("*") if path.is_file())
    write_json(
        out / MANIFEST,
        {str(path.relative_to(out)): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files},
    )


def unpack(published: str | Path, runs: Iterable[str], results: str | Path) -> None:
    """Lays published runs out as trained ones, `published/{run}` -> `results/runs/{run}`, each file verified first.

    Raises:
        ValueError: a run is not among the published ones, or a file is missing or not the one published.
    """
    published, results = Path(published), Path(results)
    manifest = read_json(published / MANIFEST)
    for run in runs:
        files = [name for name in manifest if name.startswith(f"{run}/")]
        if not files:
            known = ", ".join(sorted({name.partition("/")[0] for name in manifest if "/" in name}))
            raise ValueError(f"{published} holds no run {run}; published: {known}")
        for name in files:
            verify(published / name, manifest[name]["sha256"])
        _copy(published, results / "runs", files)


def verify(path: Path, expected: str) -> None:
    """Holds a file to its published SHA-256.

    Raises:
        ValueError: it is missing, or its content is another.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `dvc pull weights.dvc`")
    if (found := sha256(path)) != expected:
        raise ValueError(
            f"{path} is not the published file (SHA-256 {found[:12]}..., published {expected[:12]}...): "
            "delete it and run `dvc pull weights.dvc`"
        )


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)

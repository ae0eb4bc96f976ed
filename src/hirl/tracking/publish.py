"""Publish a finished study's weights in half precision, and unpack published ones.

A published folder holds for each run what evaluations and reports read (weights, configuration, history, record, the
last semantic tree), `summary.csv` with the numbers measured on exactly these weights, and `manifest.json` with every
file's size and SHA-256.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hirl.files import atomic_path, pack_metadata, read_json, sha256, unpack_metadata, write_json

MANIFEST, SUMMARY, WEIGHTS = "manifest.json", "summary.csv", "weights.safetensors"


def round_runs(results: str | Path, runs: Iterable[str], out: str | Path) -> None:
    """Copy trained runs with their weights rounded to half precision: `results/runs/{run}` -> `out/runs/{run}`."""
    for run in runs:
        source, target = Path(results, "runs", run), Path(out, "runs", run)
        _copy(source, target, companions(source))
        round_weights(source / WEIGHTS, target / WEIGHTS)


def companions(run: Path) -> list[str]:
    """Return the files of a run that are published beside its weights, as paths within its folder."""
    snapshots = sorted(run.glob("snapshots/*.safetensors"))[-1:]
    files = ["config.json", "history.csv", "record.jsonl", "tree.safetensors"]
    return [name for name in files if (run / name).is_file()] + [str(path.relative_to(run)) for path in snapshots]


def round_weights(source: str | Path, target: str | Path) -> None:
    """Write weights in half precision.

    Vectors (biases, normalisation, running statistics) keep their precision: they are small, and a variance may exceed
    the range of half precision.
    """
    with safe_open(source, framework="numpy") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 - no mapping
        metadata = pack_metadata(unpack_metadata(weights.metadata()))
    rounded = {
        name: value.astype(np.float16) if value.ndim > 1 and value.dtype == np.float32 else value
        for name, value in tensors.items()
    }
    with atomic_path(target) as temporary:
        save_file(rounded, temporary, metadata)


def pack(results: str | Path, runs: Iterable[str], out: str | Path) -> None:
    """Fill the published folder from an evaluated study of rounded weights, the manifest last."""
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
    """Copy published runs to where trained ones lie, after verifying each file: `{run}` -> `results/runs/{run}`.

    Raises:
        ValueError: a run was not published, a file is missing or differs from the published one, or the manifest names
            a file outside a run's folder.
    """
    published, results = Path(published), Path(results)
    manifest = read_json(published / MANIFEST)
    if leading_out := [name for name in manifest if ".." in Path(name).parts]:
        raise ValueError(f"{published / MANIFEST} names {leading_out[0]!r}, a file outside: do not unpack it")
    for run in runs:
        files = [name for name in manifest if name.startswith(f"{run}/")]
        if not files:
            known = ", ".join(sorted({name.partition("/")[0] for name in manifest if "/" in name}))
            raise ValueError(f"{published} holds no run {run}; published: {known}")
        for name in files:
            verify(published / name, manifest[name]["sha256"])
        _copy(published, results / "runs", files)


def verify(path: Path, expected: str) -> None:
    """Check a file against its published SHA-256.

    Raises:
        ValueError: the file is missing or has another content.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: run `dvc pull weights.dvc`")
    if (found := sha256(path)) != expected:
        raise ValueError(
            f"{path} is not the published file (SHA-256 {found[:12]}..., published {expected[:12]}...): "
            "remove weights/ and .dvc/cache, which may hold the same content, and run `dvc pull weights.dvc`"
        )


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        with atomic_path(target / name) as temporary:
            shutil.copyfile(source / name, temporary)

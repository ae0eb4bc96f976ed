from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hirl.files import read_json, write_json, write_text
from hirl.tracking.publish import companions, pack, round_runs, round_weights, unpack

RUN = "mocov2-hirl-s0"
KERNEL = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def trained(tmp_path):
    """Write the results of one trained run, with a variance that half precision cannot hold."""
    run = tmp_path / "trained" / "runs" / RUN
    for epoch in (1, 2):
        write_text(run / "snapshots" / f"epoch{epoch:04d}.safetensors", f"tree {epoch}")
    for name in ("tree.safetensors", "config.json", "history.csv", "record.jsonl"):
        write_text(run / name, name)
    weights = {"conv.weight": KERNEL, "norm.running_var": np.float32([1e-9, 1e6]), "norm.steps": np.array(7)}
    save_file(weights, run / "weights.safetensors", {"backbone": "resnet18"})
    return tmp_path / "trained"


@pytest.fixture
def published(trained, tmp_path):
    """Publish the same run."""
    round_runs(trained, [RUN], tmp_path / "rounded")
    write_text(tmp_path / "rounded" / "summary.csv", "numbers")
    pack(tmp_path / "rounded", [RUN], tmp_path / "published")
    return tmp_path / "published"


def test_matrices_are_rounded_to_half_precision_and_vectors_stay(published):
    weights = load_file(published / RUN / "weights.safetensors")
    assert weights["conv.weight"].dtype == np.float16
    np.testing.assert_array_equal(weights["conv.weight"], KERNEL.astype(np.float16))
    np.testing.assert_array_equal(weights["norm.running_var"], np.float32([1e-9, 1e6]))
    assert weights["norm.steps"] == 7


def test_rounding_twice_is_rounding_once(published, tmp_path):
    once = published / RUN / "weights.safetensors"
    round_weights(once, tmp_path / "twice.safetensors")
    assert (tmp_path / "twice.safetensors").read_bytes() == once.read_bytes()


def test_equal_weights_are_rounded_to_equal_bytes(tmp_path):
    known = dict.fromkeys(("backbone", "method", "variant", "source"), "x")
    save_file({"kernel": KERNEL}, tmp_path / "weights.safetensors", known)  # as older versions wrote metadata
    contents = set()
    for _ in range(20):
        round_weights(tmp_path / "weights.safetensors", tmp_path / "rounded.safetensors")
        contents.add((tmp_path / "rounded.safetensors").read_bytes())
    assert len(contents) == 1


def test_the_manifest_names_every_file_and_its_content(published):
    manifest = read_json(published / "manifest.json")
    files = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    assert set(manifest) == files - {"manifest.json"}
    assert all(entry["bytes"] == (published / name).stat().st_size for name, entry in manifest.items())


def test_only_the_last_snapshot_is_published(published):
    assert [path.name for path in published.glob(f"{RUN}/snapshots/*")] == ["epoch0002.safetensors"]


def test_published_runs_come_back_as_runs(published, tmp_path):
    unpack(published, [RUN], tmp_path / "back")
    back = tmp_path / "back" / "runs" / RUN
    for name in ("weights.safetensors", *companions(published / RUN)):
        assert (back / name).read_bytes() == (published / RUN / name).read_bytes()


def test_an_altered_file_is_refused_before_anything_is_unpacked(published, tmp_path):
    write_text(published / RUN / "tree.safetensors", "another tree")
    with pytest.raises(ValueError, match=r"tree.safetensors is not the published file .*dvc pull"):
        unpack(published, [RUN], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_manifest_that_leads_outside_is_refused_before_anything_is_unpacked(published, tmp_path):
    manifest = read_json(published / "manifest.json")
    write_json(published / "manifest.json", manifest | {f"{RUN}/../../../stray": {"bytes": 1, "sha256": ""}})
    with pytest.raises(ValueError, match="a file outside: do not unpack it"):
        unpack(published, [RUN], tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_a_missing_file_is_named(published, tmp_path):
    (published / RUN / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights.safetensors is missing: run `dvc pull"):
        unpack(published, [RUN], tmp_path / "back")


def test_a_run_that_was_not_published_is_named_beside_those_that_were(published, tmp_path):
    with pytest.raises(ValueError, match=f"no run dino-hirl-s0; published: {RUN}"):
        unpack(published, ["dino-hirl-s0"], tmp_path / "back")

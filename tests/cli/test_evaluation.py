from __future__ import annotations

import pytest

from hirl.cli import main

RUN = ("--method", "simsiam", "--variant", "hirl")


@pytest.mark.parametrize("content", [None, b"weights?"], ids=["missing", "no weights"])
def test_a_wrong_weights_file_is_named_and_no_features_appear(
    refused, tiny_study, tiny_data, tmp_path, content: bytes | None
) -> None:
    weights = tmp_path / "weights.safetensors"
    if content is not None:
        weights.write_bytes(content)
    files = ("--data", tiny_data, "--weights", weights, "--out", tmp_path / "features.safetensors")
    assert f"{weights} is not a readable weights file" in refused("features", "--study", tiny_study, *RUN, *files)
    assert not (tmp_path / "features.safetensors").exists()


def test_weights_of_another_backbone_are_named(refused, tiny_study, tiny_data, tmp_path) -> None:
    from hirl.config import BackboneConfig
    from hirl.models.backbones import build_backbone
    from hirl.models.weights import save_weights

    vit = BackboneConfig(name="vit_narrow_patch8")
    save_weights(build_backbone(vit, 32), vit, tmp_path / "weights.safetensors")
    files = ("--data", tiny_data, "--weights", tmp_path / "weights.safetensors", "--out", tmp_path / "features")
    message = refused("features", "--study", tiny_study, *RUN, *files)
    assert "holds weights of vit_narrow_patch8, not of resnet8" in message


def test_a_control_takes_no_weights_and_a_run_needs_them(refused, tiny_study, tiny_data, tmp_path) -> None:
    files = ("--study", tiny_study, "--data", tiny_data, "--out", tmp_path / "features.safetensors")
    control = ("--method", "untrained", "--backbone", "resnet8")
    assert "give --weights" in refused("features", *RUN, *files)
    assert "remove --weights" in refused("features", *control, *files, "--weights", "x.safetensors")
    unknown = ("--method", "untrained", "--backbone", "resnet50")
    assert "has the backbone 'resnet50'" in refused("features", *unknown, *files)


def test_a_run_from_images_to_its_evaluations(tiny_study, tiny_data, tmp_path, monkeypatch, refused) -> None:
    from hirl.files import read_json
    from hirl.tracking import mlflow as tracking

    monkeypatch.setattr(tracking, "live_run", lambda *_: None)  # no tracker is asked to listen
    short = ("--set", "training.epochs=1", "--set", "hierarchy.start_epoch=0")
    study = ("--study", tiny_study, *RUN, *short, "--seed", "2")
    out, features = tmp_path / "out", tmp_path / "features.safetensors"
    frozen = {"knn": "top1", "probe": "top1", "clustering": "acc", "hierarchy": "nmi_level0"}
    steps = [
        ("pretrain", *study, "--data", tiny_data, "--out", out, "--scratch", tmp_path / "scratch"),
        ("features", *study, "--data", tiny_data, "--weights", out / "weights.safetensors", "--out", features),
    ]
    evaluate = ("evaluate", *frozen, *study, "--features", features, "--out", out / "evaluation")
    assert "add --snapshot FILE" in refused(*evaluate)
    evaluate += ("--snapshot", out / "tree.safetensors")
    assert {main([str(part) for part in step]) for step in [*steps, evaluate]} == {0}
    for task, metric in frozen.items():
        result = read_json(out / "evaluation" / f"{task}.json")
        names = ("study", "dataset", "method", "variant", "backbone", "seed", "task")
        assert [result[name] for name in names] == ["tiny", "taxonomy", "simsiam", "hirl", "resnet8", 2, task]
        assert 0 <= result["metrics"][metric] <= 100

    again = tmp_path / "again"
    brief = ("--set", "evaluation.linear.epochs=1")
    network = ("--data", tiny_data, "--weights", out / "weights.safetensors", "--snapshot", out / "tree.safetensors")
    folders = ("--scratch", tmp_path / "scratch", "--out", again)
    every = ("evaluate", "knn", "linear", "hierarchy", *study, *brief, *network, *folders)
    assert main([str(part) for part in (*every, "--save-features", again / "features.safetensors")]) == 0
    assert (again / "features.safetensors").read_bytes() == features.read_bytes()
    assert (again / "knn.json").read_bytes() == (out / "evaluation" / "knn.json").read_bytes()
    assert {path.name for path in again.glob("*.json")} == {"knn.json", "linear.json", "hierarchy.json"}

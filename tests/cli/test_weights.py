from __future__ import annotations

from hirl.cli import main

RUN = ("--method", "simsiam", "--variant", "hirl")


def test_a_checkpoint_of_the_authors_is_imported_and_evaluated_by_what_it_says(
    tiny_study, tiny_data, tmp_path, refused, capsys
) -> None:
    import torch

    from hirl.config import BackboneConfig
    from hirl.files import read_json
    from hirl.models.backbones import build_backbone

    state = build_backbone(BackboneConfig(name="resnet8"), 32).state_dict()
    theirs, ours = tmp_path / "theirs.pth", tmp_path / "run" / "weights.safetensors"
    torch.save({"model": {f"module.model.backbone.{key}": value for key, value in state.items()}}, theirs)
    bring = ("weights", "import", theirs, "--study", tiny_study, "--out", ours)
    assert "add --method and --variant" in refused(*bring)
    assert main([str(part) for part in (*bring, *RUN)]) == 0

    evaluate = ("evaluate", "knn", "--weights", ours, "--study", tiny_study, "--data", tiny_data)
    assert main([str(part) for part in evaluate]) == 0
    result = read_json(tmp_path / "run" / "evaluation" / "knn.json")
    assert (result["method"], result["variant"]) == ("simsiam", "hirl")
    assert f"top1 {result['metrics']['top1']:.2f}" in capsys.readouterr().out


def test_the_authors_weights_are_listed_and_an_unknown_name_is_answered_with_them(refused, capsys) -> None:
    assert main(["weights", "list"]) == 0
    assert "hirl_mocov2_200eps_backbone.pth" in capsys.readouterr().out
    assert "choose mocov2-baseline" in refused("weights", "fetch", "moco")

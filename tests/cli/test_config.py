from __future__ import annotations

from hirl.cli import main

RUN = ("--method", "simsiam", "--variant", "hirl")


def test_an_unknown_study_is_answered_with_the_known_ones(refused) -> None:
    message = refused("config", "show", "--study", "imagnet", *RUN)
    assert "imagnet" in message
    assert "demo" in message


def test_an_unknown_method_is_answered_with_the_known_ones(refused, tiny_study) -> None:
    message = refused("config", "show", "--study", tiny_study, "--method", "moco", "--variant", "hirl")
    assert "'moco' is unknown; known: mocov2, simsiam, swav, mocov3, dino, ibot, beit" in message


def test_a_configuration_is_shown_with_the_origin_of_every_value(tiny_study, capsys) -> None:
    show = ["config", "show", "--study", tiny_study, *RUN, "--set", "training.epochs=9"]
    assert main(show) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["training.epochs"] == ["9", "--set"]
    assert rows["training.batch_size"] == ["16", "studies/tiny.yaml", "all"]
    assert rows["training.optimizer.base_lr"] == ["0.05", "methods/simsiam.yaml"]
    assert rows["training.effective_lr"][0] == "0.003125"
    assert rows["evaluation.semisup_10.optimizer.final_weight_decay"] == ["None", "default"]  # a long key is not cut

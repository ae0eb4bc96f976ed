from __future__ import annotations

import pytest

RUN = ("--method", "simsiam", "--variant", "hirl")


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("training.epoch=3", "unknown key 'training.epoch'"),
        ("training.epochs=-3", "training.epochs = -3"),
        ("training.epochs", "is not key=value"),
        ("training.epochs=[", "is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named_and_leaves_nothing(
    refused, tiny_study, tiny_data, tmp_path, setting: str, answer: str
) -> None:
    folders = ("--data", tiny_data, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    assert answer in refused("pretrain", "--study", tiny_study, *RUN, "--set", setting, *folders)
    assert not list(tmp_path.iterdir())


def test_missing_data_are_named_and_leave_no_results(refused, tiny_study, tmp_path) -> None:
    folders = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--scratch", tmp_path / "scratch")
    assert "data/manifest.json is missing" in refused("pretrain", "--study", tiny_study, *RUN, *folders)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_results_folder_is_named_before_training(refused, tiny_study, tiny_data, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    folders = ("--data", tiny_data, "--out", tmp_path / "file" / "out", "--scratch", tmp_path / "scratch")
    assert "choose a folder you may write to" in refused("pretrain", "--study", tiny_study, *RUN, *folders)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

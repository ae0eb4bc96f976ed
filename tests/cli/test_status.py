from __future__ import annotations

from hirl.cli import main


def test_a_study_is_told_run_by_run(tiny_study, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status", tiny_study]) == 0
    headline, columns, *rows = capsys.readouterr().out.splitlines()
    assert headline.startswith("tiny  16 runs: 16 not started; nothing works on it now")
    assert columns.split() == ["run", "state", "epoch", "loss", "images/s", "left"]
    assert len(rows) == 16


def test_a_folder_without_results_is_told(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "no study has results in this folder" in capsys.readouterr().out


def test_without_a_study_each_with_results_has_a_line(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for study in ("demo", "cifar10"):
        (tmp_path / "results" / study).mkdir(parents=True)
    assert main(["status"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["cifar10", "demo"]

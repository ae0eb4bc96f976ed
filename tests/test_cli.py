from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hirl.cli import main
from hirl.config import CONFIG_ROOT

RUN = ("--method", "simsiam", "--variant", "hirl")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a step that must fail, and returns the one line a user reads."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        assert output.err.startswith("hirl: ")
        assert output.err.count("\n") == 1
        return output.err

    return run


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_an_unknown_study_is_answered_with_the_known_ones(refused) -> None:
    message = refused("config", "show", "--study", "imagnet", *RUN)
    assert "imagnet" in message
    assert "demo" in message


def test_an_unknown_method_is_answered_with_the_known_ones(refused, tiny_study) -> None:
    message = refused("config", "show", "--study", tiny_study, "--method", "moco", "--variant", "hirl")
    assert "'moco' is unknown; known: mocov2, simsiam, swav, mocov3, dino, ibot, beit" in message


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
    assert not list((tmp_path / "out").iterdir())


def test_an_unwritable_results_folder_is_named_before_training(refused, tiny_study, tiny_data, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    folders = ("--data", tiny_data, "--out", tmp_path / "file" / "out", "--scratch", tmp_path / "scratch")
    assert "choose a folder you may write to" in refused("pretrain", "--study", tiny_study, *RUN, *folders)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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


@pytest.mark.parametrize(
    ("run", "answer"),
    [
        (("--method", "untrained"), "give --backbone and no --variant"),
        (("--method", "untrained", "--variant", "resnet8"), "give --backbone and no --variant"),
        (("--method", "simsiam"), "add --variant"),
        (("--method", "simsiam", "--variant", "hirl", "--backbone", "resnet8"), "--backbone belongs to"),
        (("--method", "sim-siam", "--variant", "hirl"), "'sim-siam' is unknown"),
        ((), "give --weights FILE, or --method and --variant"),
    ],
    ids=" ".join,
)
def test_an_incomplete_run_name_is_answered_with_what_is_missing(
    refused, tiny_study, tmp_path, run, answer: str
) -> None:
    assert answer in refused("evaluate", "knn", "--study", tiny_study, *run, "--out", tmp_path)


@pytest.mark.parametrize(
    "arguments", [(), ("pretran",), ("pretrain", "--method", "simsiam"), ("evaluate", "knm"), ("publish", "shrink")]
)
def test_wrong_arguments_end_in_exit_code_2(arguments: tuple[str, ...], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


# --- what goes well ---------------------------------------------------------------------------------------------------


def test_a_configuration_is_shown_with_the_origin_of_every_value(tiny_study, capsys) -> None:
    show = ["config", "show", "--study", tiny_study, *RUN, "--set", "training.epochs=9"]
    assert main(show) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["training.epochs"] == ["9", "--set"]
    assert rows["training.batch_size"] == ["16", "studies/tiny.yaml", "all"]
    assert rows["training.optimizer.base_lr"] == ["0.05", "methods/simsiam.yaml"]
    assert rows["training.effective_lr"][0] == "0.003125"
    assert rows["evaluation.semisup_10.optimizer.final_weight_decay"] == ["None", "default"]  # a long key is not cut


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


def test_labels_of_every_percentage_are_chosen_at_once(tiny_study, tiny_data, tmp_path) -> None:
    call = ("data", "labels", "--study", tiny_study, "--data", tiny_data, "--out", tmp_path)
    assert main([str(part) for part in call]) == 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"labels-1.csv", "labels-10.csv"}


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


@pytest.mark.parametrize("study", ["demo", str(CONFIG_ROOT / "studies" / "demo.yaml")], ids=["name", "path"])
def test_the_tracker_calls_a_study_by_its_name(study: str, monkeypatch) -> None:
    made = []
    monkeypatch.setattr("hirl.tracking.mlflow.init", lambda uri, experiment: made.append(experiment))
    assert main(["track", "init", "--study", study]) == 0
    assert made == ["demo"]


def test_the_tracker_takes_several_studies_and_says_where_each_is_shown(monkeypatch, capsys) -> None:
    taken = []

    def sync(folder: Path, runs: list[str] | None, uri: str, scratch: Path) -> str:
        taken.append((folder, runs, scratch))
        return str(len(taken))

    monkeypatch.setattr("hirl.tracking.mlflow.sync", sync)
    assert main(["track", "sync", "--results", "results/demo", "results/mine"]) == 0
    folders = [Path("results/demo"), Path("results/mine")]
    assert taken == [(folder, None, Path("scratch") / folder.name) for folder in folders]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["demo", "mine"]


def test_help_imports_no_heavy_package() -> None:
    """Every job imports what the parser imports, so heavy packages must not be among it."""
    heavy = (
        "torch",
        "numpy",
        "timm",
        "lightly",
        "mlflow",
        "faiss",
        "sklearn",
        "matplotlib",
        "pandas",
        "snakemake",
        "dvc",
    )
    code = f"""
import contextlib, sys
from hirl.cli import main
from hirl.config import CONFIG_ROOT
with contextlib.suppress(SystemExit):
    main(["--help"])
print("heavy:", *(name for name in {heavy} if name in sys.modules))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.startswith("usage: hirl")
    assert answer.splitlines()[-1] == "heavy:"


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("hirl")
    answer = subprocess.run([command, "config", "show", "--study", "none"], capture_output=True, text=True)
    assert answer.returncode == 2

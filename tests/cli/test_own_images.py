"""`hirl fit` and what follows it: from a folder of images to a tree, its paths, and what is said when it cannot be."""

from __future__ import annotations

import argparse
import shutil

import numpy as np
import pytest
from PIL import Image

from hirl.cli import main, own_images
from tests.estimator.conftest import COLORS, colored

TREE = ("--size", 16, "--clusters", 6, 3, 2, "--no-open")
SETTINGS = ("model.embedding_dim=16", "model.predictor_hidden_dim=8", "training.precision=fp32")
TINY = (*TREE, *(word for setting in SETTINGS for word in ("--set", setting)))
QUICK = ("--method", "simsiam", "--epochs", 2, "--batch", 16)


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the images of four colors in class folders, fitted into results/colors."""
    home = tmp_path_factory.mktemp("home")
    for color, pictures in zip(COLORS, np.split(colored(12), len(COLORS)), strict=True):
        (home / "colors" / color).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            Image.fromarray(picture).save(home / "colors" / color / f"{number:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run("fit", "colors", *QUICK, *TINY)
    return home


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)


def test_one_command_leaves_study_run_model_and_atlas(home):
    out = home / "results/colors"
    found = {path.name for path in out.iterdir()}
    assert {"study.yaml", "data", "runs", "model.safetensors", "atlas.html"} <= found
    assert (out / "runs/simsiam-hirl-s0/weights.safetensors").is_file()


def test_the_same_command_again_trains_nothing_and_says_what_was_found(capsys):
    run("fit", "colors", *QUICK, *TINY)
    said = capsys.readouterr().out
    assert said.startswith("48 images of 4 classes: simsiam hirl, resnet8 at 16 px, 2 epochs")
    assert "epoch 2/2" in said
    assert "epoch 1/2" not in said
    assert "kNN top-1 on held-out images: 100.0 % (chance 25.0 %)" in said
    assert "atlas: results/colors/atlas.html" in said


def test_images_without_classes_claim_no_accuracy(tmp_path, capsys):
    for path in (own_images.Path("colors")).rglob("*.png"):
        shutil.copy(path, tmp_path / f"{path.parent.name}{path.name}")
    run("fit", tmp_path, *QUICK, *TINY, "--out", tmp_path / "out")
    assert "48 images, no classes" in (said := capsys.readouterr().out)
    assert "kNN" not in said


def test_an_images_path_runs_from_coarse_to_fine_with_the_classes_of_each_cluster(capsys):
    run("path", "colors/red/00.png")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["2", "1", "0"]
    assert lines[2].endswith("red 100 %")
    assert lines[3] == "nearest  colors/red/00.png"


def test_neighbours_are_named_with_their_cosines(capsys):
    run("neighbours", "colors/blue/03.png", "-k", 4)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["1.000", "colors/blue/03.png"]
    assert len(lines) == 4
    assert all("blue" in name for _, name in lines)


def test_features_of_files_and_folders_are_written_in_their_order(tmp_path, capsys):
    out = tmp_path / "features.npz"
    run("embed", "colors/red/00.png", "colors/blue", "--out", out)
    assert capsys.readouterr().out == f"13 x 128 features: {out}\n"
    with np.load(out) as written:
        assert written["features"].shape == (13, 128)
        assert list(written["files"][:2]) == ["colors/red/00.png", "colors/blue/00.png"]


def test_trained_weights_make_an_atlas_without_training(capsys):
    run("atlas", "colors", "--weights", "results/colors/runs/simsiam-hirl-s0/weights.safetensors", *TREE)
    said = capsys.readouterr().out
    assert "no training; clusters 2 > 3 > 6" in said
    assert "features of resnet8 at 16 px with weights of results/colors/runs" in said
    assert own_images.Path("results/colors-weights/atlas.html").is_file()


def test_the_atlas_of_a_fit_is_written_again(tmp_path):
    run("atlas", "results/colors", "--no-open", "--out", tmp_path)
    assert (tmp_path / "atlas.html").is_file()


def test_a_fit_starts_from_weights(tmp_path, capsys):
    weights = ("--weights", "results/colors/runs/simsiam-hirl-s0")
    run("fit", "colors", *weights, *QUICK, *TINY, "--out", tmp_path)
    assert "simsiam hirl, resnet8 at 16 px with weights of results/colors" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").is_file()


def test_a_browser_opens_at_a_terminal_with_a_screen_alone(monkeypatch):
    opened = []
    monkeypatch.setattr(own_images.webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    run("atlas", "results/colors")
    assert not opened
    monkeypatch.setattr(own_images.sys.stdout, "isatty", lambda: True, raising=False)
    run("atlas", "results/colors")
    assert opened == [(own_images.Path("results/colors/atlas.html").resolve()).as_uri()]
    run("atlas", "results/colors", "--no-open")
    assert len(opened) == 1


def test_every_step_has_an_example_that_it_takes():
    steps = argparse.ArgumentParser().add_subparsers()
    own_images.add(steps)
    for name, step in steps.choices.items():
        program, shown, *words = step.epilog.removeprefix("example:").split()
        assert (program, shown) == ("hirl", name)
        assert callable(step.parse_args(words).step)
    stopped = steps.choices["fit"].parse_args(["photos"])
    assert stopped.after_stop(stopped) == "hirl: stopped; the same command goes on with photos"


def test_what_is_not_possible_is_said_in_one_line_and_leaves_nothing(refused, home, tmp_path, monkeypatch):
    broken = shutil.copytree("colors", tmp_path / "broken")
    (broken / "red/03.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy("colors/red/00.png", one)
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        (("fit", "none"), "data folder none is missing"),
        (("fit", "empty"), "empty holds no image"),
        (("fit", "one"), "one has no two images"),
        (("fit", "broken", "--method", "simsiam"), "03.png cannot be read as an image: replace or remove it"),
        (
            ("fit", home / "colors", "--clusters", "500"),
            "num_clusters 500 is more than the 44 training images: ask for fewer",
        ),
        (("fit", "broken", "--weights", "nothing"), "nothing is no file and no known name"),
        (("atlas", "broken"), "broken holds no model.safetensors of `hirl fit`: give --weights"),
        (("path", "one/00.png"), "results/ holds no model.safetensors: call `hirl fit FOLDER` first"),
        (("neighbours", "none.png", "--model", "none"), "none is no file and no known name"),
    ):
        assert said in refused(*arguments)
    assert not list(tmp_path.rglob("model.safetensors"))
    assert not list(tmp_path.rglob("atlas.html"))

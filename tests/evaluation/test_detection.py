from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as encoding
from pycocotools.coco import COCO

from hirl.config import DetectionConfig, RunConfig
from hirl.evaluation import detection
from hirl.evaluation.detection import average_precision, in_epochs, parameter_groups, start, train_and_evaluate
from hirl.models.backbones import build_backbone
from hirl.models.weights import save_weights
from hirl.training.schedules import learning_rate
from tests.square_scenes import write_squares

SETTINGS = {
    "neck": "fpn",
    "epochs": 3,
    "batch_size": 4,
    "short_sides": [32, 48],
    "long_side": 64,
    "test_short_side": 48,
    "anchor_size": 8,
    "pre_nms_top_n": [50, 50],
    "post_nms_top_n": [20, 20],
    "roi_batch_size": 16,
    "channels": 16,
    "box_dim": 16,
    "drop_path": 0.2,
    "precision": "fp32",
    "optimizer": {"name": "adamw", "base_lr": 0.1},
}
SIDE = 40  # pixels, of annotated images


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "scenes")


@pytest.fixture
def tiny(tiny_run):
    """Return a function that makes the configuration of a tiny detection."""

    def build(method: str = "mocov2", **settings: object) -> RunConfig:
        run = tiny_run(method)
        detection = DetectionConfig(**SETTINGS | settings)
        return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"detection": detection})})

    return build


# --- COCO's measures --------------------------------------------------------------------------------------------------


def objects(*boxes: tuple[int, int, int, int, int], crowd: bool = False) -> list[dict]:
    """Return the annotations of rectangles (image, x, y, width, height) with masks that fill them."""
    rows = []
    for image, x, y, width, height in boxes:
        filled = np.zeros((SIDE, SIDE), np.uint8, order="F")
        filled[y : y + height, x : x + width] = 1
        shape = {"bbox": [x, y, width, height], "segmentation": encoding.encode(filled), "area": width * height}
        rows.append({"image_id": image, "category_id": 1, "iscrowd": int(crowd), **shape})
    return rows


def truth_of(rows: list[dict], categories: int = 1) -> COCO:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image, "height": SIDE, "width": SIDE} for image in (1, 2, 3)],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(categories)],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
    }
    truth.createIndex()
    return truth


def scored(rows: list[dict], *scores: float) -> list[dict]:
    keys = ("image_id", "category_id", "bbox", "segmentation")
    return [{key: row[key] for key in keys} | {"score": score} for row, score in zip(rows, scores, strict=True)]


def test_one_found_one_shifted_one_missed():
    """By hand: a box of 10 x 10 shifted by 2 overlaps its own by 80 / 120, enough for the thresholds 0.5 to 0.65.

    There, precision is 1 up to a recall of 2/3: at 67 of 101 points. At the six others it is 1 up to 1/3: at 34.
    """
    truth = truth_of(objects((1, 5, 5, 10, 10), (2, 5, 5, 10, 10), (3, 5, 5, 10, 10)))
    metrics = average_precision(truth, scored(objects((1, 5, 5, 10, 10), (2, 7, 5, 10, 10)), 0.9, 0.8))
    for kind in ("box", "mask"):
        assert metrics[f"ap50_{kind}"] == pytest.approx(100 * 67 / 101)
        assert metrics[f"ap75_{kind}"] == pytest.approx(100 * 34 / 101)
        assert metrics[f"ap_{kind}"] == pytest.approx(100 * (4 * 67 + 6 * 34) / 1010)


def test_all_found_is_100_and_what_lies_in_a_crowd_is_not_counted():
    rows, crowd = objects((1, 5, 5, 10, 10), (2, 8, 5, 20, 10)), objects((3, 0, 0, 30, 30), crowd=True)
    found = scored(rows + objects((3, 4, 4, 10, 10)), 0.8, 0.7, 0.9)
    assert list(average_precision(truth_of(rows + crowd), found).values()) == pytest.approx([100] * 6)
    assert average_precision(truth_of(rows), found)["ap_box"] < 70  # the same object without the crowd: a false one


def test_nothing_found_is_0():
    assert set(average_precision(truth_of(objects((1, 5, 5, 10, 10))), []).values()) == {0.0}


def slow_average_precision(truth: list[dict], found: list[dict], threshold: float) -> float:
    """Return one category's average precision at one threshold, as the COCO paper's site defines it."""
    found, taken, hits = sorted(found, key=lambda row: -row["score"]), set(), []
    for row in found:
        overlaps = {
            number: overlap(row["bbox"], other["bbox"])
            for number, other in enumerate(truth)
            if other["image_id"] == row["image_id"] and number not in taken
        }
        best = max(overlaps, key=overlaps.get, default=None)
        hits.append(best is not None and overlaps[best] >= threshold)
        taken |= {best} if hits[-1] else set()
    recall = np.cumsum(hits) / len(truth)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= point].max(initial=0) for point in np.linspace(0, 1, 101)]))


def overlap(one: list[float], other: list[float]) -> float:
    """Return the intersection over union of boxes x, y, width, height."""
    sides = [min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_measures_are_those_of_a_slow_computation():
    generator = np.random.default_rng(0)
    corners, sides = generator.integers(0, 30, (40, 2)), generator.integers(5, 10, (40, 2))
    rows = objects(*np.c_[generator.integers(1, 4, 40), corners, sides].tolist())
    rows = [row | {"category_id": 1 + number % 2} for number, row in enumerate(rows)]
    found = [row | {"bbox": (row["bbox"] + generator.uniform(-1, 1, 4)).tolist()} for row in rows[:30]]
    found = scored(found, *generator.permutation(30) / 30)
    metrics = average_precision(truth_of(rows, categories=2), found)
    parts = [[[row for row in part if row["category_id"] == c] for part in (rows, found)] for c in (1, 2)]
    thresholds = np.linspace(0.5, 0.95, 10).round(2)
    expected = {level: np.mean([slow_average_precision(*part, level) for part in parts]) for level in thresholds}
    assert 10 < metrics["ap_box"] < 90
    assert metrics["ap_box"] == pytest.approx(100 * np.mean(list(expected.values())))
    assert metrics["ap50_box"] == pytest.approx(100 * expected[0.5])
    assert metrics["ap75_box"] == pytest.approx(100 * expected[0.75])


# --- the protocol -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mocov2", "dino"])
def test_a_runs_weights_are_the_detectors_start(tiny, tmp_path, method):
    config = tiny(method)
    backbone = build_backbone(config.backbone, config.views.global_size)
    save_weights(backbone, config.backbone, tmp_path / "weights.safetensors")
    begun = start(config, tmp_path / "weights.safetensors", 4).backbone.body.state_dict()
    expected = {key: value for key, value in backbone.state_dict().items() if not key.startswith("norm.")}
    assert begun.keys() == expected.keys()
    assert all(torch.equal(begun[key], value) for key, value in expected.items())


def test_without_weights_the_seed_decides(tiny):
    config = tiny()
    states = [start(config.model_copy(update={"seed": seed}), None, 4).state_dict() for seed in (1, 1, 2)]
    key = "backbone.body.conv1.weight"
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_an_interrupted_training_resumes_to_the_same_bits(tiny, scenes, tmp_path, monkeypatch):
    config = tiny()
    whole = train_and_evaluate("detection", config, None, scenes, tmp_path / "whole", "run")
    assert list(whole.metrics) == [f"{metric}_{kind}" for kind in ("box", "mask") for metric in ("ap", "ap50", "ap75")]
    assert [row["epoch"] for row in whole.history] == [0, 1, 2]
    assert whole.settings["short_sides"] == [32, 48]

    loss, calls = detection.detection_loss, []

    def killed(*args: object) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 5:  # three steps an epoch: in the midst of the second
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(detection, "detection_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate("detection", config, None, scenes, tmp_path / "killed", "run")
    again = train_and_evaluate("detection", config, None, scenes, tmp_path / "killed", "run")
    assert len(calls) == 5 + 6  # the first epoch is not repeated
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]
    assert again.metrics == whole.metrics


def test_training_finds_objects(tiny, scenes, tmp_path):
    config = tiny(epochs=16, batch_size=2, short_sides=[48], drop_path=0.0)
    metrics = train_and_evaluate("detection", config, None, scenes, tmp_path, "run").metrics
    assert metrics["ap50_box"] > 30  # of 100, after 96 steps; without training 0
    assert metrics["ap50_mask"] > 30


def test_a_schedule_in_steps_is_followed_exactly():
    """detectron2's: 180,000 steps of 16 pictures at 0.02, a tenth of it from 120,000 and from 160,000 on."""
    settings = DetectionConfig(
        epochs=18,
        epoch_steps=10000,
        batch_size=16,
        optimizer={"base_lr": 0.02 * 256 / 16},
        schedule={"milestones": [12, 16]},
        warmup_steps=1000,
    )
    steps = [0, 500, 1000, 119_999, 120_000, 159_999, 160_000, 179_999]
    rates = [learning_rate(in_epochs(settings, 10000), step, 10000) for step in steps]
    assert rates == pytest.approx([2e-5, (0.02 + 2e-5) / 2, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])
    assert learning_rate(in_epochs(settings, 7329), 500, 7329) == pytest.approx((0.02 + 2e-5) / 2)


def test_rates_of_a_vit_fall_from_block_to_block(tiny):
    """Four blocks: the heads at 1, block i at 0.5 ** (4 - i), patches, positions and class token at 0.5 ** 5."""
    detector = start(tiny("dino"), None, 4)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    told = {
        names[id(parameter)]: (group["lr_scale"], group["decay"])
        for group in parameter_groups(detector, 0.5)
        for parameter in group["params"]
    }
    assert told.keys() == set(names.values())
    assert told["rpn.head.cls_logits.weight"] == (1, True)
    assert told["backbone.levels.0.0.weight"] == (1, True)
    assert told["roi_heads.box_predictor.bbox_pred.bias"] == (1, False)
    body = "backbone.body."
    assert told[body + "blocks.3.attn.qkv.weight"] == (0.5, True)
    assert told[body + "blocks.0.attn.qkv.weight"] == (0.5**4, True)
    assert told[body + "blocks.0.norm1.weight"] == (0.5**4, False)
    assert told[body + "patch_embed.proj.weight"] == (0.5**5, True)
    assert told[body + "pos_embed"] == told[body + "cls_token"] == (0.5**5, False)


def test_without_layer_decay_there_is_one_rate(tiny):
    groups = parameter_groups(start(tiny(), None, 4), None)
    assert {(group["lr_scale"], group["decay"]) for group in groups} == {(1, False), (1, True)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 13}, r"evaluation\.detection\.batch_size is 13, but 12 training images have objects: lower it"),
        ({"layer_decay": 0.7}, r"layer_decay is for the blocks of a ViT: set it to null"),
        ({"neck": "c4"}, r"evaluation\.detection\.neck is c4, but the backbone has three stages: set it to fpn"),
    ],
)
def test_impossible_settings(tiny, scenes, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        train_and_evaluate("detection", tiny(**settings), None, scenes, tmp_path, "run")

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hirl.data.coco import load_scenes, ordered_pictures, training_batches
from tests.run_on_ranks import on_ranks
from tests.square_scenes import square, write_squares

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "scenes", train=6, validation=3)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the annotations of the training pictures."""
    content = json.loads((folder / "train.json").read_text())
    edit(content)
    (folder / "train.json").write_text(json.dumps(content))


def test_an_example_is_its_picture_with_boxes_labels_and_masks(folder):
    pixels, target = load_scenes(folder, "train").example(2, flipped=False)
    assert (pixels.shape, pixels.dtype) == ((3, 48, 48), torch.uint8)
    assert target["labels"].tolist() == [1, 2]  # of the categories 3 and 7
    for label, (x1, y1, x2, y2), mask in zip((1, 2), target["boxes"].int().tolist(), target["masks"], strict=True):
        assert (x2 - x1, y2 - y1, int(mask.sum())) == (16, 16, 256)
        assert mask[y1:y2, x1:x2].all()
        assert set(pixels[:, y1:y2, x1:x2].flatten().tolist()) == {{1: 230, 2: 20}[label]}


def test_a_flip_turns_picture_boxes_and_masks_alike(folder):
    scenes = load_scenes(folder, "train")
    (pixels, target), (mirrored, flipped) = (scenes.example(1, flip) for flip in (False, True))
    assert torch.equal(mirrored, pixels.flip(2))
    assert torch.equal(flipped["masks"], target["masks"].flip(2))
    for (x1, y1, x2, y2), mask in zip(flipped["boxes"].int().tolist(), flipped["masks"], strict=True):
        assert mask[y1:y2, x1:x2].all()
        assert int(mask.sum()) == (x2 - x1) * (y2 - y1)


def test_run_lengths_are_masks_too(folder):
    inside = [96, 10, 2198]  # two columns of 48 pixels, then ten
    box = {"bbox": [2, 0, 1, 10], "segmentation": {"size": [48, 48], "counts": inside}}
    change(folder, lambda content: content["annotations"].append({"image_id": 1, "category_id": 3, **box}))
    masks = load_scenes(folder, "train").example(1, flipped=False)[1]["masks"]
    assert masks[2].nonzero().tolist() == [[row, 2] for row in range(10)]


def test_crowds_and_empty_pictures_are_not_trained_on(folder):
    def edit(content: dict[str, Any]) -> None:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] > 2]
        content["annotations"] += [square(2, 3, 0, 0, 40) | {"iscrowd": 1}, square(3, 3, 0, 0, 40) | {"iscrowd": 1}]

    change(folder, edit)
    scenes = load_scenes(folder, "train")
    assert scenes.images == [1, 2, 3, 4, 5, 6]
    assert scenes.with_objects == [3, 4, 5, 6]
    assert len(scenes.example(3, flipped=False)[1]["boxes"]) == 2
    assert len(scenes.annotations.anns) == 4 * 2 + 2  # COCO's measures know the crowds


def test_a_box_without_area_is_left_out_and_one_over_the_edge_is_cut(folder):
    """One of COCO's own boxes has a height of 0."""
    extra = [square(1, 3, 20, 20, 10) | {"bbox": [20, 20, 10, 0]}, square(1, 3, 40, 40, 8) | {"bbox": [40, 40, 20, 20]}]
    change(folder, lambda content: content["annotations"].extend(extra))
    boxes = load_scenes(folder, "train").example(1, flipped=False)[1]["boxes"]
    assert len(boxes) == 3
    assert boxes[2].tolist() == [40, 40, 48, 48]


def test_batches_are_endless_passes_each_in_an_order_of_its_own(folder):
    """Six pictures in batches of four: three batches are two passes, and any batch can be had alone."""
    scenes = load_scenes(folder, "train")
    batches = list(training_batches(scenes, 4, 0, 0, 6, CPU))
    pictures = [pixels.float().std(dim=(1, 2)).sum().item() for batch in batches for pixels, _ in batch]  # flips agree
    passes = [pictures[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(seen) == pytest.approx(sorted(passes[0])) for seen in passes)
    assert any(seen != pytest.approx(passes[0]) for seen in passes)
    (alone,) = training_batches(scenes, 4, 0, 4, 1, CPU)
    for (pixels, target), (again, same) in zip(batches[4], alone, strict=True):
        assert torch.equal(pixels, again)
        assert torch.equal(target["boxes"], same["boxes"])


def test_half_of_the_examples_are_flipped(folder):
    scenes = load_scenes(folder, "train")
    plain = {tuple(scenes.picture(image).flatten()[:200].tolist()) for image in scenes.images}
    seen = [example for batch in training_batches(scenes, 4, 0, 0, 60, CPU) for example in batch]
    flips = sum(tuple(pixels.flatten()[:200].tolist()) not in plain for pixels, _ in seen)
    assert 80 < flips < 160  # of 240: five deviations of a fair coin


def seen_on_rank(folder: Path) -> tuple[list[list[torch.Tensor]], list[int]]:
    """Return the pictures of a rank's batches, and the ids of the images that it evaluates."""
    batches = training_batches(load_scenes(folder, "train"), 4, seed=0, first=1, count=3, device=CPU)
    looked_at = ordered_pictures(load_scenes(folder, "validation"), 2, CPU)
    return [[pixels for pixels, _ in batch] for batch in batches], [image for batch in looked_at for image, _ in batch]


def test_two_ranks_share_every_batch_and_every_picture(folder):
    ((batches, images),) = on_ranks(1, seen_on_rank, folder)
    (first, one), (second, other) = on_ranks(2, seen_on_rank, folder)
    torch.testing.assert_close([[*a, *b] for a, b in zip(first, second, strict=True)], batches, rtol=0, atol=0)
    assert one + other == images == [1, 2, 3]


def test_workers_beside_a_gpu_read_the_same(folder):
    scenes = load_scenes(folder, "train")
    here, there = (training_batches(scenes, 4, 0, 0, 2, torch.device(kind)) for kind in ("cpu", "cuda"))
    for batch, same in zip(here, there, strict=True):
        assert all(torch.equal(pixels, again) for (pixels, _), (again, _) in zip(batch, same, strict=True))
    (folder / "train/4.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"4\.png") as caught:
        list(training_batches(scenes, 6, 0, 0, 1, torch.device("cuda")))
    assert "\n" not in str(caught.value)


def test_every_picture_once_in_order(folder):
    batches = list(ordered_pictures(load_scenes(folder, "validation"), 2, CPU))
    assert [[image for image, _ in batch] for batch in batches] == [[1, 2], [3]]


def set_first(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    """Return an edit that changes the first annotation."""
    return lambda content: content["annotations"][0].update({key: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_first("image_id", 99), r"annotations\[0\] is of image 99, which is not listed"),
        (set_first("category_id", 5), r"annotations\[0\] has category_id 5, which is unknown: choose \[3, 7\]"),
        (
            set_first("bbox", [50, 10, 5, 5]),
            r"annotations\[0\] has bbox \[50, 10, 5, 5\] in an image of 48 x 48 pixels",
        ),
        (set_first("bbox", [10, 10, -5, 5]), r"annotations\[0\] has bbox \[10, 10, -5, 5\]"),
        (set_first("bbox", [float("nan"), 10, 5, 5]), r"annotations\[0\] has bbox \[nan, 10, 5, 5\]"),
        (set_first("segmentation", []), r"annotations\[0\] has an empty segmentation"),
        (
            set_first("segmentation", {"size": [32, 48], "counts": [1536]}),
            r"annotations\[0\] has a mask of size \[32, 48\], but its image has \[48, 48\]",
        ),
        (lambda content: content["annotations"][0].pop("bbox"), r"annotations\[0\] has no bbox: detection needs it"),
        (lambda content: content["annotations"].clear(), r"train\.json has no objects: give annotations of the train"),
        (lambda content: content["images"].clear(), r"annotations\[0\] is of image 1, which is not listed"),
        (lambda content: content.pop("categories"), r"is not COCO's JSON: it needs images, annotations and categories"),
        (lambda content: content["categories"][0].update(name="odd"), r"has the categories \['odd', 'dark'\], but"),
    ],
)
def test_wrong_annotations_are_one_line(folder, edit, message):
    change(folder, edit)
    with pytest.raises(ValueError, match=message) as caught:
        load_scenes(folder, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("manifest.json", r"manifest\.json is missing"),
        ("train.json", r"train\.json is missing"),
        ("train/2.png", r"train\.json names 2\.png, which is not in .*train: complete the pictures"),
    ],
)
def test_missing_files_are_one_line(folder, missing, message):
    (folder / missing).unlink()
    with pytest.raises(ValueError, match=message):
        load_scenes(folder, "train")


def test_a_picture_of_another_size_than_annotated(folder):
    Image.new("RGB", (40, 48)).save(folder / "train/1.png")
    with pytest.raises(ValueError, match=r"1\.png is 40 x 48 pixels, but its annotations say 48 x 48"):
        load_scenes(folder, "train").picture(1)

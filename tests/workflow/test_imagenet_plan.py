"""The paper's study on folders laid out like the real ones: what would run, and that its images are found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.workflow.conftest import ROOT, Project

METHODS, BACKBONES = 8, 2  # SwAV twice; ResNet-50 and ViT-B/16
NETWORKS = 2 * METHODS + BACKBONES
PAGE = (ROOT / "docs" / "imagenet.md").read_text()
TRAINED = ("linear", "finetune", "semisup_1", "semisup_10", "transfer", "detection")


FOLDERS = {"data": "imagenet", "transfer": "places205", "scenes": "coco"}
ANNOTATIONS = {
    "images": [{"id": 1, "file_name": "000000000001.jpg", "width": 32, "height": 24}],
    "categories": [{"id": 18, "name": "dog"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 18,
            "bbox": [4, 4, 8, 8],
            "area": 64,
            "iscrowd": 0,
            "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]],
        }
    ],
}


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24)).save(path)


@pytest.fixture(scope="session")
def roots(tmp_path_factory) -> dict[str, Path]:
    """ImageNet, Places205 and COCO as their archives unpack, with next to no images."""
    folder = tmp_path_factory.mktemp("roots")
    for wnid in ("n01440764", "n01443537"):
        for number in (1, 2):
            save(folder / "imagenet/ILSVRC/Data/CLS-LOC/train" / wnid / f"{wnid}_{number}.JPEG")
        save(folder / "imagenet/ILSVRC/Data/CLS-LOC/val" / wnid / "ILSVRC2012_val_00000001.JPEG")
    places = [f"a/place_{label:03}/gsun_1.jpg" for label in range(205)]
    for place in places:
        save(folder / "places205/data/vision/torralba/deeplearning/images256" / place)
    lists = folder / "places205/trainvalsplit_places205"
    lists.mkdir()
    for split in ("train", "val"):
        (lists / f"{split}_places205.csv").write_text("".join(f"{p} {label}\n" for label, p in enumerate(places)))
    (folder / "coco/annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        save(folder / "coco" / split / "000000000001.jpg")
        (folder / f"coco/annotations/instances_{split}.json").write_text(json.dumps(ANNOTATIONS))
    return {f"{key}_root": folder / name for key, name in FOLDERS.items()}


def test_every_run_and_every_evaluation_is_planned(project: Project, roots):
    planned = project.planned(study="imagenet", **roots)
    expected = {f"evaluate_{task}": NETWORKS for task in (*TRAINED, "frozen")}
    expected |= {"pretrain_baseline": METHODS, "pretrain_hirl": METHODS, "evaluate_hierarchy": METHODS}
    expected |= {"prepare_data": 1, "prepare_transfer": 1, "prepare_scenes": 1, "choose_labels": 1, "summarise": 1}
    expected |= {"draw_atlas": 1}
    assert expected.items() <= planned.items()


@pytest.mark.parametrize("command", re.findall(r"^snakemake .*", PAGE, re.MULTILINE))
def test_the_pages_commands_make_plans(project: Project, tmp_path, command):
    options, config = (part.split() for part in command.removeprefix("snakemake ").split(" --config "))
    named = dict(word.split("=", 1) for word in config)
    if "tokenizer" in named:  # a file that exists
        named["tokenizer"] = tmp_path / "encoder.pkl"
        named["tokenizer"].touch()
    assert project.planned(*[option for option in options if option != "--dry-run"], **named)


def test_the_images_are_found_where_the_archives_have_them(project: Project, roots):
    manifests = [f"results/imagenet/{folder}/manifest.json" for folder in ("data", "transfer", "scenes")]
    said = project.snakemake(*manifests, study="imagenet", **roots)
    assert said.returncode == 0, said.stdout
    data, transfer, _ = (json.loads((project.folder / path).read_text()) for path in manifests)
    assert (data["dataset"], data["splits"]) == ("imagenet", {"train": 4, "validation": 2})
    assert (transfer["dataset"], transfer["splits"]) == ("places205", {"train": 205, "validation": 205})

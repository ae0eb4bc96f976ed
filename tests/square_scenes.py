"""Scenes that any detector can learn: bright and dark squares on gray, in COCO's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = {3: "bright", 7: "dark"}  # ids with gaps, as COCO's
SHADES = {3: 230, 7: 20}


def write_squares(folder: Path, train: int = 12, validation: int = 6, side: int = 48) -> Path:
    """Write scenes with one bright and one dark square each, half of them 12 and half 16 pixels wide."""
    generator, facts = np.random.default_rng(0), {"name": "taxonomy", "digest": "2" * 64}
    for split, count in (("train", train), ("validation", validation)):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            picture = generator.normal(128, 8, (side, side, 3))
            size = 12 if number % 2 else 16
            for category, left in ((3, 0), (7, side // 2)):
                x, y = left + generator.integers(side // 2 - size), generator.integers(side - size)
                picture[y : y + size, x : x + size] = SHADES[category]
                annotations.append(square(number, category, int(x), int(y), size))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": side, "width": side})
        categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
        facts[split] = {"annotations": f"{split}.json", "images": split}
    (folder / "manifest.json").write_text(json.dumps(facts | {"categories": list(CATEGORIES.values())}))
    return folder


def square(image: int, category: int, x: int, y: int, size: int) -> dict[str, Any]:
    """Return the annotation of a square, with its polygon."""
    corners = [x, y, x + size, y, x + size, y + size, x, y + size]
    box = {"bbox": [x, y, size, size], "area": size**2, "iscrowd": 0}
    return {"image_id": image, "category_id": category, "segmentation": [corners], **box}

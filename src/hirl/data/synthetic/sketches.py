"""Draw the taxonomy in ink: the same shapes and textures, in colours that are independent of the class.

Ink, paper, pose, stroke and coffee stains are random in every picture, so that features of colour do not transfer from
the taxonomy and features of shape do.

Shapes: N pictures, S pixels a side.
"""

from __future__ import annotations

import numpy as np

from hirl.data.synthetic.taxonomy import (
    ACCENT,
    BODY,
    DARK,
    KINDS,
    NUM_CLASSES,
    PALE,
    Chance,
    Drawing,
    Field,
    class_paths,
    draw,
    mixed,
    posed,
    rgb,
    stripes,
    turn,
)

DENSITIES = ("sparse", "medium", "dense")  # textures of a kind's three classes
LINES_PER_UNIT = 9  # of the hatching
SEEDS = {"train": 1, "validation": 2}  # other drawn data sets use other seeds
NUM_IMAGES = (1800, 720)  # training and validation, if the configuration asks for no number


def sketch_paths() -> list[tuple[str, str, str]]:
    """Return every class's name, kind and body plan, in the order of the taxonomy's labels."""
    return [(f"{DENSITIES[c % 3]} {kind}", kind, plan) for c, (_, kind, plan) in enumerate(class_paths())]


def draw_sketches(split: str, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the first `count` pictures of a split, uint8 [N, 3, size, size], and their labels [N], class after class."""
    keys = np.arange(count)
    labels = keys % NUM_CLASSES
    return draw(labels, keys, size, SEEDS[split], sketch).images, labels


def sketch(x: Field, y: Field, label: int, chance: Chance) -> Drawing:
    """Draw pictures of a class in ink."""
    ink = rgb(chance.uniform(0, 1), chance.uniform(0.2, 0.9), chance.uniform(0.1, 0.35))
    paper = rgb(chance.uniform(0, 1), chance.uniform(0.05, 0.3), chance.uniform(0.75, 0.98))
    image, seen = inked(sheet(x, y, paper, chance), x, y, ink, paper, label, chance)
    image = stained(image, x, y, chance) + chance.noise[:, None] * chance.uniform(0, 0.03)[:, None]
    return Drawing(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), seen > 0.5)


def sheet(x: Field, y: Field, paper: np.ndarray, chance: Chance) -> np.ndarray:
    """Draw paper that darkens to one side, ruled in half of the pictures: [N, 3, S, S]."""
    along, across = turn(x, y, chance.uniform(0, 2 * np.pi))
    image = paper * (1 - chance.uniform(0, 0.2) * (0.5 + 0.5 * along))[:, None]
    spacing = chance.uniform(0.2, 0.5)
    rule = np.abs((across / spacing + chance.uniform(0, 1)) % 1 - 0.5) * spacing - 0.006
    ruled = np.clip(0.5 - rule * image.shape[-1] / 2, 0, 1) * (chance.uniform(0, 1) < 0.5)
    return mixed(image, paper * chance.color(0.3, 0.9), 0.5 * ruled)


def inked(
    image: np.ndarray, x: Field, y: Field, ink: np.ndarray, paper: np.ndarray, label: int, chance: Chance
) -> tuple[np.ndarray, Field]:
    """Draw an object of a class in a random pose; return the pictures and the part of each pixel that it covers."""
    u, v, scale = posed(x, y, chance)
    pixel = 2 / (image.shape[-1] * scale)
    u, v = trembling(u, v, chance)
    pen = np.maximum(chance.uniform(0.04, 0.08), pixel)
    hatching, _ = turn(u, v, chance.uniform(0, 2 * np.pi))
    shade, _ = turn(u, v, chance.uniform(0, 2 * np.pi))
    tones = {
        BODY: chance.uniform(0, 0.3) * np.clip(0.5 + 0.5 * shade, 0, 1),
        ACCENT: np.clip(0.5 - stripes(hatching, LINES_PER_UNIT) / pixel, 0.15, 0.9),
        DARK: np.full(x.shape, 0.9),
        PALE: np.zeros(x.shape),
    }
    seen = np.zeros(x.shape)
    for distance, part in KINDS[label // 3](u, v, label % 3):
        image = mixed(image, paper + (ink - paper) * tones[part][:, None], np.clip(0.5 - distance / pixel, 0, 1))
        stroke = np.clip(0.5 - (np.abs(distance) - pen / 2) / pixel, 0, 1)
        image = mixed(image, ink, stroke)
        seen = np.maximum(seen, np.clip(0.5 - (distance - pen / 2) / pixel, 0, 1))
    return image, seen


def trembling(u: Field, v: Field, chance: Chance) -> tuple[Field, Field]:
    """Return coordinates that are distorted as by an unsteady hand."""
    strength = chance.uniform(0, 0.04)
    swing = [np.sin(chance.uniform(3, 9) * w + chance.uniform(0, 2 * np.pi)) for w in (v, u)]
    return u + strength * swing[0], v + strength * swing[1]


def stained(image: np.ndarray, x: Field, y: Field, chance: Chance) -> np.ndarray:
    """Draw the ring of a coffee cup on half of the pictures."""
    u, v = turn(x, y, chance.uniform(0, 2 * np.pi))
    radius = np.hypot(u - chance.uniform(0.4, 1.1), v) - chance.uniform(0.4, 0.8)
    ring = np.exp(-((radius / chance.uniform(0.03, 0.07)) ** 2)) * (chance.uniform(0, 1) < 0.5)
    coffee = np.array([0.45, 0.3, 0.15])[:, None, None]
    return image * (1 - (1 - coffee) * (chance.uniform(0.3, 0.7) * ring)[:, None])

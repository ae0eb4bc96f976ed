"""Draw pictures of a known class tree: 4 body plans > 12 kinds > 36 classes.

A body plan fixes the silhouette, a kind the parts and the type of texture, a class the texture's frequency and a pair
of hues. Pose, light, backdrop and noise are random in every picture and independent of its class. Backdrops are plain,
so that small networks learn the objects within minutes: these pictures are made easy. Shapes are signed distances in an
object's own frame: x and y in about [-1, 1], y upwards, negative inside.

Shapes of arrays: N pictures, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hirl.files import atomic_path

Field = np.ndarray  # [N, S, S]: a coordinate, a distance or a fraction per pixel
Ink = int
BODY, ACCENT, DARK, PALE = range(4)
Parts = list[tuple[Field, Ink]]  # painted in this order

# --- shapes -----------------------------------------------------------------------------------------------------------


def ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float, degrees: float = 0) -> Field:
    """Return the distance to an ellipse, to first order."""
    x, y = turn(x - cx, y - cy, -np.radians(degrees))
    unit, slope = np.hypot(x / rx, y / ry), np.hypot(x / rx**2, y / ry**2)
    return unit * (unit - 1) / np.maximum(slope, 1e-6)


def polygon(x: Field, y: Field, *corners: tuple[float, float]) -> Field:
    """Return the distance to a closed polygon."""
    distance, inside = np.inf, np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        distance = np.minimum(distance, segment(x, y, ax, ay, bx, by))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return np.where(inside, -distance, distance)


def segment(x: Field, y: Field, ax: float, ay: float, bx: float, by: float, radius: float = 0) -> Field:
    """Return the distance to a line with round ends."""
    dx, dy = bx - ax, by - ay
    along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx**2 + dy**2), 0, 1)
    return np.hypot(x - ax - along * dx, y - ay - along * dy) - radius


def stripes(u: Field, per_unit: float) -> Field:
    """Return the distance to parallel bands, as wide as the gaps between them, one centred on 0."""
    return (np.abs((u * per_unit + 0.5) % 1 - 0.5) - 0.25) / per_unit


def spots(x: Field, y: Field, per_unit: float) -> Field:
    """Return the distance to discs on a grid, every second row shifted by half a step."""
    row = np.floor(y * per_unit)
    u, v = (x * per_unit + row % 2 / 2) % 1 - 0.5, y * per_unit - row - 0.5
    return (np.hypot(u, v) - 0.32) / per_unit


def around(x: Field, y: Field, count: int) -> tuple[Field, Field]:
    """Fold coordinates into one of `count` equal sectors, x along its middle."""
    radius, angle, sector = np.hypot(x, y), np.arctan2(y, x), 2 * np.pi / count
    angle = (angle + sector / 2) % sector - sector / 2
    return radius * np.cos(angle), radius * np.sin(angle)


def turn(x: Field, y: Field, angle: Field | float) -> tuple[Field, Field]:
    """Turn coordinates by an angle in radians."""
    return x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)


def union(*distances: Field) -> Field:
    """Return the union of the shapes."""
    return np.minimum.reduce(distances)


def within(shape: Field, *pattern: Field) -> Field:
    """Return the intersection of a shape and patterns."""
    return np.maximum.reduce([shape, *pattern])


# --- kinds: n is 0, 1 or 2, the class among its kind ------------------------------------------------------------------


def perch(x: Field, y: Field, n: int) -> Parts:
    """Draw a fish with a forked tail and upright bands."""
    body = ellipse(x, y, 0.14, 0, 0.76, 0.46)
    tail = polygon(x, y, (-0.4, 0), (-1, 0.6), (-0.8, 0), (-1, -0.6))
    fin = polygon(x, y, (-0.3, 0.3), (-0.2, 0.72), (0.4, 0.36))
    return [
        (union(tail, fin), BODY),
        (body, BODY),
        (within(body, stripes(x - 0.1, (1.3, 2.1, 3.2)[n])), ACCENT),
        *eye(x, y, 0.62, 0.12),
    ]


def puffer(x: Field, y: Field, n: int) -> Parts:
    """Draw a round fish with a fan tail and spots."""
    body = ellipse(x, y, 0.16, 0, 0.74, 0.7)
    tail = ellipse(x, y, -0.72, 0, 0.26, 0.36)
    return [(tail, ACCENT), (body, BODY), (within(body, spots(x, y, (1.7, 2.4, 3.4)[n])), ACCENT), *eye(x, y, 0.6, 0.2)]


def pike(x: Field, y: Field, n: int) -> Parts:
    """Draw a slim fish with a pointed tail and lines along its flank."""
    body = ellipse(x, y, 0.12, 0, 0.92, 0.38)
    tail = polygon(x, y, (-0.55, 0), (-0.85, 0.4), (-1.05, 0), (-0.85, -0.4))
    return [(tail, BODY), (body, BODY), (within(body, stripes(y, (1.8, 2.8, 4.0)[n])), ACCENT), *eye(x, y, 0.72, 0.08)]


def eye(x: Field, y: Field, cx: float, cy: float) -> Parts:
    """Draw a pale eye with a dark pupil."""
    return [(ellipse(x, y, cx, cy, 0.13, 0.13), PALE), (ellipse(x, y, cx, cy, 0.07, 0.07), DARK)]


def monarch(x: Field, y: Field, n: int) -> Parts:
    """Draw a butterfly with round wings, a rim and veins."""
    wings = round_wings(x, y)
    rim = within(wings, -wings - (0.1, 0.15, 0.2)[n])
    _, across = around(np.abs(x), y, (8, 12, 18)[n])
    return [(wings, BODY), (within(wings, np.abs(across) - 0.035), DARK), (rim, ACCENT), *thorax(x, y)]


def peacock(x: Field, y: Field, n: int) -> Parts:
    """Draw a butterfly with round wings and eye-spots."""
    wings, side = round_wings(x, y), np.abs(x)
    centers = ([(0.58, 0.4)], [(0.58, 0.4), (0.44, -0.46)], [(0.74, 0.5), (0.34, 0.26), (0.44, -0.5)])[n]
    radius = (0.3, 0.24, 0.18)[n]
    spot = union(*(np.hypot(side - cx, y - cy) for cx, cy in centers))
    return [
        (wings, BODY),
        (spot - radius, ACCENT),
        (spot - radius * 0.62, PALE),
        (spot - radius * 0.34, DARK),
        *thorax(x, y),
    ]


def swallowtail(x: Field, y: Field, n: int) -> Parts:
    """Draw a butterfly with pointed, tailed wings and slanting bars."""
    side = np.abs(x)
    upper = polygon(side, y, (0, 0.1), (0.62, 0.92), (1, 0.74), (0.66, -0.12), (0, -0.1))
    lower = polygon(side, y, (0, 0), (0.66, -0.1), (0.6, -0.5), (0.62, -1), (0.42, -0.62), (0, -0.5))
    wings = union(upper, lower)
    return [
        (wings, BODY),
        (within(wings, stripes(side * 0.8 + y * 0.6 - 0.2, (1.4, 2.2, 3.2)[n])), ACCENT),
        *thorax(x, y),
    ]


def round_wings(x: Field, y: Field) -> Field:
    """Return the distance to two pairs of round wings."""
    side = np.abs(x)
    return union(ellipse(side, y, 0.5, 0.38, 0.54, 0.42, 35), ellipse(side, y, 0.42, -0.46, 0.42, 0.4, -40))


def thorax(x: Field, y: Field) -> Parts:
    """Draw a butterfly's body and feelers."""
    return [(union(segment(x, y, 0, -0.55, 0, 0.45, 0.09), segment(np.abs(x), y, 0, 0.45, 0.25, 0.9, 0.03)), DARK)]


def daisy(x: Field, y: Field, n: int) -> Parts:
    """Draw a flower of many narrow petals around a large heart."""
    count = (8, 11, 15)[n]
    petals = ellipse(*around(x, y, count), 0.6, 0, 0.42, 1.5 / count)
    heart, radius = np.hypot(x, y), (0.44, 0.34, 0.26)[n]
    return [(petals, BODY), (heart - radius, ACCENT), (heart - radius * 0.4, DARK)]


def pansy(x: Field, y: Field, n: int) -> Parts:
    """Draw a flower of few broad petals with blotches."""
    count = (3, 4, 5)[n]
    u, v = around(x, y, count)
    petals = ellipse(u, v, 0.5, 0, 0.52, 1.9 / count)
    petals = union(petals, np.hypot(x, y) - 0.3)
    blotch = within(petals, ellipse(u, v, 0.36, 0, 0.36, 0.8 / count))
    return [(petals, BODY), (blotch, ACCENT), (np.hypot(x, y) - 0.15, PALE)]


def lily(x: Field, y: Field, n: int) -> Parts:
    """Draw a flower of pointed petals with a line along each."""
    count = (5, 6, 8)[n]
    u, v = around(x, y, count)
    petals = union(polygon(u, v, (0, 0), (0.45, 1.5 / count), (1.05, 0), (0.45, -1.5 / count)), np.hypot(x, y) - 0.2)
    return [(petals, BODY), (within(petals, np.abs(v) - 0.07, 0.2 - u), ACCENT), (np.hypot(x, y) - 0.2, DARK)]


def toadstool(x: Field, y: Field, n: int) -> Parts:
    """Draw a mushroom with a domed, spotted cap."""
    cap = within(ellipse(x, y, 0, 0, 0.95, 0.9), -0.02 - y)
    stem = polygon(x, y, (-0.24, 0.1), (0.24, 0.1), (0.34, -0.95), (-0.34, -0.95))
    return [(stem, PALE), (cap, BODY), (within(cap, spots(x, y - 0.1, (1.6, 2.4, 3.4)[n])), ACCENT)]


def inkcap(x: Field, y: Field, n: int) -> Parts:
    """Draw a mushroom with a tall, ribbed cap."""
    cap = within(ellipse(x, y, 0, -0.45, 0.62, 1.42), -0.45 - y)
    stem = segment(x, y, 0, -0.3, 0, -0.95, 0.13)
    return [(stem, PALE), (cap, BODY), (within(cap, stripes(x, (1.9, 2.8, 4.0)[n])), ACCENT)]


def parasol(x: Field, y: Field, n: int) -> Parts:
    """Draw a mushroom with a flat cap and a ringed stem."""
    cap = within(ellipse(x, y, 0, 0.3, 1.02, 0.56), 0.25 - y)
    stem = segment(x, y, 0, 0.3, 0, -0.95, 0.14)
    return [
        (stem, PALE),
        (within(stem, stripes(y, (1.2, 2.0, 3.2)[n])), DARK),
        (cap, BODY),
        (within(cap, stripes(np.hypot(x, y + 0.1), (2.0, 3.0, 4.4)[n])), ACCENT),
    ]


PLANS: dict[str, tuple[Callable[[Field, Field, int], Parts], ...]] = {
    "fish": (perch, puffer, pike),
    "butterfly": (monarch, peacock, swallowtail),
    "flower": (daisy, pansy, lily),
    "mushroom": (toadstool, inkcap, parasol),
}
KINDS = [kind for kinds in PLANS.values() for kind in kinds]
NUM_CLASSES = 3 * len(KINDS)
LEVELS = ("class", "kind", "body plan")
NUM_IMAGES = (3600, 1080)  # of the packed splits, training and validation
HUES = ("red", "orange", "yellow", "lime", "green", "mint", "teal", "sky", "blue", "violet", "purple", "pink")


def body_hue(label: int) -> float:
    """Return a class's hue in [0, 1): golden steps, so that siblings differ and no hue marks a branch of the tree."""
    return label * 0.618034 % 1


def class_paths() -> list[tuple[str, str, str]]:
    """Return every class's name, kind and body plan, in the order of the labels."""
    plans = [plan for plan, kinds in PLANS.items() for _ in kinds]
    hue = [HUES[int(body_hue(label) * len(HUES) + 0.5) % len(HUES)] for label in range(NUM_CLASSES)]
    return [(f"{hue[c]} {KINDS[c // 3].__name__}", KINDS[c // 3].__name__, plans[c // 3]) for c in range(NUM_CLASSES)]


# --- pictures ---------------------------------------------------------------------------------------------------------


class Drawing(NamedTuple):
    """Pictures and the masks of their objects."""

    images: np.ndarray  # uint8 [N, 3, S, S]
    masks: np.ndarray  # bool [N, S, S]


class Chance:
    """The random numbers of pictures, used in a fixed order; a key and the seed fix those of one picture."""

    def __init__(self, keys: np.ndarray, size: int, seed: int):
        generators = [np.random.default_rng((seed, key)) for key in keys]
        self._numbers = iter(np.stack([generator.random(64) for generator in generators], axis=1))
        self.noise = np.stack([generator.standard_normal((size, size)) for generator in generators])

    def uniform(self, low: float, high: float) -> np.ndarray:
        """Return a number per picture, [N, 1, 1]."""
        return low + (high - low) * next(self._numbers)[:, None, None]

    def color(self, low: float, high: float) -> np.ndarray:
        """Return a colour per picture, [N, 3, 1, 1]."""
        return np.stack([self.uniform(low, high) for _ in "rgb"], axis=1)


Style = Callable[[Field, Field, int, Chance], Drawing]  # draws pictures of one class, in coordinates x and y


def painting(x: Field, y: Field, label: int, chance: Chance) -> Drawing:
    """Draw pictures of a class in its colours."""
    image = backdrop(x, y, chance)
    image, seen = object_on(image, x, y, label, chance)
    image = lit(image, x, y, chance) + chance.noise[:, None] * chance.uniform(0, 0.02)[:, None]
    return Drawing(quantized(image), seen > 0.5)


def draw(labels: np.ndarray, keys: np.ndarray, size: int, seed: int = 0, style: Style = painting) -> Drawing:
    """Draw a picture for each label [N]; its key [N] and the seed fix its random numbers, whatever the batch."""
    labels, keys = np.asarray(labels), np.asarray(keys)
    assert labels.shape == keys.shape
    assert np.isin(labels, range(NUM_CLASSES)).all()
    drawing = Drawing(np.empty((len(labels), 3, size, size), np.uint8), np.empty((len(labels), size, size), bool))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for block in np.split(rows, range(64, len(rows), 64)):
            chance = Chance(keys[block], size, seed)
            drawing.images[block], drawing.masks[block] = style(*coordinates(chance.noise.shape), int(label), chance)
    return drawing


def coordinates(shape: tuple[int, ...]) -> tuple[Field, Field]:
    """Return x and y of the pixels' centres, in [-1, 1]."""
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) * 2 / size - 1 for size in shape[1:]], indexing="ij")
    return np.broadcast_to(x, shape), np.broadcast_to(-y, shape)


def backdrop(x: Field, y: Field, chance: Chance) -> np.ndarray:
    """Draw a plain wall: a gentle gradient around a gray with a tint, [N, 3, S, S]."""
    along, _ = turn(x, y, chance.uniform(0, 2 * np.pi))
    wall = chance.uniform(0.25, 0.9)[:, None] + chance.color(-0.1, 0.1)
    return wall + (chance.uniform(0, 0.1) * along)[:, None]


def object_on(image: np.ndarray, x: Field, y: Field, label: int, chance: Chance) -> tuple[np.ndarray, Field]:
    """Paint an object of a class in a random pose; return the pictures and the part of each pixel that it covers."""
    u, v, scale = posed(x, y, chance)
    return paint(image, u, v, 2 / (image.shape[-1] * scale), label, chance)


def posed(x: Field, y: Field, chance: Chance) -> tuple[Field, Field, np.ndarray]:
    """Return coordinates in the frame of an object in a random pose, and the object's scale."""
    scale, angle = chance.uniform(0.7, 1.05), np.radians(chance.uniform(-28, 28))
    mirror = np.where(chance.uniform(0, 1) < 0.5, -1, 1)
    room = 1.25 - scale
    u, v = turn(x - room * chance.uniform(-1, 1), y - room * chance.uniform(-1, 1), angle)
    return u * mirror / scale, v * chance.uniform(0.9, 1.1) / scale, scale


def paint(
    image: np.ndarray, u: Field, v: Field, pixel: np.ndarray | float, label: int, chance: Chance
) -> tuple[np.ndarray, Field]:
    """Paint an object in its own frame, where `pixel` is the width of a pixel; return as `object_on`."""
    inks = _inks(label, chance)
    sheen = 1 + chance.uniform(0, 0.25) * turn(u, v, chance.uniform(0, 2 * np.pi))[0]
    seen = np.zeros(u.shape)
    for distance, ink in KINDS[label // 3](u, v, label % 3):
        cover = np.clip(0.5 - distance / pixel, 0, 1)
        rim = 1 - 0.45 * np.clip(1 + distance / 0.09, 0, 1) if ink == BODY else 1
        image = mixed(image, np.clip(inks[ink] * (sheen * rim)[:, None], 0, 1), cover)
        seen = np.maximum(seen, cover)
    return image, seen


def _inks(label: int, chance: Chance) -> list[np.ndarray]:
    """Return the four inks, each [N, 3, 1, 1]; a class fixes two hues and which of them is lighter."""
    hue = body_hue(label) + chance.uniform(-0.06, 0.06)
    light, dark = chance.uniform(0.75, 1), chance.uniform(0.3, 0.5)
    body, accent = (light, dark) if label % 2 else (dark + 0.1, light)
    saturation = chance.uniform(0.5, 0.9)
    return [
        rgb(hue, saturation, body),
        rgb(hue + (0.33, 0.5, 0.67)[label % 3], saturation, accent),
        rgb(hue, saturation, chance.uniform(0.05, 0.15)),
        rgb(hue, saturation * 0.15, chance.uniform(0.85, 1)),
    ]


def lit(image: np.ndarray, x: Field, y: Field, chance: Chance) -> np.ndarray:
    """Light the pictures with a random strength and tint, from a random side."""
    along, _ = turn(x, y, chance.uniform(0, 2 * np.pi))
    strength = chance.uniform(0.65, 1.15) * (1 + chance.uniform(0, 0.35) * along)
    return image * strength[:, None] * chance.color(0.75, 1.15)


def mixed(under: np.ndarray, over: np.ndarray, opacity: Field) -> np.ndarray:
    """Blend one colour over another with an opacity [N, S, S]."""
    return under + (over - under) * np.clip(opacity, 0, 1)[:, None]


def rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Convert HSV in [0, 1] to RGB [N, 3, 1, 1]."""
    sector = (np.stack([hue * 6 + n for n in (5, 3, 1)], axis=1)) % 6
    return value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(sector, 4 - sector), 0, 1))


def quantized(image: np.ndarray) -> np.ndarray:
    """Quantize [0, 1] to 40 levels of a byte: the eye sees no difference, and the packed file is half as large."""
    return np.rint(np.rint(np.clip(image, 0, 1) * 39) * (255 / 39)).astype(np.uint8)


# --- files ------------------------------------------------------------------------------------------------------------


def write_taxonomy(
    out: Path, train: int = NUM_IMAGES[0], validation: int = NUM_IMAGES[1], size: int = 32, seed: int = 0
) -> None:
    """Draw both splits and pack them as `train.npz` and `validation.npz`.

    Labels are 0, 1, 2, and so on, and both splits have keys of their own. A file holds images uint8
    [N, 3, size, size], labels int64 [N] and classes [C, 3]: every class's name, kind and body plan.

    Raises:
        ValueError: a split has fewer pictures than classes, or the folder cannot be written.
    """
    for split, count in (("train", train), ("validation", validation)):
        if count < NUM_CLASSES:
            raise ValueError(f"{split} is {count}: give at least {NUM_CLASSES} pictures, one for every class")
    if size < 8:
        raise ValueError(f"size is {size}: give at least 8 pixels")
    keys = np.arange(train + validation)
    for split, chosen in (("train", keys[:train]), ("validation", keys[train:])):
        labels = chosen % NUM_CLASSES
        images = draw(labels, chosen, size, seed).images
        with atomic_path(Path(out) / f"{split}.npz") as path:
            np.savez_compressed(path, images=images, labels=labels, classes=np.array(class_paths()))

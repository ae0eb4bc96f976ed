"""Draw HIRL in one picture: `python workflow/draw_hirl.py docs/images/hirl.svg`.

Left: an image and two views of it pass through the network and one projection per level. Right: a semantic tree, the
finest level at the bottom, with the image's path in strong colours. Its pictures are the demo's own, drawn anew here.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from hirl.data.synthetic.taxonomy import draw
from hirl.files import write_text

WIDTH, HEIGHT = 1200, 568
SIDE = 48  # pixels of an embedded picture
INK, GRAY, LINE, FAINT, PATH, PAPER = "#24292f", "#6b7480", "#c3c9d1", "#f3f5f8", "#1f5fa8", "#ffffff"
FONT = "font-family='Helvetica, Arial, sans-serif' font-size='31'"

# The finest clusters from left to right: class label and four pictures of it. The first cluster is the image's own.
CLUSTERS = (
    (5, (501, 508, 502, 513)),
    (3, (301, 303, 306, 318)),
    (0, (3, 7, 12, 18)),
    (2, (201, 209, 213, 214)),
    (18, (1801, 1804, 1805, 1817)),
    (19, (1901, 1903, 1911, 1917)),
    (24, (2401, 2403, 2406, 2418)),
    (26, (2601, 2605, 2607, 2614)),
)
LEVELS = ((458, 68), (288, 88), (118, 108))  # the middle and the size of a level's boxes, finest first
FIRST_BOX, BOX_STEP = 597, 77  # the middle of the finest level's first box, and from one to the next
PROJECTIONS = 478  # the middle of the projections


def draw_diagram() -> str:
    """Return the diagram as SVG text."""
    pictures = [draw(np.full(len(keys), label), np.array(keys), SIDE).images for label, keys in CLUSTERS]
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' {FONT} fill='{INK}'>",
        "<title>HIRL: an image, its views, the network, one projection per level, and the semantic tree</title>",
        f"<rect x='1' y='1' width='{WIDTH - 2}' height='{HEIGHT - 2}' rx='18' fill='{PAPER}' stroke='{LINE}'/>",
        *_links(),
        *_network(as_picture(pictures[0][0])),
        *_tree([[as_picture(image) for image in images] for images in pictures]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def as_picture(image: np.ndarray) -> Image.Image:
    """Return the picture of an array uint8 [3, S, S]."""
    return Image.fromarray(image.transpose(1, 2, 0))


def _network(image: Image.Image) -> list[str]:
    """Draw what an image passes through: views, network, projections."""
    middle = LEVELS[1][0]
    views = (image.crop((2, 0, 38, 36)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), _faded(image.crop((8, 6, 48, 46))))
    parts = [
        *(_arrow(144, middle + offset / 2, 182, middle + offset) for offset in (-56, 56)),
        *(_arrow(266, middle + offset, 308, middle + offset / 3) for offset in (-56, 56)),
        *(_arrow(412, middle + (level - middle) / 3, PROJECTIONS - 25, level, PATH) for level, _ in LEVELS),
        _embedded(image, 30, middle - 55, 110),
        _embedded(views[0], 186, middle - 56 - 38, 76),
        _embedded(views[1], 186, middle + 56 - 38, 76),
        f"<path d='M312 {middle - 92} L408 {middle - 62} V{middle + 62} L312 {middle + 92} Z' fill='{FAINT}' "
        f"stroke='{INK}' stroke-width='2.5' stroke-linejoin='round'/>",
        _text(85, middle + 96, "image"),
        _text(224, middle + 130, "views"),
        _text(360, middle + 130, "network"),
        _text(PROJECTIONS - 6, HEIGHT - 24, "projections"),
    ]
    for level, (y, _) in enumerate(LEVELS):
        parts.append(f"<rect x='{PROJECTIONS - 20}' y='{y - 34}' width='40' height='68' rx='12' fill='{PATH}'/>")
        parts.append(
            f"<text x='{PROJECTIONS}' y='{y + 10}' text-anchor='middle' fill='{PAPER}'>z"
            f"<tspan font-size='20' dy='7'>{level + 1}</tspan></text>"
        )
    return parts


def _tree(pictures: list[list[Image.Image]]) -> list[str]:
    """Draw the clusters of every level: a cluster shows pictures of the clusters below it."""
    parts = []
    for level, (y, size) in enumerate(LEVELS):
        for number, x in enumerate(_centers(level)):
            parts += _cluster(x, y, size, pictures[number], on_path=number == 0)
        pairs = zip(pictures[::2], pictures[1::2], strict=True)
        pictures = [[left[0], right[0], right[1], left[1]] for left, right in pairs]
    coarse = _centers(2)
    return [
        *parts,
        _text(coarse[0], 46, "semantic path", PATH, "bold"),
        _text(coarse[1], 46, "negative paths", GRAY),
        _text(sum(coarse) / 2, LEVELS[2][0] + 10, "coarsest"),
        _text(sum(_centers(0)) / 8, HEIGHT - 24, "finest"),
    ]


def _cluster(x: float, y: float, size: float, pictures: list[Image.Image], on_path: bool) -> list[str]:
    """Draw a box of four pictures, in strong colours if the image's path passes it."""
    color, width, opacity = (PATH, 6, 1) if on_path else (LINE, 2, 0.5)
    half, inner = size / 2, (size - 10) / 2
    corners = [(column * inner + 4 + column * 2, row * inner + 4 + row * 2) for row in (0, 1) for column in (0, 1)]
    images = [
        _embedded(image, x - half + left, y - half + top, inner)
        for image, (left, top) in zip(pictures, corners, strict=True)
    ]
    return [
        f"<rect x='{x - half:g}' y='{y - half:g}' width='{size}' height='{size}' rx='9' fill='{PAPER}' "
        f"stroke='{color}' stroke-width='{width}'/>",
        f"<g opacity='{opacity}'>",
        *images,
        "</g>",
    ]


def _links() -> list[str]:
    """Draw the lines of the tree, and from each projection to its level of the path."""
    parts = []
    for level in (0, 1):
        parents = _centers(level + 1)
        for number, x in reversed(list(enumerate(_centers(level)))):
            color, width = (PATH, 7) if number == 0 else (LINE, 2.5)
            bottom, top = LEVELS[level][0] - LEVELS[level][1] / 2, LEVELS[level + 1][0] + LEVELS[level + 1][1] / 2
            middle = (top + bottom) / 2
            parent = parents[number // 2]
            parts.append(
                f"<path d='M{x:g} {bottom:g} C{x:g} {middle:g} {parent:g} {middle:g} {parent:g} {top:g}' "
                f"fill='none' stroke='{color}' stroke-width='{width}'/>"
            )
    for level, (y, size) in enumerate(LEVELS):
        end = _centers(level)[0] - size / 2 - 5
        parts.append(
            f"<line x1='{PROJECTIONS + 20}' y1='{y}' x2='{end:g}' y2='{y}' stroke='{PATH}' stroke-width='4' "
            "stroke-dasharray='3 8' stroke-linecap='round'/>"
        )
    return parts


def _centers(level: int) -> list[float]:
    """Return the middles of a level's clusters: a cluster stands over the two below it."""
    centers = [FIRST_BOX + BOX_STEP * number for number in range(len(CLUSTERS))]
    for _ in range(level):
        centers = [(left + right) / 2 for left, right in zip(centers[::2], centers[1::2], strict=True)]
    return centers


def _arrow(x1: float, y1: float, x2: float, y2: float, color: str = INK) -> str:
    """Draw an arrow with its head at the second point."""
    direction = np.array([x2 - x1, y2 - y1]) / np.hypot(x2 - x1, y2 - y1)
    across, tip = np.array([-direction[1], direction[0]]), np.array([x2, y2])
    base = tip - 13 * direction
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, base + 8 * across, base - 8 * across))
    return (
        f"<line x1='{x1:g}' y1='{y1:g}' x2='{base[0]:.1f}' y2='{base[1]:.1f}' stroke='{color}' stroke-width='3'/>"
        f"<polygon points='{head}' fill='{color}'/>"
    )


def _text(x: float, y: float, words: str, color: str = INK, weight: str = "normal") -> str:
    return f"<text x='{x:g}' y='{y:g}' text-anchor='middle' fill='{color}' font-weight='{weight}'>{words}</text>"


def _embedded(image: Image.Image, x: float, y: float, side: float) -> str:
    """Return a picture as part of the drawing, in few colours so that the file stays small."""
    buffer = io.BytesIO()
    image.quantize(48, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<image x='{x:g}' y='{y:g}' width='{side:g}' height='{side:g}' href='data:image/png;base64,{data}'/>"


def _faded(image: Image.Image) -> Image.Image:
    """Return the picture as an augmentation leaves it: paler and brighter."""
    return ImageEnhance.Brightness(ImageEnhance.Color(image).enhance(0.25)).enhance(1.25)


if __name__ == "__main__":
    write_text(Path(sys.argv[1]), draw_diagram())

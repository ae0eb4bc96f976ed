"""`hirl data`: make and prepare images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hirl.cli.options import add_group, add_out, add_prepared_data, add_step, add_study, overrides
from hirl.config import LABEL_PERCENTS, load_study
from hirl.config.tasks import labels_file


def add(steps: Any) -> None:
    """Add the steps of this module."""
    data = add_group(steps, "data", "make and prepare images")

    step = add_step(data, "taxonomy", make_taxonomy, "draw images of a known three-level class tree")
    add_out(step, "FOLDER")
    step.add_argument("--train", type=int, default=3600, help="training images (default %(default)s)")
    step.add_argument("--validation", type=int, default=1080, help="validation images (default %(default)s)")
    step.add_argument("--size", type=int, default=32, help="side in pixels (default %(default)s)")
    step.add_argument("--seed", type=int, default=0)

    step = add_step(data, "prepare", prepare_data, "decode and split a study's images")
    add_study(step)
    step.add_argument("--transfer", action="store_true", help="prepare the images of the transfer task instead")
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where the images are, or are downloaded to")
    add_out(step, "FOLDER")

    step = add_step(
        data, "scenes", prepare_scenes, "draw scenes with boxes and masks, or read a folder in COCO's layout"
    )
    add_study(step)
    step.add_argument("--data-root", type=Path, metavar="FOLDER", help="where annotations/ and the images are")
    add_out(step, "FOLDER")

    step = add_step(
        data, "labels", choose_labels, "choose the images that keep their labels, for semi-supervised tasks"
    )
    add_study(step)
    add_prepared_data(step)
    step.add_argument("--out", type=Path, metavar="FOLDER", help="default: the prepared data's")


def make_taxonomy(args: argparse.Namespace) -> None:
    """Draw the taxonomy's images."""
    from hirl.data.synthetic.taxonomy import write_taxonomy

    write_taxonomy(args.out, train=args.train, validation=args.validation, size=args.size, seed=args.seed)


def prepare_data(args: argparse.Namespace) -> None:
    """Decode and split a study's images, or those of its transfer task."""
    from hirl.data.images import prepare

    config = load_study(args.study).resolve_any(overrides(args))
    prepare(config.transfer_data if args.transfer else config.data, args.data_root, args.out)


def prepare_scenes(args: argparse.Namespace) -> None:
    """Draw the scenes of a study's detection, or read a folder in COCO's layout."""
    from hirl.data.synthetic.scenes import prepare_scenes

    config = load_study(args.study).resolve_any(overrides(args))
    prepare_scenes(config.scenes, args.data_root, args.out)


def choose_labels(args: argparse.Namespace) -> None:
    """Write the lists of images that keep their labels, one for each percentage."""
    from hirl.data.label_subsets import choose_labels

    config = load_study(args.study).resolve_any(overrides(args))
    for percent in LABEL_PERCENTS:
        out = (args.out or args.data) / labels_file(percent)
        choose_labels(args.data, percent, config.data.label_lists.get(percent), out)

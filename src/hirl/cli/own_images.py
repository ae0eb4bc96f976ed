"""`hirl fit`, `atlas`, `embed`, `neighbours` and `path`: pictures of your own, from a folder to their tree."""

from __future__ import annotations

import argparse
import os
import re
import sys
import webbrowser
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.cli.options import add_step
from hirl.config import parse_override
from hirl.estimator.defaults import METHODS, VARIANTS
from hirl.files import atomic_path

if TYPE_CHECKING:
    from hirl.estimator.model import HIRL

RESULTS = Path("results")
MODEL = "model.safetensors"  # in the folder of a fit, as hirl.estimator.store has it
SHOWN = 3  # nearest images that `hirl path` names


def add(steps: Any) -> None:
    """Add the steps of this module."""
    step = _add(
        steps,
        "fit",
        fit,
        "train on a folder of images, cluster them, and write the atlas of their tree",
        "hirl fit photos --method dino --epochs 50",
    )
    step.set_defaults(after_stop=after_stop)
    _add_folder(step)
    step.add_argument("--method", choices=METHODS, default="mocov2", help="default: %(default)s")
    step.add_argument(
        "--variant", choices=tuple(VARIANTS), default="hirl", help="default: %(default)s, as in the paper"
    )
    step.add_argument("--weights", metavar="FILE|NAME", help="start from trained weights")
    step.add_argument("--epochs", type=int, help="passes over the images; default: by their number and the machine")
    step.add_argument("--batch", type=int, help="images per step; default: by their number")
    _add_network(step)
    _add_tree(step)

    step = _add(
        steps,
        "atlas",
        atlas,
        "cluster a folder of images by trained weights, and write the atlas; no training",
        "hirl atlas photos --weights resnet50.a1_in1k",
    )
    _add_folder(step)
    step.add_argument("--weights", metavar="FILE|NAME", help="of the network; not needed for the results of `hirl fit`")
    _add_network(step)
    _add_tree(step)

    step = _add(
        steps,
        "embed",
        embed,
        "write the features of images to a file for numpy",
        "hirl embed photos --out features.npz",
    )
    step.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER")
    _add_model(step)
    step.add_argument("--out", type=Path, default=Path("features.npz"), metavar="FILE", help="default: %(default)s")

    step = _add(
        steps, "neighbours", neighbours, "show the fitted images nearest to an image", "hirl neighbours new.jpg -k 5"
    )
    _add_image(step)
    step.add_argument("-k", type=int, default=10, help="how many (default %(default)s)")

    step = _add(steps, "path", path, "show an image's path through the tree, coarse to fine", "hirl path new.jpg")
    _add_image(step)


def _add(steps: Any, name: str, function: Callable[..., None], help: str, example: str) -> argparse.ArgumentParser:
    """Add a step that computes, in one process."""
    step = add_step(steps, name, function, help, example)
    step.set_defaults(ranks=1)
    return step


def _add_folder(step: argparse.ArgumentParser) -> None:
    step.add_argument("folder", type=Path, help="images: flat, in class folders, or with train/ and val/")
    step.add_argument(
        "--out", type=Path, metavar="FOLDER", help="gets all results; default: results/NAME OF THE FOLDER"
    )
    step.add_argument("--no-labels", action="store_true", help="take no folder's name for a class")
    step.add_argument("--no-open", action="store_true", help="do not open the atlas in a browser")


def _add_network(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--network", metavar="NAME", help="such as resnet18 or timm:convnext_tiny; for a file of timm's too"
    )
    step.add_argument("--size", type=int, help="side of the images that the network sees, in pixels")


def _add_tree(step: argparse.ArgumentParser) -> None:
    step.add_argument("--clusters", type=int, nargs="+", metavar="N", help="of each level, fine to coarse")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting; repeatable")


def _add_image(step: argparse.ArgumentParser) -> None:
    step.add_argument("image", type=Path, metavar="IMAGE")
    _add_model(step)


def _add_model(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--model", metavar="FOLDER|FILE|NAME", help="results of `hirl fit`, or weights; default: the newest in results/"
    )


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit(args: argparse.Namespace) -> None:
    """Train on a folder of images, cluster them, and write model and atlas; a killed call resumes."""
    from hirl.estimator.model import HIRL

    model = HIRL(args.method, variant=args.variant, epochs=args.epochs, batch_size=args.batch, **_parameters(args))
    _fit(model, args, args.out or RESULTS / _name(args.folder))


def after_stop(args: argparse.Namespace) -> str:
    """Return what a user reads who has stopped a fit."""
    return f"hirl: stopped; the same command goes on with {args.folder}"


def atlas(args: argparse.Namespace) -> None:
    """Cluster a folder of images by trained weights; or write the atlas of what `hirl fit` left in a folder again."""
    if args.weights is None:
        if not (args.folder / MODEL).is_file():
            raise ValueError(
                f"{args.folder} holds no {MODEL} of `hirl fit`: give --weights FILE or NAME, or fit it first"
            )
        model = _load(args.folder)
        _write_atlas(model, (args.out or args.folder) / "atlas.html", args)
        return
    from hirl.estimator.model import HIRL

    tag = re.sub(r"[^\w.-]+", "_", Path(args.weights).stem if Path(args.weights).exists() else args.weights)
    model = HIRL(epochs=0, **_parameters(args))
    _fit(model, args, args.out or RESULTS / f"{_name(args.folder)}-{tag}")


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that fitting and clustering share."""
    return {
        "weights": args.weights,
        "backbone": args.network,
        "image_size": args.size,
        "num_clusters": args.clusters,
        "labels": not args.no_labels,
        "settings": dict(map(parse_override, args.set)),
        "random_state": args.seed,
        "verbose": True,
    }


def _name(folder: Path) -> str:
    return folder.resolve().name


def _fit(model: HIRL, args: argparse.Namespace, out: Path) -> None:
    model.set_params(folder=out).fit(args.folder)
    model.save(out / MODEL)
    if model.knn_accuracy_ is not None:
        classes = len(model.classes_tree_.class_names[0])
        print(f"kNN top-1 on held-out images: {model.knn_accuracy_:.1f} % (chance {100 / classes:.1f} %)")
    _write_atlas(model, out / "atlas.html", args)
    print(f"next: hirl path IMAGE, hirl neighbours IMAGE, hirl embed FOLDER; in Python hirl.load({str(out)!r})")


def _write_atlas(model: HIRL, path: Path, args: argparse.Namespace) -> None:
    model.write_atlas(path, title=_name(args.folder))
    print(f"atlas: {path}", flush=True)
    if not args.no_open and _has_browser():
        webbrowser.open(path.resolve().as_uri())


def _has_browser() -> bool:
    """Return whether someone sits at a terminal with a screen on which a browser can open."""
    has_screen = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return sys.stdout.isatty() and has_screen


# --- using a fit ------------------------------------------------------------------------------------------------------


def embed(args: argparse.Namespace) -> None:
    """Write the features and paths of images."""
    import numpy as np

    from hirl.data.pictures import open_pictures

    files = [file for given in args.images for file in open_pictures(given).paths or ()]
    features = _load(args.model).transform(files)
    with atomic_path(args.out) as temporary, temporary.open("wb") as handle:
        np.savez(handle, features=features, files=np.array([str(file) for file in files]))
    print(f"{len(features)} x {features.shape[1]} features: {args.out}")


def neighbours(args: argparse.Namespace) -> None:
    """Print the fitted images nearest to an image, and their cosines."""
    model = _load(args.model)
    places, cosines = model.neighbors(args.image, args.k)
    for place, cosine in zip(places[0].tolist(), cosines[0].tolist(), strict=True):
        print(f"{cosine:6.3f}  {_image_name(model, place)}")


def path(args: argparse.Namespace) -> None:
    """Print an image's path, and of each cluster on it the number of images and the most frequent class."""
    model = _load(args.model)
    own = model.predict_path(args.image)[0].tolist()
    assignments = model.tree_.assignments.numpy()
    for level in reversed(range(len(own))):
        members = assignments[:, level] == own[level]
        line = f"level {level}  cluster {own[level]:>5}  {members.sum():>6} images  {_majority(model, members, level)}"
        print(line.rstrip())
    for place in model.neighbors(args.image, min(SHOWN, len(model.labels_)))[0][0].tolist():
        print(f"nearest  {_image_name(model, place)}")


def _image_name(model: HIRL, place: int) -> str:
    return f"picture {place}" if model.paths_ is None else str(model.paths_[place])


def _majority(model: HIRL, members: Any, level: int) -> str:
    """Return the most frequent class of a cluster, and its share."""
    names = model.classes_tree_.class_names
    if not names:
        return ""
    class_level = min(level, len(names) - 1)
    counts = Counter(model.class_labels_[members, class_level].tolist())
    if not counts:
        return ""
    label, count = counts.most_common(1)[0]
    return f"{names[class_level][label]} {100 * count / counts.total():.0f} %"


def _load(model: str | Path | None) -> HIRL:
    """Load a model; without one, the newest that `hirl fit` left in results/.

    Raises:
        ValueError: there is none.
    """
    if model is None:
        fitted = sorted(RESULTS.glob(f"*/{MODEL}"), key=lambda file: file.stat().st_mtime)
        if not fitted:
            raise ValueError(f"{RESULTS}/ holds no {MODEL}: call `hirl fit FOLDER` first, or give --model")
        model = fitted[-1]
        print(f"model: {model}", file=sys.stderr)
    from hirl.estimator.model import load

    return load(model)

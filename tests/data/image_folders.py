"""Image folders to prepare, and data that `prepare` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from hirl.config import DataConfig
from hirl.data.images import prepare


def write_image_folders(root, branches, train=4, validation=2, size=(12, 8)):
    """Write train/ and val/ of class folders in which every image has a gray level of its own."""
    for split, count in (("train", train), ("val", validation)):
        for level, branch in enumerate(branches):
            folder = root / split / branch
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("L", size, 20 * level + number).save(folder / f"{number}.png")
    return root


def folder_config(**values) -> DataConfig:
    """Return the configuration of a user's image folder."""
    return DataConfig(name="folder", image_size=8, **values)


def prepare_error(config: DataConfig, root: Path | None, out: Path) -> str:
    """Return the one line with which the data are refused; nothing may be written."""
    with pytest.raises(ValueError, match=r".") as caught:
        prepare(config, root, out)
    assert not out.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)

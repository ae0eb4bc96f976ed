from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from hirl.data.image_files import check_header, list_class_folders, list_images, read_image


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 7).save(path)
    return path


def test_classes_and_images_are_sorted_and_hidden_folders_and_other_files_left_out(tmp_path):
    for name in ("pets/dog/2.png", "pets/dog/1.png", "pets/cat/1.jpg", ".thumbnails/1.png"):
        save(tmp_path / name)
    (tmp_path / "pets/cat/notes.txt").write_text("none of the images")
    found = list_class_folders(tmp_path)
    assert list(found) == [("pets", "cat"), ("pets", "dog")]
    assert [path.name for path in found["pets", "dog"]] == ["1.png", "2.png"]
    assert [path.name for path in found["pets", "cat"]] == ["1.jpg"]


def test_all_images_below_a_folder_are_listed_by_path_without_hidden_ones(tmp_path):
    for name in ("b.png", "a/2.jpg", "a/1.png", "a/x/3.webp", ".thumbnails/1.png", "a/.2.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/1.png", "a/2.jpg", "a/x/3.webp", "b.png"]


def test_a_folder_without_any_image_is_named_with_the_files_that_count(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"holds no image: put files there that end in one of \.bmp"):
        list_images(tmp_path)


def test_gray_images_are_read_as_rgb(tmp_path):
    image = read_image(save(tmp_path / "1.png"))
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize("read", [read_image, check_header])
def test_missing_and_broken_files_are_named_in_one_line(tmp_path, read):
    with pytest.raises(ValueError, match=r"1\.png is missing: put it back, or prepare the data without it$"):
        read(tmp_path / "1.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image: replace or remove it$"):
        read(tmp_path / "1.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_gray_images_of_16_bits_keep_their_shades(tmp_path, suffix):
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / f"deep.{suffix}")
    assert np.array_equal(np.asarray(read_image(tmp_path / f"deep.{suffix}"))[..., 0], shades)


@pytest.mark.parametrize("read", [read_image, check_header])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_images_of_32_bits_are_refused_by_name(tmp_path, kind, read):
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif holds 32-bit values"):
        read(tmp_path / "deep.tif")


@pytest.mark.parametrize("read", [read_image, check_header])
def test_a_pipe_named_like_an_image_is_refused_by_name(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is no regular file"):
        read(tmp_path / "pipe.png")

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hirl.config import DataConfig, ViewsConfig
from hirl.data import loader
from hirl.data.image_files import read_image
from hirl.data.images import ImageSet, load_images, prepare, square, to_tensor
from hirl.data.loader import Crops, Squares, epoch_batches, ordered_batches, read_pixels
from hirl.data.views import Views, crop_boxes

CPU = torch.device("cpu")
VIEWS = Views(ViewsConfig(global_size=8, local_crops=1, local_size=4))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eleven images, each of one gray level, prepared once as pixels and once as paths."""
    root = tmp_path_factory.mktemp("loader")
    for split, count in (("train", 11), ("test", 1)):
        (root / "in" / split / "only").mkdir(parents=True)
        for number in range(count):
            Image.new("L", (20, 16), 10 * number).save(root / "in" / split / "only" / f"{number:02}.png")
    for storage in ("memory", "files"):
        config = DataConfig(name="folder", image_size=16, storage=storage)
        prepare(config, root / "in", root / storage)
    return {storage: load_images(root / storage, "train") for storage in ("memory", "files")}


@pytest.fixture(params=["memory", "files"])
def images(request, prepared):
    return prepared[request.param]


def an_epoch(images, epoch=0, seed=0):
    torch.manual_seed(5)
    return list(epoch_batches(images, 4, seed, epoch, VIEWS, CPU))


def test_an_epoch_is_a_permutation_without_its_incomplete_batch(images):
    batches = an_epoch(images)
    index = torch.cat([index for index, _ in batches])
    assert [len(index) for index, _ in batches] == [4, 4]
    assert len(index.unique()) == 8
    assert [view.shape for view in batches[0][1]] == [(4, 3, 8, 8), (4, 3, 8, 8), (4, 3, 4, 4)]


def test_an_epoch_is_repeated_exactly_and_others_differ(images):
    once, again = an_epoch(images), an_epoch(images)
    for (index, views), (same_index, same_views) in zip(once, again, strict=True):
        assert (index == same_index).all()
        assert all((view == same).all() for view, same in zip(views, same_views, strict=True))
    orders = [torch.cat([index for index, _ in an_epoch(images, *key)]).tolist() for key in ((0, 0), (1, 0), (0, 1))]
    assert len(set(map(tuple, orders))) == 3


def test_both_storages_train_in_the_same_order(prepared):
    memory, files = (an_epoch(prepared[storage]) for storage in ("memory", "files"))
    assert all((a == b).all() for (a, _), (b, _) in zip(memory, files, strict=True))


def test_views_belong_to_their_index(images):
    """Without colour changes a view of a plain image keeps its gray level, 10 times the number in its name."""
    level = torch.tensor([int(path.stem) * 10 for path in images.paths]) if images.paths else images.images[:, 0, 0, 0]
    plain = Views(ViewsConfig(global_size=8, jitter={"probability": 0}, grayscale=0, blur=(0, 0, 0)))
    for index, views in epoch_batches(images, 4, 0, 0, plain, CPU):
        red = views[1][:, 0] * 0.229 + 0.485  # ImageNet's normalisation undone
        assert torch.allclose(red * 255, level[index].float()[:, None, None].expand_as(red), atol=0.01)


def test_workers_leave_the_default_generator_alone(prepared):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    list(ordered_batches(prepared["files"], 4, CPU))
    assert torch.rand(1) == expected


def test_ordered_batches_hold_every_image_once_in_order(images, prepared):
    batches = list(ordered_batches(images, 4, CPU))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert (torch.cat(batches) == prepared["memory"].images).all()  # plain images look alike however resized


def test_fewer_images_than_a_batch_are_refused_at_once(images):
    with pytest.raises(ValueError, match="batch_size is 12, but there are 11 images: lower it"):
        epoch_batches(images, 12, 0, 0, VIEWS, CPU)


def test_a_file_that_breaks_later_is_named_in_one_line(prepared, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    images = prepared["files"]
    broken = type(images)(None, [path] * 4, images.labels[:4], images.class_names, images.parents, 16)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image") as caught:
        list(ordered_batches(broken, 2, CPU))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("threads", "piece"), [(1, 128), (2, 3)])
def test_batches_are_the_same_however_they_are_shared_out(prepared, monkeypatch, threads, piece):
    expected, squares = an_epoch(prepared["files"]), list(ordered_batches(prepared["files"], 4, CPU))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(loader, "PIECE", piece)
    for (index, views), (same_index, same_views) in zip(expected, an_epoch(prepared["files"]), strict=True):
        assert (index == same_index).all()
        assert all(map(torch.equal, views, same_views))
    assert all(map(torch.equal, squares, ordered_batches(prepared["files"], 4, CPU)))


# --- image files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def picture():
    """A coloured picture with edges and texture, 50 by 37 pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8)).resize((50, 37), Image.Resampling.BOX)
    texture = rng.integers(-20, 21, size=(37, 50, 3))
    return Image.fromarray((np.array(coarse) + texture).clip(0, 255).astype(np.uint8))


def rotated_by_exif(picture):
    """Return options to save a picture with an EXIF orientation, which is ignored."""
    exif = picture.getexif()
    exif[0x0112] = 6
    return {"exif": exif}


KINDS = {
    "photo.jpg": lambda picture: {"quality": 90},
    "progressive.jpg": lambda picture: {"progressive": True},
    "full colour.jpg": lambda picture: {"subsampling": 0},
    "turned.jpg": rotated_by_exif,
    "photo.png": lambda picture: {},
}
MODES = {"gray.jpg": "L", "print.jpg": "CMYK", "palette.png": "P", "transparent.png": "RGBA", "deep.png": "I;16"}


def saved(picture, name, folder):
    if name in KINDS:
        picture.save(folder / name, **KINDS[name](picture))
    elif MODES[name] == "I;16":
        Image.fromarray(np.array(picture.convert("L")).astype(np.uint16) * 257).save(folder / name)
    else:
        picture.convert(MODES[name]).save(folder / name)
    return folder / name


def difference(pixels, image):
    return (pixels.int() - to_tensor(image).int()).abs().max()


@pytest.mark.parametrize("name", [*KINDS, *MODES])
def test_every_kind_of_file_has_the_pixels_that_pillow_reads(picture, tmp_path, name):
    path = saved(picture, name, tmp_path)
    assert read_pixels(path).dtype == torch.uint8
    assert difference(read_pixels(path), read_image(path)) <= 2  # if one day their versions of libjpeg-turbo differ


@pytest.mark.parametrize("kept", [0, 20, 300, 0.5, -2])  # bytes, or their share
def test_a_file_that_ends_early_is_named_in_one_line(picture, tmp_path, kept):
    path = saved(picture, "photo.jpg", tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"^.*photo\.jpg cannot be read as an image: replace or remove it$"):
        read_pixels(path)


def test_a_file_that_is_gone_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^.*photo\.jpg is missing: put it back, or prepare the data without it$"):
        read_pixels(tmp_path / "photo.jpg")


def of_one(path, size):
    return ImageSet(None, [path], torch.zeros(1, 1, dtype=torch.int64), [["any"]], [], size)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_those_of_pillow(picture, tmp_path, monkeypatch, interpolation):
    """Both have 8 bits between rows and columns; the last of the 8 may be rounded otherwise."""
    boxes = [torch.tensor([[3, 5, 30, 40], [0, 0, 37, 50]]), torch.tensor([[20, 7, 9, 10]])]
    drawn = iter(boxes)
    monkeypatch.setattr(loader, "crop_boxes", lambda count, *size: next(drawn)[:count])
    images = of_one(saved(picture, "photo.jpg", tmp_path), 16)
    views = ViewsConfig(global_size=16, local_crops=1, local_size=12, interpolation=interpolation)
    image, resampling = read_image(images.paths[0]), Image.Resampling[interpolation.upper()]
    for crops, of_size, side in zip(Crops(images, views, 0, 0)[0], boxes, (16, 12), strict=True):
        assert crops.dtype == torch.uint8
        for crop, (top, left, height, width) in zip(crops, of_size.tolist(), strict=True):
            expected = image.crop((left, top, left + width, top + height)).resize((side, side), resampling)
            assert min(difference(crop, expected), difference(crop, ImageOps.mirror(expected))) <= 1


def test_crops_depend_on_seed_epoch_and_index_alone(picture, tmp_path):
    views = ViewsConfig(global_size=16, local_crops=1, local_size=12)
    path = saved(picture, "photo.png", tmp_path)
    images = ImageSet(None, [path] * 2, torch.zeros(2, 1, dtype=torch.int64), [["any"]], [], 16)
    crops = {}
    for seed, epoch, index in product(range(2), repeat=3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index + 5)  # has no influence
            crops[seed, epoch, index], again = (Crops(images, views, seed, epoch)[index] for _ in range(2))
        assert all(map(torch.equal, crops[seed, epoch, index], again))
    assert len({tuple(crop.numpy().tobytes() for crop in sizes) for sizes in crops.values()}) == 8


def test_boxes_and_flips_of_files_are_drawn_as_those_of_pixels(picture, tmp_path, monkeypatch):
    """A file's two boxes are the first that its seed gives, and half of its crops are mirror images."""
    seen = []
    monkeypatch.setattr(loader, "resize_each", lambda images, boxes, flipped, *rest: seen.append((boxes, flipped)))
    images, views = of_one(saved(picture, "photo.png", tmp_path), 16), ViewsConfig(global_size=16)
    with torch.random.fork_rng(devices=[]):
        for epoch in range(200):
            Crops(images, views, 0, epoch)[0]
        torch.default_generator.manual_seed(int(np.random.SeedSequence((0, 7, 0)).generate_state(1, np.uint64)[0]))
        assert torch.equal(seen[7][0], crop_boxes(2, 37, 50, views.global_scale))
    flips = torch.cat([flipped for _, flipped in seen]).sum()
    assert 150 < flips < 250  # of 400 fair coins: five deviations


def test_squares_are_those_of_pillow(picture, tmp_path):
    images = of_one(saved(picture, "photo.jpg", tmp_path), 28)
    (pixels,) = Squares(images)[0]
    assert difference(pixels, square(read_image(images.paths[0]), 32, 28)) <= 1  # rounded otherwise

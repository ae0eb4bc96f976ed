from __future__ import annotations

import pytest
import torch
from PIL import Image

from hirl.config import DataConfig, ViewsConfig
from hirl.data.images import load_images, prepare
from hirl.data.loader import epoch_batches, ordered_batches
from hirl.data.views import Views

CPU = torch.device("cpu")
VIEWS = Views(ViewsConfig(global_size=8, local_crops=1, local_size=4))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Eleven images, each of one grey level, prepared once as pixels and once as paths."""
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
    """Without colour changes a view of a plain image keeps its grey level, 10 times the number in its name."""
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

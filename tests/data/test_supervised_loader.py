from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from hirl.config import AugmentationConfig, DataConfig
from hirl.data.images import ImageSet, load_images, prepare
from hirl.data.supervised_loader import LabelledBatches
from hirl.data.views import normalize
from tests.run_on_ranks import on_ranks, on_two_ranks

CPU = torch.device("cpu")
CLASSES, COUNT, SIZE = 4, 22, 16
ROUNDING = 1.5 / 255 / 0.224  # bytes, and their interpolation, in units of ImageNet's smallest deviation


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> dict[str, ImageSet]:
    """22 plain pictures of four classes, a class's pictures near its own gray level; as pixels and as paths."""
    root = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", COUNT), ("val", CLASSES)):
        for number in range(count):
            folder = root / "in" / split / f"class{number % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (SIZE, SIZE), 60 * (number % CLASSES) + number // CLASSES).save(folder / f"{number}.png")
    for storage in ("memory", "files"):
        prepare(DataConfig(name="folder", image_size=SIZE, storage=storage), root / "in", root / storage)
    return {storage: load_images(root / storage, "train") for storage in ("memory", "files")}


@pytest.fixture(params=["memory", "files"])
def images(request, prepared) -> ImageSet:
    return prepared[request.param]


def an_epoch(images, batch_size=8, epoch=0, seed=0, **augmentation):
    torch.manual_seed(5)
    return list(LabelledBatches(images, batch_size, AugmentationConfig(**augmentation), seed, CPU)(epoch))


def concatenated(batches):
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def gray_levels(views):
    """The mean gray level of each view, 0 to 255, ImageNet's normalisation undone."""
    return (views[:, 0] * 0.229 + 0.485).mean(dim=(1, 2)) * 255


# --- batches ----------------------------------------------------------------------------------------------------------


def test_what_does_not_fill_a_batch_is_dropped(images):
    batches = LabelledBatches(images, 8, AugmentationConfig(), 0, CPU)
    assert len(batches) == 2
    assert [tuple(views.shape) for views, _ in batches(0)] == [(8, 3, SIZE, SIZE)] * 2


@pytest.mark.parametrize(("mixup", "expected"), [(0.0, [21]), (0.8, [20])])
def test_a_set_smaller_than_a_batch_is_one_and_even_where_pairs_are_mixed(prepared, mixup, expected):
    few = replace(prepared["memory"], images=prepared["memory"].images[1:], labels=prepared["memory"].labels[1:])
    batches = LabelledBatches(few, 64, AugmentationConfig(mixup=mixup), 0, CPU)
    assert [len(views) for views, _ in batches(3)] == expected
    assert len(batches) == 1


def test_every_image_comes_once_with_its_class(images):
    views, targets = concatenated(an_epoch(images, batch_size=11))
    assert len(views) == COUNT
    levels = gray_levels(views).round().long()
    assert sorted(levels.tolist()) == sorted(60 * (n % CLASSES) + n // CLASSES for n in range(COUNT))
    assert torch.equal(targets, torch.nn.functional.one_hot(levels // 60, CLASSES).float())


AUGMENTATIONS = [{}, {"randaugment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5}, {"mixup": 0.8, "cutmix": 1.0}]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_epoch_is_repeated_exactly_and_others_differ(images, augmentation):
    once, again = (concatenated(an_epoch(images, **augmentation)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    for key in ({"epoch": 1}, {"seed": 1}):
        assert not torch.equal(concatenated(an_epoch(images, **key, **augmentation))[1], once[1])


def test_files_and_pixels_are_augmented_alike(prepared):
    """By timm, since it is more than a crop and a flip; the pictures have the size of the stored pixels."""
    memory, files = (concatenated(an_epoch(prepared[storage], **AUGMENTATIONS[1])) for storage in ("memory", "files"))
    assert all(torch.equal(a, b) for a, b in zip(memory, files, strict=True))


def test_what_a_worker_draws_depends_on_the_image_alone(prepared):
    by_eight, by_two = (an_epoch(prepared["files"], size, **AUGMENTATIONS[1]) for size in (8, 2))
    assert torch.equal(concatenated(by_eight)[0], concatenated(by_two)[0][:16])


def test_workers_leave_the_default_generator_alone(prepared):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    list(LabelledBatches(prepared["files"], 8, AugmentationConfig(), 0, CPU)(0))
    assert torch.rand(1) == expected


# --- augmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("erasing", [0.0, 1e-9])  # the second sends pixels in memory to timm as well
def test_a_crop_of_everything_is_the_picture_or_its_mirror_image(prepared, erasing):
    torch.manual_seed(0)
    pictures = (torch.rand(COUNT, 3, SIZE, SIZE) * 255).byte()
    images = replace(prepared["memory"], images=pictures)
    (batch,) = an_epoch(images, COUNT, crop_scale=(1.0, 1.0), random_erasing=erasing)
    order = np.random.default_rng((0, 0)).permutation(COUNT)
    plain = normalize(pictures[order].float() / 255)
    kept, mirrored = ((batch[0] - other).abs().amax((1, 2, 3)) < ROUNDING for other in (plain, plain.flip(3)))
    assert (kept | mirrored).all()
    assert 4 <= sum(mirrored) <= 18  # of 22 fair coins, but for one draw in a thousand


def test_a_small_crop_shows_less_of_the_picture(prepared):
    ramp = torch.arange(SIZE).mul(15).byte().expand(COUNT, 3, SIZE, SIZE).contiguous()
    images = replace(prepared["memory"], images=ramp)
    spans = [
        torch.cat([views.amax((1, 2, 3)) - views.amin((1, 2, 3)) for views, _ in an_epoch(images, crop_scale=scale)])
        for scale in ((0.08, 0.1), (0.9, 1.0))
    ]
    assert spans[0].max() < spans[1].min()


def test_labels_are_smoothed(images):
    _, targets = concatenated(an_epoch(images, label_smoothing=0.2))
    assert targets.sort(dim=1).values.numpy() == pytest.approx(np.tile([0.05, 0.05, 0.05, 0.85], (16, 1)))


@pytest.mark.parametrize("mixing", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_classes_are_mixed_as_their_pixels_are(prepared, mixing):
    """Views of plain pictures have a mean level that is the mean of their classes' levels, in the targets' shares."""
    labels = prepared["memory"].labels[:, 0]
    plain = (labels * 60).byte().view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).contiguous()
    images = replace(prepared["memory"], images=plain)
    for epoch in range(4):
        views, targets = concatenated(an_epoch(images, epoch=epoch, **mixing))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(16))
        expected = targets @ torch.arange(0, 240, 60).float()
        torch.testing.assert_close(gray_levels(views), expected, atol=0.01, rtol=0)  # of 255 levels
        assert (targets.max(dim=1).values < 1).any()


def test_randaugment_and_erasing_change_views(prepared):
    plain, random, erased = (
        concatenated(an_epoch(prepared["files"], crop_scale=(1.0, 1.0), **options))[0]
        for options in ({}, {"randaugment": "rand-m9"}, {"random_erasing": 1.0})
    )
    assert plain.std(dim=(2, 3)).max() < 1e-6  # plain pictures stay plain
    assert (random - plain).abs().amax((1, 2, 3)).gt(0.01).sum() > 8
    assert (erased.std(dim=(2, 3)).amin(1) > 0.01).all()


def test_randaugment_at_its_strongest_is_black_not_an_error():
    """A magnitude of 9 +- 0.5 is drawn as 10 now and then: 0 bits of a posterized picture."""
    operation = auto_augment.AugmentOp("PosterizeIncreasing", prob=1.0, magnitude=10)
    assert operation(Image.new("RGB", (4, 4), "white")).getcolors() == [(16, (0, 0, 0))]


# --- on two ranks -----------------------------------------------------------------------------------------------------


def epochs(images):
    """An epoch under every augmentation."""
    return [an_epoch(images, **augmentation) for augmentation in AUGMENTATIONS]


def epochs_of_few(images):
    """An epoch of seven images, plain and mixed."""
    few = replace(images, images=images.images[:7], labels=images.labels[:7])
    return [an_epoch(few, 64), an_epoch(few, 64, mixup=0.8)]


def test_ranks_share_every_batch_and_mix_the_same_pairs(images):
    alone, *ranks = *on_ranks(1, epochs, images), *on_two_ranks(epochs, images)
    for augmentation, expected, first, second in zip(AUGMENTATIONS, alone, *ranks, strict=True):
        for batch, one, other in zip(expected, first, second, strict=True):
            for whole, begin, end in zip(batch, one, other, strict=True):
                assert len(begin) == len(end) == 4
                # of mixed ones a rank has a piece of the first half, and its mirror image of the second
                pieces = (begin[:2], end, begin[2:]) if "mixup" in augmentation else (begin, end)
                assert torch.equal(torch.cat(pieces), whole)


def test_a_set_smaller_than_a_batch_loses_what_ranks_cannot_share(prepared):
    for plain, mixed in on_two_ranks(epochs_of_few, prepared["memory"]):
        assert [len(views) for views, _ in plain] == [3]
        assert [len(views) for views, _ in mixed] == [2]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_one_image_cannot_be_mixed(prepared):
    one = replace(prepared["memory"], images=prepared["memory"].images[:1], labels=prepared["memory"].labels[:1])
    with pytest.raises(ValueError, match="there are 1 images to train on, but a step needs at least 2, two per rank"):
        LabelledBatches(one, 8, AugmentationConfig(cutmix=1.0), 0, CPU)


def test_a_broken_file_is_named_in_one_line(prepared, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    broken = replace(prepared["files"], paths=[path] * COUNT)
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image") as caught:
        an_epoch(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_scale": (0.5, 0.2)}, r"give it as \[low, high\]"),
        ({"crop_scale": (0.5, 1.2)}, "less than or equal to 1"),
        ({"randaugment": "strong"}, "should match pattern"),
    ],
)
def test_impossible_augmentations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AugmentationConfig(**values)

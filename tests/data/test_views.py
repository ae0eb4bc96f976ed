"""Views against torchvision: each operation exactly, for the same parameters; the parameters statistically."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from hirl.config import JitterConfig, ViewsConfig
from hirl.data import views as v

EXACT = {"atol": 1e-5, "rtol": 0}  # float32 sums of a few dozen terms of at most 1; a gray level is 4e-3
ADJUST = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
STILL = ViewsConfig(  # nothing happens: the one crop of a square image that has its whole area is the image
    global_size=16,
    global_scale=(1.0, 1.0),
    flip=0,
    grayscale=0,
    blur=(0, 0, 0),
    blur_sigma=(1.0, 2.0),
    jitter=JitterConfig(probability=0),
)
RARE = 1e-4  # p-value under which two samples are called different; draws are seeded, so a pass stays one


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pictures(n: int, size: int = 32) -> torch.Tensor:
    """Noise, with what is special to HSV: gray rows, a black and a white corner, ties between channels."""
    images = torch.rand(n, 3, size, size)
    images[:, :, :3] = images[:, :1, :3]
    images[:, :, 0, :2], images[:, :, 0, 2:4] = 0, 1
    images[:, 1, 4] = images[:, 0, 4]
    images[:, 2, 5] = images[:, 1, 5]
    return images


def bytes_of(n: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8)


# --- each operation is torchvision's ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("full", "size"), [(32, 32), (32, 13), (32, 50), (90, 20)])
def test_crops_are_torchvisions(full, size, interpolation):
    images, boxes = pictures(12, full), v.crop_boxes(12, full, full, (0.05, 1.0))
    crops = v.resized_crop(images, boxes, torch.arange(12) % 2.0, size, interpolation)
    for crop, image, box, flipped in zip(crops, images, boxes.tolist(), itertools.cycle([False, True]), strict=False):
        expected = F.resized_crop(image, *box, [size, size], InterpolationMode(interpolation), antialias=True)
        expected = (F.horizontal_flip(expected) if flipped else expected).clamp(0, 1)
        torch.testing.assert_close(crop, expected, **EXACT)


def test_large_images_are_cropped_as_small_ones(monkeypatch):
    images, boxes, flipped = pictures(4, 70), v.crop_boxes(4, 70, 70, (0.1, 1.0)), torch.tensor([0.0, 1, 0, 1])
    one_by_one = v.resized_crop(images, boxes, flipped, 48, "bilinear")
    monkeypatch.setattr(v, "LARGE", 70)
    torch.testing.assert_close(v.resized_crop(images, boxes, flipped, 48, "bilinear"), one_by_one, **EXACT)


def test_jitter_is_torchvisions_in_each_of_24_orders():
    order = torch.tensor(list(itertools.permutations(range(4))))
    images, factors, turns = pictures(24), torch.rand(24, 3) * 1.8 + 0.1, torch.rand(24) - 0.5
    jittered = v.jitter(images, order, factors, turns)
    amounts = torch.cat([factors, turns[:, None]], dim=1)
    for result, image, operations, values in zip(jittered, images, order, amounts, strict=True):
        for operation in operations:
            image = ADJUST[operation](image, values[operation].item())
        torch.testing.assert_close(result, image, **EXACT)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 1 / 6, 0.5])
def test_hue_is_torchvisions(turn):
    images = pictures(3)
    torch.testing.assert_close(v.turn_hue(images, torch.full((3,), turn)), F.adjust_hue(images, turn), **EXACT)


def test_a_neutral_jitter_changes_nothing():
    images, order = pictures(2), torch.arange(4).expand(2, 4)
    torch.testing.assert_close(v.jitter(images, order, torch.ones(2, 3), torch.zeros(2)), images, **EXACT)


def test_grayscale_is_torchvisions_where_chosen():
    images = pictures(2)
    grayed = v.grayscale(images, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(grayed[0], images[0], **EXACT)
    torch.testing.assert_close(grayed[1], F.rgb_to_grayscale(images[1], 3), **EXACT)


def test_blur_is_torchvisions_and_zero_sigma_changes_nothing():
    images, sigma = pictures(4), torch.tensor([0.1, 0.7, 2.0, 0.0])
    blurred = v.blur(images, sigma, largest=2.0)
    for result, image, s in zip(blurred[:3], images, sigma.tolist(), strict=False):
        torch.testing.assert_close(result, F.gaussian_blur(image, [17, 17], [s, s]), **EXACT)  # 17: 4 sigmas each way
    assert torch.equal(blurred[3], images[3])


def test_blur_keeps_a_flat_image_smaller_than_its_reach():
    flat = torch.full((2, 3, 5, 5), 0.3)
    torch.testing.assert_close(v.blur(flat, torch.tensor([1.0, 2.0]), largest=2.0), flat, **EXACT)


def test_solarize_is_torchvisions_where_chosen():
    images = pictures(2)
    solarized = v.solarize(images, torch.tensor([0.0, 1.0]))
    assert torch.equal(solarized[0], images[0])
    torch.testing.assert_close(solarized[1], F.solarize(images[1], 0.5), **EXACT)


def test_evaluation_only_normalises():
    images = bytes_of(2, 8, 8)
    torch.testing.assert_close(v.evaluation_view(images), F.normalize(images / 255, v.MEAN, v.STD), **EXACT)


# --- the parameters are drawn as torchvision draws them ---------------------------------------------------------------


# 20 x 60 sometimes falls back to the central box
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 25), (20, 60)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.05, 0.14)])
def test_boxes_are_distributed_as_random_resized_crops(height, width, scale):
    ours = v.crop_boxes(4000, height, width, scale)
    image = torch.empty(3, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, scale, v.ASPECT) for _ in range(4000)])
    for quantity in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert ks_2samp(quantity(ours), quantity(theirs)).pvalue > RARE
    top, left, h, w = ours.unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (30, 30)])
def test_the_central_box_is_torchvisions(height, width):
    impossible = (2.0, 2.0)  # of the image's area: no draw fits, so torchvision falls back too
    expected = RandomResizedCrop.get_params(torch.empty(3, height, width), impossible, v.ASPECT)
    assert v.crop_boxes(1, height, width, impossible).tolist() == [list(expected)]


def test_pixels_come_back_from_views():
    images = pictures(2)
    torch.testing.assert_close(v.denormalize(v.normalize(images)), images, **EXACT)


def test_jitter_parameters_are_uniform_and_every_order_is_as_likely():
    n = 6000
    views = v.Views(ViewsConfig(jitter=JitterConfig(probability=0.8)))
    order, factors, turns = views._draw_jitter(n, torch.device("cpu"))
    chosen = turns != 0
    assert chosen.float().mean().item() == pytest.approx(0.8, abs=4 * deviation(0.8, n))
    assert (factors[~chosen] == 1).all()
    for values, center, reach in zip((*factors.T, turns), (1, 1, 1, 0), (0.4, 0.4, 0.4, 0.1), strict=True):
        assert ks_2samp(values[chosen], torch.linspace(center - reach, center + reach, 5000)).pvalue > RARE
    orders, counts = order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (counts / n - 1 / 24).abs().max() < 4 * deviation(1 / 24, n)


@pytest.mark.parametrize("operation", ["flip", "grayscale", "blur", "solarize"])
def test_as_many_images_are_changed_as_configured(operation):
    n, share = 1500, 0.3
    setting = share if operation in ("flip", "grayscale") else (share, 0.0, 0.0)
    images = bytes_of(n, 16, 16)
    first, _ = v.Views(STILL.model_copy(update={operation: setting}))(images)
    changed = (first - v.evaluation_view(images)).flatten(1).abs().amax(1) > 0.02  # five gray levels
    assert changed.float().mean().item() == pytest.approx(share, abs=4 * deviation(share, n))


def test_views_without_any_change_are_the_images():
    images = bytes_of(3, 16, 16)
    for view in v.Views(STILL)(images):
        torch.testing.assert_close(view, v.evaluation_view(images), atol=1e-4, rtol=0)  # over a deviation of 0.22


def test_each_kind_of_view_has_its_own_probabilities():
    local = {"local_crops": 2, "local_size": 16, "local_scale": (1.0, 1.0)}
    config = STILL.model_copy(update=local | {"solarize": (0, 1, 0)})
    images = bytes_of(4, 16, 16)
    solarized = [not torch.allclose(view, v.evaluation_view(images), atol=1e-4) for view in v.Views(config)(images)]
    assert solarized == [False, True, False, False]


def test_the_one_global_view_has_the_first_ones_probabilities():
    local = {"local_crops": 1, "local_size": 16, "local_scale": (1.0, 1.0)}
    config = STILL.model_copy(update=local | {"global_crops": 1, "solarize": (0, 0, 1)})
    images = bytes_of(4, 16, 16)
    solarized = [not torch.allclose(view, v.evaluation_view(images), atol=1e-4) for view in v.Views(config)(images)]
    assert solarized == [False, True]


def deviation(share: float, n: int) -> float:
    """Return the standard deviation of a share counted in n draws."""
    return math.sqrt(share * (1 - share) / n)


# --- a batch of views -------------------------------------------------------------------------------------------------


def test_multi_crop_gives_two_global_views_then_the_local_ones():
    config = ViewsConfig(global_size=24, local_crops=3, local_size=10, solarize=(0, 0.2, 0.2))
    views = v.Views(config)(bytes_of(5, 32, 32))
    assert [tuple(view.shape) for view in views] == [(5, 3, 24, 24)] * 2 + [(5, 3, 10, 10)] * 3
    assert all(view.dtype == torch.float32 and view.isfinite().all() for view in views)


@pytest.mark.parametrize(("height", "width"), [(17, 23), (375, 500), (333, 61)])
def test_one_image_of_any_size_can_be_cropped(height, width):
    config = ViewsConfig(global_size=64, local_crops=1, local_size=17, interpolation="bicubic")
    crops = v.Views(config).crop(bytes_of(1, height, width))
    assert [tuple(crop.shape) for crop in crops] == [(1, 3, 64, 64)] * 2 + [(1, 3, 17, 17)]
    assert all(crop.min() >= 0 and crop.max() <= 1 for crop in crops)


def test_the_same_seed_gives_the_same_views():
    views, images = v.Views(ViewsConfig(local_crops=1, solarize=(0.2, 0.2, 0.2))), bytes_of(6, 32, 32)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(views(images))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn[0], drawn[2], strict=True))


def test_copies_of_an_image_get_views_of_their_own():
    views = v.Views(ViewsConfig())(bytes_of(1, 32, 32).expand(8, 3, 32, 32))
    assert all(not torch.equal(view[i], view[j]) for view in views for i, j in itertools.combinations(range(8), 2))


def test_neither_images_nor_crops_are_written_to():
    views, images = v.Views(ViewsConfig(solarize=(1, 1, 1))), bytes_of(3, 32, 32)
    crops = views.crop(images)
    before = images.clone(), [crop.clone() for crop in crops]
    views.color(crops)
    assert torch.equal(images, before[0])
    assert all(torch.equal(crop, copy) for crop, copy in zip(crops, before[1], strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_are_made_on_the_gpu():
    views = v.Views(ViewsConfig(local_crops=1, solarize=(0.5, 0.5, 0.5)))(bytes_of(4, 32, 32).cuda())
    assert all(view.is_cuda and view.isfinite().all() for view in views)

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from hirl.methods import ibot
from hirl.methods.ibot import masked_patch_loss
from tests.methods.reference_losses import EXACT, SINGLE, Array, cross_entropy, numbers, softmax


@pytest.fixture
def set_mask(monkeypatch: pytest.MonkeyPatch):
    """A function that replaces the random masks by a given one, [2B, 4, 4]."""
    return lambda mask: monkeypatch.setattr(ibot, "block_masks", lambda *_: mask)


def random_mask(views: int = 16) -> Tensor:
    """Return a different mask for every view; the first view is not masked, the second in one patch."""
    mask = torch.rand(views, 4, 4, generator=torch.Generator().manual_seed(3)) < 0.4
    mask[0] = False
    mask[1] = False
    mask[1, 2, 3] = True
    return mask


def slow_patch_loss(
    teacher: Array, student: Array, mask: Array, center: Array, teacher_temperature: float, student_temperature: float
) -> float:
    """[views, P, K] logits: the mean over an image's masked patches, then over images and views."""
    per_view = []
    for targets, logits, masked in zip(teacher, student, mask, strict=True):
        total = 0.0
        for target, row, is_masked in zip(targets, logits, masked, strict=True):
            if is_masked:
                total += cross_entropy(softmax((target - center) / teacher_temperature), row / student_temperature)
        per_view.append(total / max(1, masked.sum()))
    return float(np.mean(per_view))


def patch_logits(method, batch: list[Tensor], mask: Tensor) -> SimpleNamespace:
    """The logits of every patch, one network call per part."""
    images = torch.cat(batch)
    teacher = method.teacher.backbone.tokens(images)[:, 1:]
    student = method.student.backbone.tokens(images, mask, method.mask_token)[:, 1:]
    return SimpleNamespace(
        teacher=numbers(method.teacher_prototypes(method.teacher.projector(teacher))),
        student=numbers(method.student_prototypes(method.student.projector(student))),
    )


def test_patch_loss_is_the_formula() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 6, 9, 5, dtype=torch.float64)
    mask = random_mask(6)[:, :3, :3].flatten(1)
    center = torch.randn(5, dtype=torch.float64)
    target = torch.softmax((teacher[mask] - center) / 0.05, dim=1)
    weight = (1 / (6 * mask.sum(dim=1, keepdim=True).clamp(min=1).double())).expand(-1, 9)[mask]
    loss = masked_patch_loss(target, student[mask], weight, 0.1)
    expected = slow_patch_loss(*map(numbers, (teacher, student)), mask.numpy(), numbers(center), 0.05, 0.1)
    assert loss.item() == pytest.approx(expected, rel=EXACT)
    assert expected > 0


def test_step_adds_the_loss_of_masked_patches_alone(make_method, draw_views, step_at, set_mask) -> None:
    method, batch, mask = make_method("ibot").train(), draw_views(), random_mask()
    torch.nn.init.normal_(method.mask_token)
    method.patch_center.center.normal_(std=0.1)
    set_mask(mask)
    logits = patch_logits(method, batch, mask)
    center = numbers(method.patch_center.value).ravel()
    expected = slow_patch_loss(logits.teacher, logits.student, mask.flatten(1).numpy(), center, 0.04, 0.1)
    output = method(batch, step_at())
    assert output.metrics["patch_loss"].item() == pytest.approx(expected, rel=SINGLE)
    assert output.loss.item() == pytest.approx(output.metrics["class_loss"].item() + expected, rel=SINGLE)


def test_patch_center_is_the_mean_over_all_patches_after_the_loss(make_method, draw_views, step_at, set_mask) -> None:
    method, batch, mask = make_method("ibot"), draw_views(), random_mask()
    method.patch_center.center.normal_(std=0.1)
    set_mask(mask)
    before = numbers(method.patch_center.value).ravel()
    every_patch = patch_logits(method, batch, mask).teacher.reshape(-1, 24)
    method(batch, step_at())
    expected = 0.9 * before + 0.1 * every_patch.mean(axis=0)
    # cosines of float32, summed over 256 patches
    np.testing.assert_allclose(numbers(method.patch_center.value).ravel(), expected, atol=1e-6)


def test_the_patch_center_is_float32_under_autocast(make_method, draw_views, step_at, set_mask) -> None:
    """bf16 has three digits, which the teacher's temperature would magnify 25 times."""
    method, batch = make_method("ibot"), draw_views()
    set_mask(random_mask())
    patches = []
    method.teacher.projector.register_forward_hook(lambda _module, _inputs, output: patches.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        method(batch, step_at())
    logits = method.teacher_prototypes(patches[1])  # the class tokens came first
    torch.testing.assert_close(method.patch_center.value[0], logits.mean(dim=0) * 0.1, rtol=0, atol=1e-6)


def test_without_masks_the_loss_is_that_of_dino(make_method, draw_views, step_at, set_mask) -> None:
    method, plain, batch = make_method("ibot"), make_method("dino"), draw_views(local=1)
    plain.load_state_dict(method.state_dict(), strict=False)
    set_mask(torch.zeros(16, 4, 4, dtype=torch.bool))
    output = method(batch, step_at())
    assert output.metrics["patch_loss"] == 0
    assert output.loss.item() == pytest.approx(plain(batch, step_at()).loss.item(), rel=SINGLE)
    output.loss.backward()


def test_the_embedding_is_that_of_the_masked_view(make_method, draw_views, step_at, set_mask) -> None:
    method, batch, mask = make_method("ibot"), draw_views(), random_mask()
    torch.nn.init.normal_(method.mask_token)
    set_mask(mask)
    masked = method.student.projector(method.student.backbone.tokens(batch[0], mask[:8], method.mask_token)[:, 0])
    embedding = method(batch, step_at()).embedding
    # one call for both views against one call for one: float32 sums in another order
    torch.testing.assert_close(embedding, masked, rtol=1e-4, atol=1e-5)


def test_patches_do_not_change_the_heads_running_statistics(make_method, draw_views, step_at) -> None:
    """`embed` normalises class tokens by them."""
    method = make_method("ibot", model={"batch_norm": True})
    norm = method.teacher.projector.layers[1]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    means = []
    norm.register_forward_hook(lambda *_: means.append(norm.running_mean.clone()))
    method(draw_views(), step_at())
    after_class_tokens, after_patches = means
    assert after_class_tokens.any()
    assert torch.equal(after_patches, after_class_tokens)
    assert norm.momentum == 0.1


def test_a_network_without_patches_is_refused(make_method) -> None:
    with pytest.raises(ValueError, match=r"^iBOT masks the patches of a ViT: choose one as backbone\.name$"):
        make_method("ibot", backbone={"name": "resnet8"})

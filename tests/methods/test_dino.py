from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.methods.reference_losses import EXACT, SINGLE, Array, cross_entropy, numbers, softmax


def slow_loss(
    teacher: list[Array], student: list[Array], center: Array, teacher_temperature: float, student_temperature: float
) -> float:
    """The mean over (teacher view i, other student crop v) of the cross-entropy, averaged over images."""
    pairs = []
    for i, targets in enumerate(teacher):
        for v, logits in enumerate(student):
            if v != i:
                sharpened = [softmax((target - center) / teacher_temperature) for target in targets]
                rows = zip(sharpened, logits / student_temperature, strict=True)
                pairs.append(np.mean([cross_entropy(*row) for row in rows]))
    return float(np.mean(pairs))


def test_loss_is_the_formula_and_the_center_moves_after_it(make_method) -> None:
    torch.manual_seed(0)
    loss = make_method("dino", model={"prototypes": 7}).self_distillation.double()
    loss.center.copy_(torch.randn(7))
    before = numbers(loss.center).ravel()
    teacher, student = list(torch.randn(2, 4, 7).double()), list(torch.randn(5, 4, 7).double())
    as_numpy = [numbers(view) for view in teacher], [numbers(view) for view in student]
    # lightly holds the teacher's temperature in float32: 1/16 is exact there
    value = loss(teacher, student, teacher_temp=1 / 16).item()
    assert value == pytest.approx(slow_loss(*as_numpy, before, 1 / 16, 0.1), rel=EXACT)
    expected = 0.9 * before + 0.1 * np.concatenate(as_numpy[0]).mean(axis=0)
    np.testing.assert_allclose(numbers(loss.center).ravel(), expected, rtol=EXACT)


def test_step_compares_all_crops_with_the_teachers_other_view(make_method, draw_views, step_at) -> None:
    method, batch = make_method("dino").train(), draw_views(local=2)
    method.self_distillation.center.normal_(std=0.1)
    teacher = [numbers(method.teacher_prototypes(method.teacher(view))) for view in batch[:2]]
    student = [numbers(method.student_prototypes(method.student(view))) for view in batch]
    center = numbers(method.self_distillation.center).ravel()
    loss = method(batch, step_at()).loss.item()
    assert loss == pytest.approx(slow_loss(teacher, student, center, 0.04, 0.1), rel=SINGLE)


def test_teacher_starts_as_a_copy_that_drops_no_paths(make_method, draw_views) -> None:
    method, images = make_method("dino", backbone={"drop_path": 0.5}).train(), draw_views()[0]
    for name, value in method.student.state_dict().items():
        assert torch.equal(value, method.teacher.state_dict()[name]), name
    assert torch.equal(method.student_prototypes.weight, method.teacher_prototypes.weight)
    assert torch.equal(method.teacher(images), method.teacher(images))
    assert not torch.equal(method.student(images), method.student(images))


def test_the_teachers_prototypes_follow_too(make_method, step_at) -> None:
    method = make_method("dino", model={"momentum": 0.9})
    student, before = method.student_prototypes.weight, method.teacher_prototypes.weight.clone()
    with torch.no_grad():
        student.add_(1.0)
    method.before_step(step_at(0))
    torch.testing.assert_close(method.teacher_prototypes.weight, 0.9 * before + 0.1 * student)
    assert not method.teacher_prototypes.weight.requires_grad


def test_prototypes_are_frozen_for_the_first_epochs(make_method, draw_views, step_at) -> None:
    method = make_method("dino", model={"frozen_prototype_epochs": 1})
    groups = method.parameter_groups()
    assert any(parameter is method.student_prototypes.weight for parameter in groups[0]["params"])
    for number, frozen in ((0, True), (4, True), (5, False)):  # an epoch has 5 steps
        method.zero_grad()
        method.before_step(step_at(number))
        method(draw_views(), step_at(number)).loss.backward()
        assert (method.student_prototypes.weight.grad is None) == frozen


def test_biases_and_norms_take_no_decay(make_method) -> None:
    decayed, spared = make_method("dino").parameter_groups()
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert spared["decay"] is False

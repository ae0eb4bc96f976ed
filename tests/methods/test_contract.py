"""What every method promises, with and without HIRL around it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirl.methods.base import Method, MethodOutput, Step
from hirl.methods.schedules import half_cosine
from tests.conftest import METHODS
from tests.methods.conftest import BATCH, IMAGES

ONLINE = {
    "mocov2": "query_encoder",
    "simsiam": "encoder",
    "swav": "encoder",
    "mocov3": "query_encoder",
    "dino": "student",
    "ibot": "student",
    "beit": "encoder",
}
AVERAGED = {"mocov2": "key_encoder", "mocov3": "key_encoder", "dino": "teacher", "ibot": "teacher"}
MULTI_CROP = ("swav", "dino", "ibot")
LEARNING_RATE = 3e-3

every_method = pytest.mark.parametrize("name", METHODS)
every_variant = pytest.mark.parametrize("variant", ["baseline", "hirl"])


def online(method: Method, name: str) -> nn.Module:
    return getattr(getattr(method, "method", method), ONLINE[name])


def averaged(method: Method, name: str) -> nn.Module | None:
    return getattr(getattr(method, "method", method), AVERAGED[name]) if name in AVERAGED else None


def encode_all(encode: Callable[[Tensor], Tensor], width: int, num_views: int = 0) -> Tensor:
    """Return random rows in place of all training images' rows."""
    return torch.randn(IMAGES, width, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def ready(make_method: Callable[..., Method]) -> Callable[..., Method]:
    """A method in training mode; a hirl one has its tree."""

    def build(name: str, variant: str = "baseline", **overrides: Any) -> Method:
        method = make_method(name, variant, **overrides).train()
        method.before_epoch(1, encode_all)
        return method

    return build


def forward(method: Method, views: list[Tensor], step: Step) -> MethodOutput:
    """One seeded forward pass: masks and negative paths are the same at every call."""
    torch.manual_seed(step.number)
    method.before_step(step)
    return method(views, step)


@every_method
@every_variant
def test_a_few_steps_on_one_batch_lower_the_loss(ready, draw_views, step_at, name: str, variant: str) -> None:
    method, batch = ready(name, variant), draw_views(local=name in MULTI_CROP)
    # one batch over and over would fill MoCo's queue with its own positives: the first queue stays
    queues = {key: value.clone() for key, value in method.named_buffers() if key.endswith(("queue", "oldest"))}
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=LEARNING_RATE)
    losses = []
    for _ in range(12):
        method.load_state_dict(queues, strict=False)
        output = forward(method, batch, step_at(5))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])
    assert all(torch.tensor(losses).isfinite())


@every_method
def test_embed_gives_one_row_per_image_of_the_averaged_network(make_method, draw_views, name: str) -> None:
    method, images = make_method(name).eval(), draw_views()[0]
    embedded = method.embed(images)
    assert embedded.shape == (BATCH, method.embedding_dim)
    source = averaged(method, name) or online(method, name)
    assert torch.equal(embedded, source(images))
    evaluated = averaged(method, name) if name in ("dino", "ibot") else online(method, name)
    assert method.backbone is evaluated.backbone


@every_method
def test_embedding_is_the_online_projection_of_view_0_with_gradient(
    make_method, draw_views, step_at, name: str
) -> None:
    unmasked = {"model": {"mask_probability": 0.0}} if name in ("ibot", "beit") else {}
    method = make_method(name, **unmasked).eval()  # without batch statistics no image depends on another
    batch = [view.requires_grad_() for view in draw_views(local=name in MULTI_CROP)]
    output = method(batch, step_at())
    # one call for two views against one for one: float32 sums in another order
    torch.testing.assert_close(output.embedding, online(method, name)(batch[0]), rtol=1e-4, atol=1e-5)
    first, *others = torch.autograd.grad(output.embedding.square().sum(), batch, allow_unused=True)
    assert first.abs().max() > 0
    assert all(gradient is None or gradient.abs().max() == 0 for gradient in others)
    if output.second_embedding is not None:
        assert not output.second_embedding.requires_grad
        torch.testing.assert_close(output.second_embedding, online(method, name)(batch[1]), rtol=1e-4, atol=1e-5)


@every_method
def test_encoded_views_are_what_backbone_and_embed_give_for_each_view(
    make_method, draw_views, step_at, name: str
) -> None:
    unmasked = {"model": {"mask_probability": 0.0}} if name == "beit" else {}
    method = make_method(name, **unmasked).eval()  # where a momentum or teacher network has the online one's weights
    views = draw_views()
    encoded = method(views, step_at()).encoded
    assert len(encoded.features) == len(encoded.embeddings) == (1 if name == "beit" else 2)
    # one call for two views against one for one: float32 sums in another order
    near = {"rtol": 1e-4, "atol": 1e-5}
    for view, features, embedding in zip(views, encoded.features, encoded.embeddings, strict=False):
        assert not features.requires_grad
        assert not embedding.requires_grad
        torch.testing.assert_close(features, method.backbone(view).detach(), **near)
        torch.testing.assert_close(F.normalize(embedding, dim=1), F.normalize(method.embed(view), dim=1), **near)


@every_method
@every_variant
def test_gradient_reaches_the_online_network_alone(ready, draw_views, step_at, name: str, variant: str) -> None:
    method = ready(name, variant)
    forward(method, draw_views(), step_at(5)).loss.backward()
    gradients = {key: value.grad for key, value in online(method, name).named_parameters() if value.requires_grad}
    assert not [key for key, gradient in gradients.items() if gradient is None]
    assert any(gradient.abs().max() > 0 for key, gradient in gradients.items() if key.startswith("backbone."))
    if (average := averaged(method, name)) is not None:
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in average.parameters())


@pytest.mark.parametrize("name", AVERAGED)
def test_the_momentum_network_changes_in_before_step_only(ready, draw_views, step_at, name: str) -> None:
    method, step = ready(name, model={"momentum": 0.9}), step_at(7)
    average = averaged(method, name)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.1)
    before = copy.deepcopy(dict(average.named_parameters()))
    method(draw_views(), step).loss.backward()
    optimizer.step()
    method.after_step(step)
    assert all(torch.equal(before[key], value) for key, value in average.named_parameters())
    buffers = copy.deepcopy(dict(average.named_buffers()))
    method.before_step(step)
    momentum = 0.9 if name == "mocov2" else half_cosine(0.9, 1, step.progress)
    for key, value in average.named_parameters():
        expected = before[key] * momentum + online(method, name).get_parameter(key) * (1 - momentum)
        torch.testing.assert_close(value, expected)  # float32's own tolerance
    assert all(torch.equal(buffers[key], value) for key, value in average.named_buffers())
    assert any(not torch.equal(before[key], value) for key, value in average.named_parameters())


@every_method
@every_variant
def test_groups_hold_every_trainable_parameter_once(make_method, name: str, variant: str) -> None:
    method = make_method(name, variant)
    grouped = Counter(id(parameter) for group in method.parameter_groups() for parameter in group["params"])
    assert grouped == Counter(id(parameter) for parameter in method.parameters() if parameter.requires_grad)


@every_method
@every_variant
def test_state_comes_back_bit_equal(ready, make_method, draw_views, step_at, tmp_path, name: str, variant: str) -> None:
    method = ready(name, variant)
    for number in (5, 6):
        forward(method, draw_views(seed=number), step_at(number))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    restored = make_method(name, variant).train()
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for key, value in method.state_dict().items():
        if isinstance(value, Tensor):
            assert torch.equal(restored.state_dict()[key], value), key
    assert torch.equal(forward(restored, draw_views(), step_at(7)).loss, forward(method, draw_views(), step_at(7)).loss)


# --- what HIRL adds ---------------------------------------------------------------------------------------------------


@every_method
def test_before_the_first_snapshot_the_loss_is_the_image_loss(make_method, draw_views, step_at, name: str) -> None:
    wrapped, plain = make_method(name, "hirl").train(), make_method(name).train()
    plain.load_state_dict(wrapped.method.state_dict())
    assert wrapped.before_epoch(0, lambda *_: pytest.fail("nothing is to be embedded yet")) is None
    output = forward(wrapped, draw_views(), step_at())
    assert torch.equal(output.loss, forward(plain, draw_views(), step_at()).loss)
    assert "path_loss" not in output.metrics


@every_method
def test_path_loss_is_added_and_reaches_the_online_network(ready, make_method, draw_views, step_at, name: str) -> None:
    wrapped, plain = ready(name, "hirl"), make_method(name).train()
    plain.load_state_dict(wrapped.method.state_dict())
    output, image = forward(wrapped, draw_views(), step_at(5)), forward(plain, draw_views(), step_at(5))
    assert torch.equal(output.metrics["image_loss"], image.loss.detach())
    assert torch.equal(output.loss, image.loss + output.metrics["path_loss"])
    output.loss.backward()
    image.loss.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in wrapped.projections.parameters() if parameter.ndim > 1)
    pairs = zip(online(wrapped, name).parameters(), online(plain, name).parameters(), strict=True)
    assert any(p.grad is not None and not torch.equal(p.grad, q.grad) for p, q in pairs)


def test_snapshots_follow_their_schedule(make_method) -> None:
    wrapped = make_method("simsiam", "hirl", hierarchy={"start_epoch": 1, "snapshot_epochs": 2})
    taken = [wrapped.before_epoch(epoch, encode_all) is not None for epoch in range(6)]
    assert taken == [False, True, False, True, False, True]
    assert wrapped.tree.num_clusters == (6, 3, 2)
    assert len(wrapped.tree.assignments) == IMAGES


def test_the_wrapped_method_gets_its_before_epoch_call(make_method) -> None:
    wrapped, begun = make_method("simsiam", "hirl", hierarchy={"start_epoch": 1}), []
    wrapped.method.before_epoch = lambda epoch, encode_all: begun.append(epoch)
    for epoch in range(3):
        wrapped.before_epoch(epoch, encode_all)
    assert begun == [0, 1, 2]


def test_with_all_paths_as_negatives_the_loss_is_not_random(ready, draw_views, step_at) -> None:
    """Two seeds give the same loss."""
    wrapped = ready("simsiam", "hirl", hierarchy={"negatives": "all"}).eval()
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses.append(wrapped(draw_views(), step_at()).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_reassigning_moves_the_batchs_images_and_no_others(ready, draw_views, step_at, name: str) -> None:
    wrapped, step = ready(name, "hirl", hierarchy={"reassign": True}), step_at(5)
    before = wrapped.tree.assignments.clone()
    second = forward(wrapped, draw_views(), step).second_embedding
    others = torch.ones(IMAGES, dtype=torch.bool)
    others[step.images] = False
    assert torch.equal(wrapped.tree.assignments[others], before[others])
    nearest = [F.cosine_similarity(row[None], wrapped.tree.centroids[0]).argmax().item() for row in second]
    assert wrapped.tree.assignments[step.images, 0].tolist() == nearest
    assert torch.equal(wrapped.tree.assignments[step.images], wrapped.tree.paths[nearest])
    assert not torch.equal(wrapped.tree.assignments, before)


def test_reassigning_needs_a_second_embedding(ready, draw_views, step_at) -> None:
    with pytest.raises(ValueError, match=r"hierarchy\.reassign needs a method that embeds view 1 online"):
        forward(ready("mocov2", "hirl", hierarchy={"reassign": True}), draw_views(), step_at(5))


def test_projections_are_separate_mlps_of_the_embeddings_width(make_method) -> None:
    wrapped = make_method("simsiam", "hirl", hierarchy={"mlp_layers": 3})
    kinds = [type(layer).__name__ for layer in wrapped.projections[0].layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    linear = [layer for layer in wrapped.projections[0].layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(16, 16)] * 3
    assert [layer.bias is None for layer in linear] == [True, True, False]
    assert len({id(parameter) for parameter in wrapped.projections.parameters()}) == 3 * len(
        list(wrapped.projections[0].parameters())
    )

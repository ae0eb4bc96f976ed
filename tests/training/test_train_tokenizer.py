from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hirl.data.images import load_images
from hirl.models.tokenizer import load_tokenizer
from hirl.training.train_tokenizer import measure, train_tokenizer
from tests.methods.reference_losses import SINGLE


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_measures_are_counted_by_hand(tiny_data) -> None:
    """A network that calls an image 0, 1 or 2 by its brightness, and gives back that brightness for every pixel."""

    class Brightness(nn.Module):
        vocabulary = 4

        def forward(self, images: Tensor) -> Tensor:
            level = images.mean((1, 2, 3), keepdim=True)
            return -(level - torch.tensor([0.45, 0.5, 0.55, 9.0]).view(1, 4, 1, 1)).abs()

        def decode(self, tokens: Tensor) -> Tensor:
            level = (tokens * torch.tensor([0.45, 0.5, 0.55, 9.0]).view(1, 4, 1, 1)).sum(1, keepdim=True)
            return level.expand(-1, 3, 32, 32)

    split = load_images(tiny_data, "validation")
    metrics = measure(Brightness(), split, batch_size=24, device=torch.device("cpu"))
    pixels = split.images.double().numpy() / 255
    levels = np.array([0.45, 0.5, 0.55])
    chosen = np.abs(pixels.mean((1, 2, 3))[:, None] - levels).argmin(1)
    shares = np.bincount(chosen, minlength=3) / 64
    error = np.sqrt(np.mean((pixels - levels[chosen][:, None, None, None]) ** 2))
    assert metrics["token_perplexity"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p)), rel=SINGLE)
    assert metrics["error"] == pytest.approx(error, rel=SINGLE)


def test_a_trained_tokenizer_is_loaded_as_it_was_written(tiny_run, tiny_data, tmp_path, images, capsys) -> None:
    out = tmp_path / "tokenizer.safetensors"
    metrics = train_tokenizer(tiny_run("beit"), tiny_data, out, tmp_path / "scratch")
    assert 1 <= metrics["token_perplexity"] <= 16
    assert f"{metrics['token_perplexity']:.1f} of 16 tokens" in capsys.readouterr().out
    loaded = load_tokenizer(out)
    assert (loaded.vocabulary, loaded.patch_size) == (16, 4)
    assert loaded(images).max() < 16
    again = measure(loaded.network, load_images(tiny_data, "validation"), 64, torch.device("cpu"))
    assert again == pytest.approx(metrics, rel=SINGLE)


def test_training_brings_the_error_down(tiny_run, tiny_data, tmp_path) -> None:
    """The tiny pictures are squares of 8 pixels, each of one colour."""
    sizes = {"patch_size": 8, "width": 16, "epochs": 30, "optimizer": {"base_lr": 0.1}}
    config = tiny_run("beit", model={"tokenizer": sizes}, views={"global_scale": [1, 1]})
    images = load_images(tiny_data, "validation")
    after = train_tokenizer(config, tiny_data, tmp_path / "tokenizer.safetensors", tmp_path / "scratch")
    one_gray = images.images.double().div(255).std().item()  # the error without any tokens
    assert after["error"] < 0.9 * one_gray  # 120 steps
    assert after["token_perplexity"] > 3


def test_stopped_and_resumed_is_bit_equal_to_one_go(tiny_run, tiny_data, tmp_path, stopped_after_one_epoch) -> None:
    config, once, twice = tiny_run("beit"), tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    train_tokenizer(config, tiny_data, once, tmp_path / "scratch1")
    with stopped_after_one_epoch():
        train_tokenizer(config, tiny_data, twice, tmp_path / "scratch2")
    assert not twice.exists()
    train_tokenizer(config, tiny_data, twice, tmp_path / "scratch2")
    first, second = load_file(once), load_file(twice)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_method_without_tokens_has_no_tokenizer_to_train(tiny_run, tiny_data, tmp_path) -> None:
    with pytest.raises(ValueError, match="method dino uses no tokenizer: name one that does, such as beit"):
        train_tokenizer(tiny_run("dino"), tiny_data, tmp_path / "out.safetensors", tmp_path / "scratch")

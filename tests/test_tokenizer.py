from __future__ import annotations

import math
import pickle
import sys
import types
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hirl import dall_e, tokenizer
from hirl.config import TokenizerConfig
from hirl.data.images import load_images
from hirl.tokenizer import DiscreteVAE, Tokenizer, load_tokenizer, measure, save_tokenizer, train_tokenizer
from hirl.training import fit as fit_module
from tests.methods.slow import SINGLE, numbers, softmax


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=str(path)) as caught:
        load_tokenizer(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the discrete VAE -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch_size", [2, 4, 8])
def test_every_patch_gets_one_token(images, patch_size: int) -> None:
    torch.manual_seed(0)
    network = DiscreteVAE(vocabulary=6, width=4, patch_size=patch_size)
    tokens = Tokenizer(network)(images)
    assert tokens.shape == (2, 16 // patch_size, 24 // patch_size)
    assert torch.equal(tokens, network(images).argmax(dim=1))
    assert network.decode(F.one_hot(tokens, 6).movedim(3, 1).float()).shape == images.shape


def test_loss_is_the_error_of_relaxed_tokens_and_the_batchs_divergence(images) -> None:
    network = DiscreteVAE(vocabulary=6, width=4, patch_size=4)
    torch.manual_seed(5)
    loss = network.loss(images, temperature=0.5, kl_weight=0.1)
    torch.manual_seed(5)
    noise = numbers(-torch.empty(2, 6, 4, 6).exponential_().log())
    scores, codebook = numbers(network(images)).transpose(0, 2, 3, 1), numbers(network.codebook.weight)
    mixed = np.zeros((2, 4, 4, 6))
    mean = np.zeros(6)
    for place in np.ndindex(2, 4, 6):
        image, row, column = place
        weights = softmax((scores[place] + noise[image, :, row, column]) / 0.5)
        mixed[image, :, row, column] = weights @ codebook
        mean += softmax(scores[place]) / 48
    decoded = (numbers(network.decoder(torch.tensor(mixed, dtype=torch.float32))) + 1) / 2
    divergence = sum(p * math.log(p * 6) for p in mean)
    expected = np.mean((decoded - numbers(images)) ** 2) + 0.1 * divergence
    assert loss.item() == pytest.approx(expected, rel=SINGLE)


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
    gauges = measure(Brightness(), split, batch_size=24, device=torch.device("cpu"))
    pixels = split.images.double().numpy() / 255
    levels = np.array([0.45, 0.5, 0.55])
    chosen = np.abs(pixels.mean((1, 2, 3))[:, None] - levels).argmin(1)
    shares = np.bincount(chosen, minlength=3) / 64
    error = np.sqrt(np.mean((pixels - levels[chosen][:, None, None, None]) ** 2))
    assert gauges["tokens_used"] == pytest.approx(np.exp(-sum(p * np.log(p) for p in shares if p)), rel=SINGLE)
    assert gauges["error"] == pytest.approx(error, rel=SINGLE)


def test_temperature_falls_along_a_cosine() -> None:
    temperature = partial(tokenizer._temperature, TokenizerConfig(temperature=(1.0, 0.2)))
    assert [temperature(progress) for progress in (0, 0.5, 1)] == pytest.approx([1.0, 0.6, 0.2])


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_trained_tokenizer_is_loaded_as_it_was_written(tiny_run, tiny_data, tmp_path, images, capsys) -> None:
    out = tmp_path / "tokenizer.safetensors"
    gauges = train_tokenizer(tiny_run("beit"), tiny_data, out, tmp_path / "scratch")
    assert 1 <= gauges["tokens_used"] <= 16
    assert f"{gauges['tokens_used']:.1f} of 16 tokens" in capsys.readouterr().out
    loaded = load_tokenizer(out)
    assert (loaded.vocabulary, loaded.patch_size) == (16, 4)
    assert loaded(images).max() < 16
    again = measure(loaded.network, load_images(tiny_data, "validation"), 64, torch.device("cpu"))
    assert again == pytest.approx(gauges, rel=SINGLE)


def test_training_brings_the_error_down(tiny_run, tiny_data, tmp_path) -> None:
    """The tiny pictures are squares of 8 pixels, each of one colour."""
    sizes = {"patch_size": 8, "width": 16, "epochs": 30, "optimizer": {"base_lr": 0.1}}
    config = tiny_run("beit", model={"tokenizer": sizes}, views={"global_scale": [1, 1]})
    images = load_images(tiny_data, "validation")
    after = train_tokenizer(config, tiny_data, tmp_path / "tokenizer.safetensors", tmp_path / "scratch")
    one_grey = images.images.double().div(255).std().item()  # the error without any tokens
    assert after["error"] < 0.9 * one_grey  # 120 steps
    assert after["tokens_used"] > 3


def test_stopped_and_resumed_is_bit_equal_to_one_go(tiny_run, tiny_data, tmp_path, monkeypatch) -> None:
    config, once, twice = tiny_run("beit"), tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    train_tokenizer(config, tiny_data, once, tmp_path / "scratch1")
    saved = fit_module.save_checkpoint

    def stop(folder: Path, epochs_done: int, state: object) -> None:
        saved(folder, epochs_done, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(config, tiny_data, twice, tmp_path / "scratch2")
    assert not twice.exists()
    train_tokenizer(config, tiny_data, twice, tmp_path / "scratch2")
    first, second = load_file(once), load_file(twice)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_method_without_tokens_has_no_tokenizer_to_train(tiny_run, tiny_data, tmp_path) -> None:
    with pytest.raises(ValueError, match="method dino uses no tokenizer: name one that does, such as beit"):
        train_tokenizer(tiny_run("dino"), tiny_data, tmp_path / "out.safetensors", tmp_path / "scratch")


# --- DALL-E's encoder -------------------------------------------------------------------------------------------------


def their_conv(weights: Tensor, bias: Tensor, maps: Tensor) -> Tensor:
    return F.conv2d(maps, weights, bias, padding=(weights.shape[-1] - 1) // 2)


def their_scores(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """DALL-E's encoder, step by step from its published state (openai/DALL-E, encoder.py and utils.py)."""

    def conv(name: str, maps: Tensor) -> Tensor:
        return their_conv(state[f"blocks.{name}.w"], state[f"blocks.{name}.b"], maps)

    maps = conv("input", 0.8 * images + 0.1)
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            name = f"group_{group}.block_{block}"
            residual = maps
            for number in (1, 2, 3, 4):
                residual = conv(f"{name}.res_path.conv_{number}", residual.relu())
            widens = f"blocks.{name}.id_path.w" in state
            maps = (conv(f"{name}.id_path", maps) if widens else maps) + residual / 64
        if group < 4:
            maps = F.max_pool2d(maps, 2)
    return conv("output.conv", maps.relu())


def test_the_encoder_is_dall_es(images) -> None:
    torch.manual_seed(0)
    network = dall_e.Encoder(vocabulary=12, width=8, blocks=2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    scores = network(images)
    assert scores.shape == (2, 12, 2, 3)
    # float32, in the same order but for the gain of the residual paths
    torch.testing.assert_close(scores, their_scores(network.state_dict(), images), rtol=1e-4, atol=1e-5)


def test_its_published_size() -> None:
    with torch.device("meta"):
        state = dall_e.Encoder(8192, 256, 2).state_dict()
    assert state["blocks.input.w"].shape == (256, 3, 7, 7)
    assert state["blocks.group_4.block_1.id_path.w"].shape == (2048, 1024, 1, 1)
    assert state["blocks.group_4.block_2.res_path.conv_4.w"].shape == (2048, 512, 1, 1)
    assert state["blocks.output.conv.w"].shape == (8192, 2048, 1, 1)
    assert sum(value.numel() for value in state.values()) == 53_786_240


def as_theirs(module: nn.Module) -> nn.Module:
    """The module under the class names that DALL-E's pickle has, in a package that only the writer has."""
    package = sys.modules.setdefault("dall_e.encoder", types.ModuleType("dall_e.encoder"))
    sys.modules.setdefault("dall_e", types.ModuleType("dall_e"))
    for part in module.modules():
        if type(part).__module__ == "hirl.dall_e":
            name = type(part).__name__.strip("_")
            if not hasattr(package, name):
                theirs = type(name, (nn.Module,), {"__module__": "dall_e.encoder"})
                setattr(package, name, theirs)
            part.device = torch.device("cpu")  # which theirs keep
            part.__class__ = getattr(package, name)
    return module


@pytest.fixture
def without_theirs():
    yield
    for name in ("dall_e", "dall_e.encoder"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("without_theirs")
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, on the classes of old pickles
@pytest.mark.parametrize("kind", ["encoder.pkl", "old.pkl", "state.pth", "state.pt", "state.safetensors"])
def test_it_is_read_from_every_file_it_comes_in(images, tmp_path, kind: str) -> None:
    torch.manual_seed(0)
    network, path = dall_e.Encoder(vocabulary=12, width=8, blocks=2), tmp_path / kind
    expected, state = network(images).argmax(dim=1), network.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".pkl":
        torch.save(as_theirs(network), path, _use_new_zipfile_serialization=kind == "encoder.pkl")
    else:
        torch.save(OrderedDict(state), path)
    for name in ("dall_e", "dall_e.encoder"):
        sys.modules.pop(name, None)
    loaded = load_tokenizer(path)
    assert (loaded.vocabulary, loaded.patch_size) == (12, 8)
    assert torch.equal(loaded(images), expected)


class Mischief:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, zipped: bool) -> None:
    content = {"blocks.input.w": Mischief(tmp_path / "done")}
    torch.save(content, tmp_path / "encoder.pkl", _use_new_zipfile_serialization=zipped)
    assert "is no tokenizer" in refusal(tmp_path / "encoder.pkl")
    assert not (tmp_path / "done").exists()


# --- files that are refused -------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_how_to_make_one(tmp_path) -> None:
    assert "make it with hirl tokenizer" in refusal(tmp_path / "tokenizer.safetensors")
    with pytest.raises(ValueError, match="there is no tokenizer"):
        load_tokenizer(None)


@pytest.mark.parametrize("name", ["tokenizer.safetensors", "encoder.pkl"])
def test_a_damaged_file_is_named(tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02nothing of the kind")
    assert "is no readable tokenizer" in refusal(tmp_path / name)


def test_other_weights_are_no_tokenizer(tmp_path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert "is no tokenizer: give one that hirl trained" in refusal(tmp_path / "weights.safetensors")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    assert "is no tokenizer" in refusal(tmp_path / "list.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert "is no" in refusal(tmp_path / "plain.pkl")


def test_half_a_tokenizer_is_refused(tmp_path) -> None:
    state = dall_e.Encoder(vocabulary=12, width=8, blocks=2).state_dict()
    del state["blocks.group_3.block_2.res_path.conv_1.b"]
    torch.save(state, tmp_path / "encoder.pt")
    message = refusal(tmp_path / "encoder.pt")
    assert "no whole tokenizer: blocks.group_3.block_2.res_path.conv_1.b missing or of another shape" in message
    save_tokenizer(DiscreteVAE(vocabulary=6, width=4, patch_size=4), tmp_path / "ours.safetensors")
    state = load_file(tmp_path / "ours.safetensors")
    sizes = {"tokenizer": "dvae", "vocabulary": "7", "width": "4", "patch_size": "4"}
    save_file(state, tmp_path / "ours.safetensors", metadata=sizes)
    assert "codebook.weight" in refusal(tmp_path / "ours.safetensors")

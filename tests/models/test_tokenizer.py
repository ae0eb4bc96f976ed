from __future__ import annotations

import math
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hirl.models import dall_e
from hirl.models.tokenizer import DiscreteVAE, Tokenizer, load_tokenizer, save_tokenizer
from tests.methods.reference_losses import SINGLE, numbers, softmax


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
        if type(part).__module__ == "hirl.models.dall_e":
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

"""DALL-E's encoder against its published state, and its file, from which no code is run."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hirl.models import dall_e
from hirl.models.tokenizer import load_tokenizer


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def their_conv(weights: Tensor, bias: Tensor, maps: Tensor) -> Tensor:
    return F.conv2d(maps, weights, bias, padding=(weights.shape[-1] - 1) // 2)


def their_logits(state: dict[str, Tensor], images: Tensor) -> Tensor:
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
    logits = network(images)
    assert logits.shape == (2, 12, 2, 3)
    # float32, in the same order but for the gain of the residual paths
    torch.testing.assert_close(logits, their_logits(network.state_dict(), images), rtol=1e-4, atol=1e-5)


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


class WritesAFile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, zipped: bool) -> None:
    content = {"blocks.input.w": WritesAFile(tmp_path / "done")}
    torch.save(content, tmp_path / "encoder.pkl", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="is not a tokenizer"):
        dall_e.read_state(tmp_path / "encoder.pkl")
    assert not (tmp_path / "done").exists()

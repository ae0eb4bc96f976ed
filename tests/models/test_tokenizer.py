from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    logits, codebook = numbers(network(images)).transpose(0, 2, 3, 1), numbers(network.codebook.weight)
    mixed = np.zeros((2, 4, 4, 6))
    mean = np.zeros(6)
    for place in np.ndindex(2, 4, 6):
        image, row, column = place
        weights = softmax((logits[place] + noise[image, :, row, column]) / 0.5)
        mixed[image, :, row, column] = weights @ codebook
        mean += softmax(logits[place]) / 48
    decoded = (numbers(network.decoder(torch.tensor(mixed, dtype=torch.float32))) + 1) / 2
    divergence = sum(p * math.log(p * 6) for p in mean)
    expected = np.mean((decoded - numbers(images)) ** 2) + 0.1 * divergence
    assert loss.item() == pytest.approx(expected, rel=SINGLE)


# --- files that are refused -------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_how_to_make_one(tmp_path) -> None:
    assert "make it with hirl tokenizer" in refusal(tmp_path / "tokenizer.safetensors")
    with pytest.raises(ValueError, match="there is no tokenizer"):
        load_tokenizer(None)


@pytest.mark.parametrize("name", ["tokenizer.safetensors", "encoder.pkl"])
def test_a_damaged_file_is_named(tmp_path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02nothing of the kind")
    assert "is not a readable tokenizer" in refusal(tmp_path / name)


def test_other_weights_are_no_tokenizer(tmp_path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    assert "is not a tokenizer: give one that hirl trained" in refusal(tmp_path / "weights.safetensors")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    assert "is not a tokenizer" in refusal(tmp_path / "list.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert "is not a" in refusal(tmp_path / "plain.pkl")


def test_half_a_tokenizer_is_refused(tmp_path) -> None:
    state = dall_e.Encoder(vocabulary=12, width=8, blocks=2).state_dict()
    del state["blocks.group_3.block_2.res_path.conv_1.b"]
    torch.save(state, tmp_path / "encoder.pt")
    message = refusal(tmp_path / "encoder.pt")
    assert "not a complete tokenizer: blocks.group_3.block_2.res_path.conv_1.b missing or of another shape" in message
    save_tokenizer(DiscreteVAE(vocabulary=6, width=4, patch_size=4), tmp_path / "ours.safetensors")
    state = load_file(tmp_path / "ours.safetensors")
    sizes = {"tokenizer": "dvae", "vocabulary": "7", "width": "4", "patch_size": "4"}
    save_file(state, tmp_path / "ours.safetensors", metadata=sizes)
    assert "codebook.weight" in refusal(tmp_path / "ours.safetensors")

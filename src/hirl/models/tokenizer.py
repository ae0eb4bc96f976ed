"""Tokenizers: frozen networks from images to visual tokens, which BEiT predicts.

There are two: the encoder of OpenAI's DALL-E, which BEiT's authors use, read from the user's file; and a small discrete
VAE, trained here if no file is given.

Shapes: B images, V tokens in the vocabulary, f pixels a side of a token.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hirl.distributed.collectives import local_slice, world_size
from hirl.distributed.parallel import global_mean
from hirl.files import atomic_path, pack_metadata, unpack_metadata
from hirl.models import dall_e

LOGIT_SCALE = 5  # of the discrete VAE: at 1, Gumbel noise dominates the logits for epochs


class Tokenizer:
    """A frozen network that maps every square of `patch_size` pixels to one of `vocabulary` tokens.

    It is not a submodule of the method that holds it: it gets no gradients and is not part of checkpoints.
    """

    def __init__(self, network: DiscreteVAE | dall_e.Encoder):
        self.network = network.eval().requires_grad_(False)
        self.vocabulary, self.patch_size = network.vocabulary, network.patch_size

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the most likely tokens, int64 [B, H/f, W/f], of images [B, 3, H, W] in [0, 1]."""
        return self.network.to(images.device)(images).argmax(dim=1)


def load_tokenizer(path: Path | None) -> Tokenizer:
    """Load a tokenizer that was trained here, or DALL-E's encoder as .safetensors, .pt, .pth or .pkl.

    DALL-E's encoder.pkl is a pickled module: only its tensors are read, no code in it runs.

    Raises:
        ValueError: there is no file, or it does not hold one of the two completely.
    """
    if path is None or not path.is_file():
        raise ValueError(
            f"there is no tokenizer {path or ''}: make it with hirl tokenizer, or give one with --tokenizer"
        )
    state, sizes = _read_safetensors(path) if path.suffix == ".safetensors" else (dall_e.read_state(path), {})
    network: DiscreteVAE | dall_e.Encoder
    if sizes.get("tokenizer") == "dvae":
        network = DiscreteVAE(*(int(sizes[key]) for key in ("vocabulary", "width", "patch_size")))
    elif "blocks.input.w" in state:
        network = dall_e.Encoder(*dall_e.sizes(state))
    else:
        raise ValueError(f"{path} is not a tokenizer: give one that hirl trained, or DALL-E's encoder.pkl")
    expected = {key: value.shape for key, value in network.state_dict().items()}
    wrong = [key for key in expected.keys() | state.keys() if key not in state or state[key].shape != expected.get(key)]
    if wrong:
        raise ValueError(
            f"{path} is not a complete tokenizer: {', '.join(sorted(wrong)[:3])} missing or of another shape"
        )
    network.load_state_dict(state)
    return Tokenizer(network)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, unpack_metadata(file.metadata())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is not a readable tokenizer ({error}): make it again, or give another") from error


# --- the discrete VAE trained here ------------------------------------------------------------------------------------


class DiscreteVAE(nn.Module):
    """A discrete VAE: an encoder from images to token logits, a codebook, and a decoder back to images.

    Source: DALL-E (arXiv 2102.12092, section 2.1): in training, a Gumbel softmax relaxes the choice of a token.
    Deviation: the reconstruction error is squared, where DALL-E has a logit-Laplace likelihood.
    """

    def __init__(self, vocabulary: int, width: int, patch_size: int):
        super().__init__()
        self.vocabulary, self.width, self.patch_size = vocabulary, width, patch_size
        stages = int(math.log2(patch_size))
        down = [_halve(before, after) for before, after in pairwise([3, *[width] * stages])]
        up = [layer for _ in range(stages) for layer in (nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU())]
        self.encoder = nn.Sequential(*down, _Residual(width), nn.Conv2d(width, vocabulary, 1))
        self.codebook = nn.Embedding(vocabulary, width)
        self.decoder = nn.Sequential(_Residual(width), *up, nn.Conv2d(width, 3, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, V, H/f, W/f] of images in [0, 1]."""
        return LOGIT_SCALE * self.encoder(2 * images - 1).float()

    def decode(self, tokens: Tensor) -> Tensor:
        """Decode distributions over the vocabulary, [B, V, H/f, W/f], to images in about [0, 1]."""
        return (self.decoder(torch.einsum("bvhw,vd->bdhw", tokens, self.codebook.weight)) + 1) / 2

    def loss(self, images: Tensor, temperature: float, kl_weight: float) -> Tensor:
        """Return the squared reconstruction error of relaxed tokens, plus a weighted KL divergence in nats.

        The divergence is that of the batch's mean token distribution from the uniform one, which favours the use of all
        tokens. Deviation: DALL-E takes that of each single token's distribution, which discourages confident choices.
        """
        logits = self(images)
        relaxed = F.softmax((logits + _gumbel_noise(logits)) / temperature, dim=1)
        error = F.mse_loss(self.decode(relaxed), images)
        mean = global_mean(F.softmax(logits, dim=1).mean(dim=(0, 2, 3)))
        return error + kl_weight * (math.log(self.vocabulary) - torch.special.entr(mean).sum())


def _gumbel_noise(logits: Tensor) -> Tensor:
    """Draw noise as torch's `gumbel_softmax` does, for all ranks, and return this rank's slice."""
    drawn = logits.new_empty(world_size() * len(logits), *logits.shape[1:]).exponential_()
    return -local_slice(drawn).log()


def _halve(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 4, 2, 1), nn.ReLU())


class _Residual(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int):
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.path(maps)


def save_tokenizer(network: DiscreteVAE, path: Path) -> None:
    """Write a discrete VAE to a safetensors file, with its sizes as metadata."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    sizes = {key: str(getattr(network, key)) for key in ("vocabulary", "width", "patch_size")}
    with atomic_path(path) as temporary:
        save_file(state, temporary, pack_metadata({"tokenizer": "dvae"} | sizes))

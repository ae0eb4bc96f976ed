"""Train the discrete VAE whose visual tokens BEiT predicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hirl.config import RunConfig
from hirl.data.images import ImageSet, load_images
from hirl.data.loader import epoch_batches, ordered_batches
from hirl.data.views import Views, denormalize
from hirl.distributed.collectives import gather, is_main_process, world_size
from hirl.distributed.device import choose_device
from hirl.methods.schedules import half_cosine
from hirl.models.tokenizer import DiscreteVAE, save_tokenizer
from hirl.training.fit import fit
from hirl.training.scratch import tokenizer_fingerprint


def train_tokenizer(config: RunConfig, data: Path, out: Path, scratch: Path) -> dict[str, float]:
    """Train a discrete VAE on the views of a method that uses a tokenizer, or resume its training; write it to `out`.

    Args:
        config: of any run of the method; all its runs share one tokenizer.
        data: the prepared data.
        out: a .safetensors file.
        scratch: the folder of the checkpoints.

    Returns:
        The metrics of the validation images, by `measure`.

    Raises:
        ValueError: the method uses no tokenizer, the data do not fit, or `fit` fails.
    """
    fingerprint = tokenizer_fingerprint(config, data)
    settings, device = config.model.tokenizer, choose_device()
    start, end = settings.temperature
    images = load_images(data, "train")
    torch.manual_seed(config.seed)
    network = DiscreteVAE(settings.vocabulary, settings.width, settings.patch_size).to(device)
    views = Views(config.views.model_copy(update={"global_crops": 1, "local_crops": 0}))
    per_epoch = len(images) // settings.batch_size

    def batches(epoch: int) -> Iterator[tuple[Tensor, float]]:
        drawn = epoch_batches(images, settings.batch_size, config.seed, epoch, views, device)
        for number, (_, (view,)) in enumerate(drawn, epoch * per_epoch):
            yield denormalize(view), half_cosine(start, end, number / (per_epoch * settings.epochs))

    def loss(batch: tuple[Tensor, float]) -> Tensor:
        return network.train().loss(*batch, settings.kl_weight)

    groups = [{"params": list(network.parameters())}]
    fit("tokenizer", network, groups, batches, loss, settings, per_epoch, scratch, fingerprint, config.seed)
    metrics = measure(network, load_images(data, "validation"), settings.batch_size, device)
    if is_main_process():
        save_tokenizer(network, out)
        used, error = metrics["token_perplexity"], metrics["error"]
        print(
            f"tokenizer  uses {used:.1f} of {settings.vocabulary} tokens, root mean squared error {error:.3f}",
            flush=True,
        )
    return metrics


@torch.no_grad()
def measure(network: DiscreteVAE, images: ImageSet, batch_size: int, device: torch.device) -> dict[str, float]:
    """Return the collapse metric and the reconstruction error of a tokenizer, over the images of all ranks.

    Returns:
        token_perplexity, exp(entropy of the tokens) in [1, V], and error, the root mean square over pixels in [0, 1].
    """
    network.eval()
    counts, squares, values = torch.zeros(network.vocabulary, device=device), 0.0, 0
    for batch in ordered_batches(images, batch_size // world_size(), device):
        pixels = batch.float() / 255
        tokens = F.one_hot(network(pixels).argmax(dim=1), network.vocabulary).movedim(-1, 1).float()
        counts += tokens.sum(dim=(0, 2, 3))
        squares += (network.decode(tokens) - pixels).square().sum().item()
        values += pixels.numel()
    counts = gather(counts[None]).sum(dim=0)
    squares, values = gather(torch.tensor([[squares, values]], dtype=torch.float64, device=device)).sum(dim=0).tolist()
    used = torch.special.entr(counts / counts.sum()).sum().exp().item()
    return {"token_perplexity": used, "error": math.sqrt(squares / values)}

"""Every run of the paper's study takes a step: its own network, views, heads, tree and optimiser, on a CPU.

`python tests/workflow/test_imagenet.py METHOD` prints the measurements, a line of JSON for each variant.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from hirl.config import RunConfig, load_study
from hirl.data.views import Views
from hirl.distributed.device import choose_precision, seed_step
from hirl.evaluation.finetune import Classifier
from hirl.evaluation.linear import new_head
from hirl.evaluation.supervised import load_backbone
from hirl.hierarchy.tree import SemanticTree
from hirl.methods.base import Step
from hirl.models.dall_e import Encoder
from hirl.training.loop import build_method
from hirl.training.optimizers import build_optimizer, set_rates
from hirl.training.schedules import learning_rate, weight_decay

IMAGES = 1_281_167  # of ImageNet's training split
METHODS = [
    name for name in load_study("imagenet").config.methods if name != "swav_800"
]  # which has swav's network and step
BATCHES = {"mocov2": 8, "simsiam": 4}  # mocov2: one for each of its groups of batch norm
BATCH = 2
LIMIT_MB = 24_000


@pytest.fixture(scope="module")
def steps() -> Iterator[dict[str, Future]]:
    """Measure every method in a process of its own, so that its peak memory is its own, two at a time."""
    from tests.run_on_ranks import on_ranks  # unknown to a script

    with ThreadPoolExecutor(2) as pool:
        yield {method: pool.submit(on_ranks, 1, measure, method) for method in METHODS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_one_step_of_the_paper(steps, method: str) -> None:
    ((baseline, hirl),) = steps[method].result()
    assert "path_loss" not in baseline
    assert hirl["image_loss"] == pytest.approx(baseline["loss"], rel=1e-5)  # the same weights, views and draws
    assert hirl["loss"] == pytest.approx(hirl["image_loss"] + hirl["path_loss"], rel=1e-5)  # a sum in float32
    for step in (baseline, hirl):
        assert -2 <= step["loss"] < 100  # finite; from SimSiam's cosine up to a few logarithms of as many choices
        assert 0 < step["moved"] < 1
        assert step["without_gradient"] == 0
        assert step["peak_memory_mb"] < LIMIT_MB


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rates"), [("simsiam", 2), ("mocov3", 14), ("beit", 14)])
def test_classifiers_of_the_paper(method: str, rates: int) -> None:
    """Their rates are those of 12 blocks, of what comes before them and of the head; of a ResNet and of its head."""
    config = load_study("imagenet").resolve(method, "hirl")
    for task in ("finetune", "semisup-1", "semisup-10", "transfer"):
        settings = config.evaluation.of(task)
        network = Classifier(load_backbone(config, None, config.data.image_size, settings.drop_path), classes=1000)
        optimizer = build_optimizer(network.groups(settings), settings.optimizer)
        scales = {group.get("lr_scale", 1.0) for group in optimizer.param_groups}
        assert len(scales) == rates
        assert min(scales) == pytest.approx((settings.layer_decay or 1) ** (rates - 1))
        assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    head = new_head(network.backbone, config.evaluation.linear, classes=1000)
    assert head.weight.std().item() == pytest.approx(config.evaluation.linear.head_std, rel=0.01)  # of 768,000 draws


def one_step(config: RunConfig, views: list[Tensor], tokenizer: Path) -> dict[str, Any]:
    """Run a step in the middle of the training, where nothing is frozen any more."""
    started = time.monotonic()
    method = build_method(config, tokenizer=tokenizer).to(memory_format=torch.channels_last)
    if config.hierarchy is not None:
        method.tree = made_up_tree(config.hierarchy.num_clusters, method.embedding_dim)
    optimizer = build_optimizer(method.parameter_groups(), config.training.optimizer)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.detach().clone() for weight in weights]
    training, per_epoch = config.training, IMAGES // config.training.batch_size
    number = per_epoch * training.epochs // 2
    rate = learning_rate(training, number, per_epoch)
    set_rates(optimizer, rate, training.effective_lr, weight_decay(training, number, per_epoch))
    step = Step(number, per_epoch, training.epochs, torch.randint(IMAGES, (len(views[0]),)))
    seed_step(config.seed, number)
    method.before_step(step)
    dtype = choose_precision(training.precision, torch.device("cpu"))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = method(views, step)
    output.loss.backward()
    if training.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(weights, training.optimizer.clip_norm)
    optimizer.step()
    method.after_step(step)
    return {
        "run": config.name,
        "loss": output.loss.item(),
        **{name: value.item() for name, value in output.metrics.items()},
        "parameters": sum(weight.numel() for weight in weights),
        "without_gradient": sum(weight.grad is None for weight in weights),
        "moved": length(new.detach() - old for new, old in zip(weights, before, strict=True)) / length(before),
        "images": len(views[0]),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def length(tensors: Iterable[Tensor]) -> float:
    """Return the length of all tensors as one vector."""
    return sum(tensor.square().sum().item() for tensor in tensors) ** 0.5


def made_up_tree(num_clusters: tuple[int, ...], width: int) -> SemanticTree:
    """Return a tree of the published size over all of ImageNet, its centroids, parents and paths random."""
    centroids = [F.normalize(torch.randn(number, width), dim=1) for number in num_clusters]
    parents = [torch.randint(above, (number,)) for number, above in pairwise(num_clusters)]
    paths = [torch.randint(num_clusters[0], (IMAGES,))]
    for table in parents:
        paths.append(table[paths[-1]])
    return SemanticTree(tuple(centroids), tuple(parents), torch.stack(paths, dim=1))


def measure(name: str) -> list[dict[str, Any]]:
    """Measure a step of the baseline, then of HIRL: memory only grows in this order."""
    runs = [load_study("imagenet").resolve(name, variant) for variant in ("baseline", "hirl")]
    seed_step(0, 0)
    pictures = torch.randint(256, (BATCHES.get(name, BATCH), 3, 256, 256), dtype=torch.uint8)
    views = [view.to(memory_format=torch.channels_last) for view in Views(runs[0].views)(pictures)]
    with TemporaryDirectory() as folder:
        tokenizer = Path(folder, "dall_e.safetensors")
        if runs[0].uses_tokenizer:
            save_file(Encoder(8192, 256, 2).state_dict(), tokenizer)  # of DALL-E's size, untrained
        return [one_step(run, views, tokenizer) for run in runs]


if __name__ == "__main__":
    for step in measure(sys.argv[1]):
        print(json.dumps(step))

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from hirl.data.images import load_images
from hirl.data.label_subsets import choose_labels
from hirl.data.supervised_loader import LabelledBatches
from hirl.distributed.device import seed_step
from hirl.evaluation import finetune
from hirl.evaluation.finetune import Classifier, train_and_evaluate
from hirl.evaluation.supervised import load_backbone
from hirl.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
SGD = {"name": "sgd", "base_lr": 0.8, "momentum": 0.9, "weight_decay": 0.01}
ADAMW = {"name": "adamw", "base_lr": 0.016, "weight_decay": 0.05}
BRIEF = {
    "epochs": 2,
    "batch_size": 16,
    "precision": "fp32",
    "optimizer": SGD,
    "schedule": {"warmup_epochs": 0, "start_lr": 0.0, "min_lr": 0.0, "milestones": []},
    "head_lr": None,
    "layer_decay": None,
    "drop_path": 0.0,
    "augmentation": {"randaugment": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0},
}
MIXED = BRIEF["augmentation"] | {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
STRONG = BRIEF["augmentation"] | {"randaugment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tiny_data, tmp_path) -> Path:
    """Copy the tiny data, and choose its labelled images."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in tiny_data.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for percent in (1, 10):
        choose_labels(folder, percent, None, folder / f"labels-{percent}.csv")
    return folder


def tune(config: Any, data: Path, scratch: Path, task: str = "finetune"):
    return train_and_evaluate(task, config, None, data, scratch, "run")


def trained(scratch: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(scratch)["network"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


# --- training ---------------------------------------------------------------------------------------------------------


def vit_scale(name: str, decay: float) -> float:
    """Return the rate's scale of a parameter in a ViT of four blocks."""
    if name.startswith("backbone.blocks."):
        return decay ** (4 - int(name.split(".")[2]))
    return decay**5 if name.startswith(("backbone.cls", "backbone.pos", "backbone.patch")) else 1.0


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("simsiam", {"optimizer": SGD | {"weight_decay": 0.5}, "head_lr": 0.4}),
        ("dino", {"optimizer": ADAMW | {"weight_decay": 30}, "layer_decay": 0.5, "augmentation": MIXED}),
    ],
)
def test_steps_are_those_of_a_plain_loop_with_a_rate_for_each_parameter(
    tiny_run, tiny_data, tmp_path, method: str, settings: dict[str, Any]
) -> None:
    config = tiny_run(method, evaluation={"finetune": BRIEF | settings})
    result = tune(config, tiny_data, tmp_path)

    asked = config.evaluation.finetune
    network = Classifier(load_backbone(config, None, 32), 4).to(memory_format=torch.channels_last).train()
    peak = asked.optimizer.base_lr * 16 / 256
    groups = []
    for name, parameter in network.named_parameters():
        scale = vit_scale(name, 0.5) if method == "dino" else 0.4 / peak if name.startswith("head") else 1.0
        plain = parameter.ndim < 2 or name.endswith(("cls_token", "pos_embed"))
        decay = 0.0 if plain else asked.optimizer.weight_decay
        groups.append({"params": [parameter], "weight_decay": decay, "scale": scale})
    optimizer = torch.optim.AdamW(groups, lr=0.0) if method == "dino" else torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    batches = LabelledBatches(load_images(tiny_data, "train"), 16, asked.augmentation, 0, CPU)
    losses = []
    for epoch in range(2):
        seed_step(0, 4 * epoch)
        for number, (views, targets) in enumerate(batches(epoch), 4 * epoch):
            rate = peak * (1 + math.cos(math.pi * number / 8)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss = -(targets * F.log_softmax(network(views), dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            seed_step(0, number + 1)

    expected = torch.tensor(losses).view(2, 4).mean(dim=1).tolist()
    assert [row["loss"] for row in result.history] == pytest.approx(expected, rel=1e-3)
    # float32 after eight steps of fused and plain optimisers, whose last bits batch norm and Adam's signs enlarge
    for key, value in network.state_dict().items():
        torch.testing.assert_close(trained(tmp_path)[key], value, rtol=1e-2, atol=1e-3)


def test_the_head_has_a_learning_rate_of_its_own(tiny_run, tiny_data, tmp_path) -> None:
    """After one step of plain SGD each part has moved by its rate times the same gradient."""
    optimizer = {"name": "sgd", "base_lr": 0.8, "momentum": 0.0, "weight_decay": 0.0}
    moved = {}
    for head_lr in (None, 0.05, 5.0):
        settings = BRIEF | {"epochs": 1, "batch_size": 64, "optimizer": optimizer, "head_lr": head_lr}
        config = tiny_run("simsiam", evaluation={"finetune": settings})
        start = Classifier(load_backbone(config, None, 32), 4).state_dict()
        tune(config, tiny_data, tmp_path / str(head_lr))
        moved[head_lr] = {key: value - start[key] for key, value in trained(tmp_path / str(head_lr)).items()}
    for head_lr in (0.05, 5.0):
        assert torch.equal(moved[head_lr]["backbone.conv1.weight"], moved[None]["backbone.conv1.weight"])
        scale = head_lr / (0.8 * 64 / 256)
        torch.testing.assert_close(  # weights near 0.1 have seven digits, their steps are a thousandth of that
            moved[head_lr]["head.weight"], scale * moved[None]["head.weight"], rtol=1e-2, atol=1e-6
        )


def test_everything_is_trained_sincos_positions_too(tiny_run, tiny_data, tmp_path) -> None:
    config = tiny_run("dino", backbone={"position_embedding": "sincos"}, evaluation={"finetune": BRIEF})
    start = Classifier(load_backbone(config, None, 32), 4).state_dict()
    tune(config, tiny_data, tmp_path)
    assert [key for key, value in trained(tmp_path).items() if torch.equal(value, start[key])] == []


@pytest.mark.parametrize(("method", "optimizer"), [("simsiam", SGD), ("dino", ADAMW)])
@pytest.mark.parametrize("task", ["finetune", "transfer"])
def test_two_classes_of_different_colors_are_separated(
    tiny_run, red_and_blue, tmp_path, method: str, optimizer: dict[str, Any], task: str
) -> None:
    settings = BRIEF | {"epochs": 8, "optimizer": optimizer}
    result = tune(tiny_run(method, evaluation={task: settings}), red_and_blue, tmp_path, task)
    assert result.metrics == {"top1": 100, "top5": 100}
    assert result.settings["training_images"] == 32


def test_heads_start_as_released(tiny_run) -> None:
    resnet, vit = (Classifier(load_backbone(tiny_run(method), None, 32), 1000).head for method in ("simsiam", "dino"))
    bound = 1 / math.sqrt(128)  # torch's own: uniform
    assert resnet.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert resnet.bias.abs().max().item() == pytest.approx(bound, rel=1e-2)
    assert vit.weight.std().item() == pytest.approx(2e-5, rel=0.02)
    assert not vit.bias.any()


# --- few labels, other data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "count"), [("semisup-1", 4), ("semisup-10", 8)])
def test_only_labelled_images_are_learned_from(tiny_run, data, tmp_path, task: str, count: int) -> None:
    config = tiny_run("simsiam", evaluation={task.replace("-", "_"): BRIEF})
    result = tune(config, data, tmp_path / "before", task)
    assert result.settings["training_images"] == count
    content = load_file(data / "train.safetensors")
    labelled = [int(line.split(",")[0]) for line in (data / f"labels-{task[8:]}.csv").read_text().splitlines()[1:]]
    unlabelled = torch.ones(64, dtype=torch.bool).index_fill(0, torch.tensor(labelled), False)
    content["images"][unlabelled] = 0
    save_file(content, data / "train.safetensors")
    tune(config, data, tmp_path / "after", task)
    assert same(trained(tmp_path / "before"), trained(tmp_path / "after"))


def test_a_transfer_set_has_its_own_classes_and_size(tiny_run, write_data, tmp_path) -> None:
    images = torch.randint(0, 256, (24, 3, 40, 40), dtype=torch.uint8)
    data = write_data(tmp_path / "other", images, torch.arange(24) % 7, 7)
    result = tune(tiny_run("dino", evaluation={"transfer": BRIEF}), data, tmp_path / "scratch", "transfer")
    assert trained(tmp_path / "scratch")["head.weight"].shape == (7, 96)
    assert 0 <= result.metrics["top1"] <= result.metrics["top5"] <= 100


# --- interrupted training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("simsiam", {"optimizer": SGD, "augmentation": MIXED}),
        ("dino", {"optimizer": ADAMW, "drop_path": 0.3, "augmentation": STRONG}),
    ],
)
def test_an_interrupted_training_resumes_to_the_same_bits(
    tiny_run, tiny_data, tmp_path, kill_after, method: str, settings: dict[str, Any]
) -> None:
    config = tiny_run(method, evaluation={"finetune": BRIEF | settings})
    expected = tune(config, tiny_data, tmp_path / "whole")
    kill_after(finetune, 6, lambda: tune(config, tiny_data, tmp_path / "killed"))
    resumed = tune(config, tiny_data, tmp_path / "killed")
    assert resumed.metrics == expected.metrics
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in expected.history]
    assert same(trained(tmp_path / "whole"), trained(tmp_path / "killed"))


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(match: str, config: Any, data: Path, scratch: Path, task: str = "finetune") -> None:
    with pytest.raises(ValueError, match=match) as caught:
        tune(config, data, scratch, task)
    assert "\n" not in str(caught.value)


def test_a_layer_decay_of_a_resnet_is_refused(tiny_run, tiny_data, tmp_path) -> None:
    config = tiny_run("simsiam", evaluation={"finetune": BRIEF | {"layer_decay": 0.5}})
    refused("layer_decay is for the blocks of a ViT", config, tiny_data, tmp_path)


def test_labelled_images_must_be_chosen_first(tiny_run, tiny_data, tmp_path) -> None:
    refused(r"labels-1\.csv is missing", tiny_run("simsiam"), tiny_data, tmp_path, "semisup-1")


def test_labels_of_too_many_classes_are_refused(tiny_run, write_data, tmp_path) -> None:
    data = write_data(tmp_path / "wrong", torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.arange(8) % 4, 3)
    refused("label 3 is not one of its 3 classes", tiny_run("simsiam"), data, tmp_path / "scratch", "transfer")

"""The published hyper-parameters, written down a second time.

Source: the baselines' files of the HIRL release: configs/pretrain/baseline, configs/downstream (8 GPUs), and the branch
det-seg for detection. Batches are images in all, rates those of the optimiser, after the scaling by batch / 256.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hirl.config import CONFIG_ROOT, RunConfig, load_study

RESNETS = ("mocov2", "simsiam", "swav", "swav_800")
VITS = ("mocov3", "dino", "ibot", "beit")
PRETRAINING = {  # epochs, batch, rate, start, end, warm-up, optimiser, weight decay, final, clip
    "mocov2": (200, 256, 0.03, 0, 0, 0, "sgd", 1e-4, None, None),
    "simsiam": (200, 512, 0.1, 0, 0, 0, "sgd", 1e-4, None, None),
    "swav": (200, 4096, 4.8, 0.3, 0.0048, 10, "lars", 1e-6, None, None),
    "swav_800": (800, 4096, 4.8, 0.3, 0.0048, 10, "lars", 1e-6, None, None),
    "mocov3": (400, 4096, 0.0016, 0, 0, 40, "adamw", 0.1, None, None),
    "dino": (400, 1024, 0.003, 0, 2e-6, 10, "adamw", 0.04, 0.4, 0.3),
    "ibot": (400, 1024, 0.003, 0, 2e-6, 10, "adamw", 0.04, 0.4, 0.3),
    "beit": (400, 2048, 0.0015, 0, 1e-5, 10, "adamw", 0.05, None, 3.0),  # its runner does not scale the rate
}
HIERARCHY = {  # clusters, negative paths, layers of a projection, first epoch, re-assigned in every step
    "mocov2": ((30000, 10000, 1000), 1000, 2, 20, False),
    "simsiam": ((30000, 10000, 1000), 1000, 2, 20, False),
    "swav": ((30000, 10000, 1000), 1000, 2, 20, True),
    "swav_800": ((30000, 10000, 1000), 1000, 2, 80, True),
    "mocov3": ((30000, 10000, 5000), 100, 5, 40, False),
    "dino": ((30000, 10000, 5000), 100, 2, 40, False),
    "ibot": ((30000, 10000, 1000), 100, 2, 40, False),
    "beit": ((30000, 10000, 1000), 100, 2, 40, False),
}
LINEAR = {  # epochs, batch, rate, optimiser, weight decay, milestones, deviation of the head's first weights
    "mocov2": (100, 256, 30, "sgd", 0, (60, 80), 0.01),
    "simsiam": (100, 4096, 1.6, "lars", 0, (), 0.01),
    "swav": (100, 256, 0.3, "sgd", 1e-6, (), 0.01),
    "swav_800": (100, 256, 0.3, "sgd", 1e-6, (), 0.01),
    "mocov3": (90, 1024, 12, "sgd", 0, (), 2e-5),
    "dino": (100, 1024, 0.003, "sgd", 0, (), 2e-5),
    "ibot": (100, 1024, 0.04, "lars", 0, (), 0.01),
    "beit": (100, 1024, 0.016, "sgd", 0, (), 2e-5),
}
RESNET_FINETUNING = {  # epochs, batch, rate, warm-up, milestones, factor; SGD without weight decay
    ("mocov2", "finetune"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("mocov2", "semisup-1"): (70, 256, 0.02, 0, (30, 60), 0.1),
    ("mocov2", "semisup-10"): (70, 256, 0.005, 0, (30, 60), 0.1),
    ("mocov2", "transfer"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("simsiam", "finetune"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("simsiam", "semisup-1"): (300, 256, 0.02, 40, (), 0.1),
    ("simsiam", "semisup-10"): (100, 256, 0.02, 0, (), 0.1),
    ("simsiam", "transfer"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("swav", "finetune"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("swav", "semisup-1"): (20, 256, 0.1, 0, (12, 16), 0.2),
    ("swav", "semisup-10"): (20, 256, 0.1, 0, (12, 16), 0.2),
    ("swav", "transfer"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("swav_800", "finetune"): (20, 1024, 0.4, 0, (12, 16), 0.2),
    ("swav_800", "semisup-1"): (20, 256, 0.1, 0, (12, 16), 0.2),
    ("swav_800", "semisup-10"): (20, 256, 0.1, 0, (12, 16), 0.2),
    ("swav_800", "transfer"): (20, 1024, 0.4, 0, (12, 16), 0.2),
}
HEAD_LR = {  # lr_last_layer
    **{(method, task): 1.0 for method in RESNETS for task in ("finetune", "transfer")},
    ("mocov2", "semisup-1"): 0.2,
    ("mocov2", "semisup-10"): 0.1,
    **{("simsiam", task): 0.2 for task in ("semisup-1", "semisup-10")},
    **{(method, task): 5.0 for method in ("swav", "swav_800") for task in ("semisup-1", "semisup-10")},
}
VIT_FINETUNING = {  # rate, end, layer decay, drop path; AdamW, decay 0.05, 100 epochs of 1024, 20 of warm-up from 1e-6
    ("mocov3", "finetune"): (0.016, 1e-6, 0.65, 0.2),
    ("mocov3", "semisup-1"): (0.004, 1e-6, 0.65, 0.2),
    ("mocov3", "semisup-10"): (0.0004, 1e-6, 0.55, 0.2),
    ("mocov3", "transfer"): (0.016, 1e-6, 0.65, 0.2),
    ("dino", "finetune"): (0.016, 1e-6, 0.65, 0.2),
    ("dino", "semisup-1"): (0.004, 1e-6, 0.65, 0.2),
    ("dino", "semisup-10"): (0.0004, 1e-6, 0.55, 0.2),
    ("dino", "transfer"): (0.016, 1e-6, 0.65, 0.2),
    ("ibot", "finetune"): (0.016, 1e-6, 0.65, 0.2),
    ("ibot", "semisup-1"): (0.004, 1e-6, 0.65, 0.2),
    ("ibot", "semisup-10"): (0.0004, 1e-6, 0.55, 0.2),
    ("ibot", "transfer"): (0.016, 1e-6, 0.65, 0.2),
    ("beit", "finetune"): (0.0028, 0, 0.65, 0.1),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunConfig]:
    """Return a function that resolves a method as its file has it, in a study without settings."""

    def build(method: str) -> RunConfig:
        path = tmp_path_factory.mktemp("study") / "own.yaml"
        path.write_text(f"methods: [{method}]")
        return load_study(str(path)).resolve(method, "hirl")

    return build


def same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Compare numbers to rounding and everything else exactly."""
    return all(
        a == (pytest.approx(b, rel=1e-12) if isinstance(b, float) else b) for a, b in zip(found, expected, strict=True)
    )


def test_every_method_file_is_in_the_tables() -> None:
    files = {path.stem for path in CONFIG_ROOT.glob("methods/*.yaml")}
    assert set(PRETRAINING) == set(HIERARCHY) == set(LINEAR) == {*RESNETS, *VITS} == files


@pytest.mark.parametrize("method", PRETRAINING)
def test_pretraining(published, method: str) -> None:
    training = published(method).training
    optimizer, schedule = training.optimizer, training.schedule
    rates = (training.effective_lr, schedule.start_lr, schedule.min_lr, schedule.warmup_epochs)
    decay = (optimizer.name, optimizer.weight_decay, optimizer.final_weight_decay, optimizer.clip_norm)
    assert same((training.epochs, training.batch_size, *rates, *decay), PRETRAINING[method])
    assert optimizer.momentum == 0.9  # read by sgd and lars
    assert schedule.per_epoch == (method in ("mocov2", "simsiam"))
    assert schedule.warmup_ends_at_peak == (method in ("dino", "ibot"))


@pytest.mark.parametrize("method", HIERARCHY)
def test_hierarchy(published, method: str) -> None:
    h = published(method).hierarchy
    assert (h.num_clusters, h.negatives, h.mlp_layers, h.start_epoch, h.reassign) == HIERARCHY[method]
    assert h.snapshot_epochs == 1
    assert (h.kmeans.iterations, h.kmeans.restarts, h.kmeans.max_points_per_centroid) == (20, 5, 1000)


@pytest.mark.parametrize("method", LINEAR)
def test_linear_classification(published, method: str) -> None:
    task = published(method).evaluation.of("linear")
    optimizer, schedule = task.optimizer, task.schedule
    of_optimizer = (task.effective_lr, optimizer.name, optimizer.weight_decay)
    assert same((task.epochs, task.batch_size, *of_optimizer, schedule.milestones, task.head_std), LINEAR[method])
    assert (schedule.warmup_epochs, schedule.min_lr, schedule.factor, task.last_blocks) == (0, 0, 0.1, 1)
    assert (optimizer.momentum, optimizer.trust_coefficient) == (0.9, 0.001)


@pytest.mark.parametrize(("method", "name"), RESNET_FINETUNING)
def test_finetuning_of_resnets(published, method: str, name: str) -> None:
    task = published(method).evaluation.of(name)
    schedule = task.schedule
    of_schedule = (schedule.warmup_epochs, schedule.milestones, schedule.factor)
    found = (task.epochs, task.batch_size, task.effective_lr, *of_schedule)
    assert same(found, RESNET_FINETUNING[method, name])
    assert (task.optimizer.name, task.optimizer.momentum, task.optimizer.weight_decay) == ("sgd", 0.9, 0)
    assert (schedule.start_lr, schedule.min_lr) == (0, 0)
    assert (task.head_lr, task.layer_decay, task.drop_path) == (HEAD_LR[method, name], None, 0)
    augmentation = task.augmentation
    assert (augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augmentation.randaugment, augmentation.random_erasing) == (None, 0)


@pytest.mark.parametrize(("method", "name"), VIT_FINETUNING)
def test_finetuning_of_vits(published, method: str, name: str) -> None:
    task = published(method).evaluation.of(name)
    found = (task.effective_lr, task.schedule.min_lr, task.layer_decay, task.drop_path)
    assert same(found, VIT_FINETUNING[method, name])
    assert (task.epochs, task.batch_size) == (100, 1024)
    assert (task.optimizer.name, task.optimizer.weight_decay, task.head_lr) == ("adamw", 0.05, None)
    assert (task.schedule.warmup_epochs, task.schedule.start_lr, task.schedule.milestones) == (20, 1e-6, ())
    augmentation = task.augmentation
    assert (augmentation.mixup, augmentation.cutmix, augmentation.label_smoothing) == (0.8, 1.0, 0.1)
    assert (augmentation.randaugment, augmentation.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.25)


@pytest.mark.parametrize("method", [*RESNETS, *VITS])
def test_knn_and_clustering(published, method: str) -> None:
    knn, clustering = (published(method).evaluation.of(name) for name in ("knn", "clustering"))
    assert (knn.neighbours, knn.temperature) == ((10, 20, 100, 200), 0.07)
    kmeans = clustering.kmeans
    assert (kmeans.iterations, kmeans.restarts, kmeans.max_points_per_centroid) == (20, 5, 1000)


@pytest.mark.parametrize("method", RESNETS)
def test_detection_with_resnets(published, method: str) -> None:
    """180,000 steps of 16 pictures, the rate divided by ten at 120,000 and 160,000."""
    task = published(method).evaluation.of("detection")
    assert [epochs * task.epoch_steps for epochs in (task.epochs, *task.schedule.milestones)] == [180e3, 120e3, 160e3]
    assert (task.schedule.factor, task.pre_nms_top_n, task.post_nms_top_n) == (0.1, (12000, 6000), (2000, 1000))
    assert (task.batch_size, task.effective_lr, task.neck) == (16, pytest.approx(0.02), "c4")
    assert (task.optimizer.name, task.optimizer.momentum, task.optimizer.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (task.warmup_steps, task.warmup_factor) == (1000, 0.001)
    assert (task.short_sides, task.long_side, task.test_short_side) == ((640, 672, 704, 736, 768, 800), 1333, 800)


@pytest.mark.parametrize("method", VITS)
def test_detection_with_vits(published, method: str) -> None:
    task = published(method).evaluation.of("detection")
    assert (task.epochs, task.schedule.milestones, task.schedule.factor) == (12, (8, 11), 0.1)
    assert (task.epoch_steps, task.pre_nms_top_n, task.post_nms_top_n) == (None, (2000, 1000), (2000, 1000))
    assert (task.batch_size, task.effective_lr) == (16, pytest.approx(1e-4))
    assert (task.optimizer.name, task.optimizer.weight_decay) == ("adamw", 0.05)
    assert (task.layer_decay, task.drop_path) == (0.75, 0.2)
    assert (task.warmup_steps, task.warmup_factor) == (500, 0.001)
    assert (task.short_sides, task.long_side, task.test_short_side) == (tuple(range(480, 801, 32)), 1333, 800)

"""Detection and instance segmentation: Mask R-CNN trained from the backbone, average precision as COCO defines it."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pycocotools import mask as encoding
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from hirl.config import DetectionConfig, RunConfig
from hirl.data.coco import Example, SceneSet, load_scenes, ordered_pictures, training_batches
from hirl.distributed.collectives import broadcast_object, gather_objects, world_size
from hirl.distributed.device import choose_device
from hirl.evaluation.contracts import EvaluationResult
from hirl.evaluation.supervised import fingerprint, load_backbone
from hirl.models.backbones import AnyBackbone
from hirl.models.detectors import build_detector
from hirl.training.fit import fit
from hirl.training.optimizers import layer_groups

PRECISIONS = ("ap", "ap50", "ap75")  # the first three of COCO's twelve numbers
TEST_BATCH = 8  # images, at least: a batch that suits the training may be slow in the evaluation


def train_and_evaluate(
    task: str, config: RunConfig, weights: Path | None, data: Path, scratch: Path, run_name: str
) -> EvaluationResult:
    """Train a detector on the training scenes, or resume, and measure its precision on the validation scenes.

    Several ranks share the images of a step and average their gradients. The result differs slightly from one
    process's: each rank samples anchors and regions, and normalises its losses by their number, on its own.

    Args and errors are those of `hirl.evaluation.contracts.TrainedProtocol`; `data` is a folder of scenes.

    Returns:
        Percentages ap, ap50 and ap75 of boxes (ap_box, ...) and masks (ap_mask, ...).

    Source: HIRL (arXiv 2205.13159), section 5.2; Mask R-CNN (arXiv 1703.06870)
    """
    settings, device = config.evaluation.of(task), choose_device()
    train, validation = (load_scenes(data, split) for split in ("train", "validation"))
    per_epoch = settings.epoch_steps or len(train.with_objects) // settings.batch_size
    if not per_epoch:
        raise ValueError(
            f"evaluation.detection.batch_size is {settings.batch_size}, but {len(train.with_objects)} training images "
            "have objects: lower it"
        )
    detector = start(config, weights, len(train.categories)).to(device).to(memory_format=torch.channels_last)
    history = fit(
        f"{run_name} {task}",
        detector.train(),
        parameter_groups(detector, settings.layer_decay),
        lambda epoch: training_batches(train, settings.batch_size, config.seed, epoch * per_epoch, per_epoch, device),
        lambda batch: detection_loss(detector, batch, device),
        in_epochs(settings, per_epoch),
        per_epoch,
        scratch,
        fingerprint(task, config, weights, data),
        config.seed,
    )
    cast(GeneralizedRCNNTransform, detector.transform).min_size = (settings.test_short_side,)
    found = detect(detector, validation, max(settings.batch_size, TEST_BATCH), device)
    metrics = broadcast_object(lambda: average_precision(validation.annotations, found))
    return EvaluationResult(metrics, settings.model_dump(mode="json"), history)


def start(config: RunConfig, weights: Path | None, categories: int) -> nn.Module:
    """Build the detector: the run's backbone, and all other parts as the run's seed initialises them.

    Raises:
        ValueError: the backbone is none of the project's own.
    """
    settings, image_size = config.evaluation.detection, config.views.global_size
    backbone = load_backbone(config, weights, image_size, settings.drop_path)
    if isinstance(backbone, AnyBackbone):
        raise ValueError(
            f"detection needs the feature maps of our own networks, not {config.backbone.name}: leave it out"
        )
    return build_detector(backbone, settings, categories, image_size)


def detection_loss(detector: nn.Module, batch: list[Example], device: torch.device) -> Tensor:
    """Return the sum of Mask R-CNN's five losses."""
    images = [pixels.to(device).float() / 255 for pixels, _ in batch]
    targets = [{name: value.to(device) for name, value in target.items()} for _, target in batch]
    return sum(detector(images, targets).values())


def in_epochs(settings: DetectionConfig, per_epoch: int) -> DetectionConfig:
    """Return the settings with a warm-up given in steps converted to epochs, as the schedule takes it."""
    if not settings.warmup_steps:
        return settings
    warmup = {
        "warmup_epochs": settings.warmup_steps / per_epoch,
        "start_lr": settings.warmup_factor * settings.effective_lr,
    }
    return settings.model_copy(update={"schedule": settings.schedule.model_copy(update=warmup)})


def parameter_groups(detector: nn.Module, layer_decay: float | None) -> list[dict[str, Any]]:
    """Return the optimiser's parameter groups: layer decay in the backbone, the full learning rate elsewhere.

    Raises:
        ValueError: there is a layer decay, but the backbone has no blocks.
    """
    body = detector.get_submodule("backbone.body")
    heads = (detector.get_submodule("rpn"), detector.get_submodule("roi_heads"))
    parts = (*detector.get_submodule("backbone").children(), *heads)
    beyond = nn.ModuleList(part for part in parts if part is not body)
    return [*layer_groups(body, layer_decay), *layer_groups(beyond, None)]


@torch.no_grad()
def detect(detector: nn.Module, scenes: SceneSet, batch_size: int, device: torch.device) -> list[dict[str, Any]]:
    """Return the detections in all images of a split, as COCO results, on rank 0; an empty list on the others.

    Each rank processes its shard of the images; batch_size is over all ranks.
    """
    detector.eval()
    found = []
    for batch in ordered_pictures(scenes, batch_size // world_size(), device):
        outputs = detector([pixels.to(device).float() / 255 for _, pixels in batch])
        for (image, _), output in zip(batch, outputs, strict=True):
            found += _in_coco_form(image, scenes.categories, output)
    return gather_objects(found)


def _in_coco_form(image: int, categories: list[int], output: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Convert one image's output of the detector to COCO results."""
    corners = output["boxes"]
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()  # corner and size
    pixels = (output["masks"][:, 0] >= 0.5).byte().permute(1, 2, 0).cpu().numpy()
    masks = encoding.encode(np.asfortranarray(pixels))
    objects = zip(output["labels"].tolist(), boxes, masks, output["scores"].tolist(), strict=True)
    return [
        {"image_id": image, "category_id": categories[label - 1], "bbox": box, "segmentation": mask, "score": score}
        for label, box, mask, score in objects
    ]


def average_precision(truth: COCO, found: list[dict[str, Any]]) -> dict[str, float]:
    """Compute COCO's average precisions over objects of all sizes, at most 100 detections an image; crowds are ignored.

    Returns:
        Percentages ap (mean over IoU 0.5 to 0.95), ap50 and ap75, each of boxes and of masks.

    Source: Microsoft COCO (arXiv 1405.0312), as pycocotools measures it
    """
    kinds = {"bbox": "box", "segm": "mask"}
    if not found:  # pycocotools cannot load an empty list
        return {f"{metric}_{kind}": 0.0 for kind in kinds.values() for metric in PRECISIONS}
    metrics: dict[str, float] = {}
    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        results = truth.loadRes(found)
        for kind, name in kinds.items():
            evaluator = COCOeval(truth, results, kind)
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
            metrics |= {f"{key}_{name}": 100 * float(s) for key, s in zip(PRECISIONS, evaluator.stats, strict=False)}
    return metrics

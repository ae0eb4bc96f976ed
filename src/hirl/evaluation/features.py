"""Extract the features of a frozen backbone, once for all frozen protocols."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hirl.data.images import ImageSet, load_images
from hirl.data.loader import ordered_batches
from hirl.data.views import evaluation_view
from hirl.distributed.collectives import gather_shards, world_size
from hirl.evaluation.cache import FeatureCache


@torch.no_grad()
def extract_features(backbone: nn.Module, images: ImageSet, device: torch.device, batch_size: int) -> Tensor | None:
    """Return the backbone's outputs for every image, float32 [N, D] in main memory, in the images' order.

    Each rank computes its shard of the images; rank 0 gets all features, the others None. The backbone runs in
    evaluation mode and is then put back into its previous mode.
    """
    was_training = backbone.training
    backbone.to(device).eval()
    batches = ordered_batches(images, max(1, batch_size // world_size()), device)
    features = torch.cat([backbone(evaluation_view(batch)).float().cpu() for batch in batches])
    backbone.train(was_training)
    if world_size() == 1:
        return features
    gathered = gather_shards(features.to(device), len(images))  # the collectives of GPUs take tensors on GPUs
    return None if gathered is None else gathered.cpu()


def make_cache(backbone: nn.Module, data: str | Path, device: torch.device, batch_size: int) -> FeatureCache | None:
    """Return the features and labels of both splits of prepared data on rank 0, None on the others."""
    splits = [load_images(data, split) for split in ("train", "validation")]
    train, validation = (extract_features(backbone, images, device, batch_size) for images in splits)
    if train is None or validation is None:  # rank 0 has them
        return None
    train_labels, validation_labels = (images.labels.numpy() for images in splits)
    return FeatureCache(train.numpy(), validation.numpy(), train_labels, validation_labels)

"""A model loads from the registry and gives the backbone's features and the tree's paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hirl.config import BackboneConfig
from hirl.data.views import evaluation_view
from hirl.hierarchy import SemanticTree
from hirl.models.backbones import build_backbone
from hirl.models.weights import save_weights
from hirl.tracking.mlflow import sync
from tests.tracking.mlflow.conftest import BACKBONE, BASELINE, HIRL


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def features(study, images) -> torch.Tensor:
    """Write weights of both runs, and a tree that puts every pair of images into a cluster; return the features."""
    torch.manual_seed(0)
    config = BackboneConfig(**BACKBONE)
    backbone = build_backbone(config, 16).eval()
    for run in (BASELINE, HIRL):
        save_weights(backbone, config, study / "runs" / run / "weights.safetensors")
    with torch.no_grad():
        features = backbone(evaluation_view(torch.from_numpy(images).permute(0, 3, 1, 2)))
    finest = torch.arange(8) // 2
    tree = SemanticTree(
        (torch.eye(4), torch.eye(4)[:2]), (torch.tensor([0, 0, 1, 1]),), torch.stack([finest, finest // 2], 1)
    )
    tree.save(study / "runs" / HIRL / "tree.safetensors")
    save_file({"train": features}, study / "runs" / HIRL / "features.safetensors")
    return features


def load(uri: str, name: str):
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.pyfunc.load_model(name)


def test_images_go_in_and_embedding_and_path_come_out(study, uri, images, features):
    sync(study, [HIRL], uri)
    model = load(uri, "models:/demo-mocov2@best")
    found = model.predict(images)
    np.testing.assert_allclose(found["embedding"], features.numpy(), rtol=1e-4, atol=1e-5)  # another batch's rounding
    units = torch.nn.functional.normalize(features, dim=1)
    means = torch.nn.functional.normalize(units.view(4, 2, -1).mean(dim=1), dim=1)
    nearest = (units @ means.T).argmax(dim=1)
    assert found["path"].tolist() == torch.stack([nearest, nearest // 2], dim=1).tolist()


def test_a_baseline_has_no_path(study, uri, images, features):
    sync(study, [BASELINE], uri)
    model = load(uri, "models:/demo-mocov2/1")
    assert list(model.predict(images)) == ["embedding"]
    assert [output.name for output in model.metadata.signature.outputs.inputs] == ["embedding"]


def test_images_of_another_shape_are_refused_by_the_signature(study, uri, images, features):
    from mlflow.exceptions import MlflowException

    sync(study, [BASELINE], uri)
    model = load(uri, "models:/demo-mocov2/1")
    with pytest.raises(MlflowException, match="16"):
        model.predict(images.transpose(0, 3, 1, 2))

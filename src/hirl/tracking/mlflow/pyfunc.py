"""What MLflow runs when it loads a run's model: images in, embedding and semantic path out.

MLflow copies this file into every model and executes it there (models from code), so that no pickle is needed. No
module of hirl imports it; it needs hirl where the model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
from mlflow.pyfunc.model import PythonModel

BATCH = 256  # images that the network sees at a time


class BackboneModel(PythonModel):
    """The backbone of a run, and the paths of its tree by the mean features of their images."""

    _skip_type_hint_validation = (
        True  # MLflow would check images by type hints, which know no shapes; the signature does
    )

    def load_context(self, context: Any) -> None:
        """Read the files of the model."""
        from safetensors.torch import load_file

        from hirl.config import BackboneConfig
        from hirl.files import read_json
        from hirl.models.backbones import build_backbone
        from hirl.models.weights import load_weights

        config = read_json(context.artifacts["config"])
        network = BackboneConfig(**config["backbone"])
        self.backbone = build_backbone(network, config["views"]["global_size"]).eval()
        load_weights(self.backbone, network, Path(context.artifacts["weights"]))
        self.tree = load_file(context.artifacts["paths"]) if "paths" in context.artifacts else None

    def predict(self, context: Any, model_input: Any, params: Any = None) -> dict[str, Any]:
        """Return embedding, float32 [N, D], and path, int64 [N, L] from the finest level to the coarsest.

        The path is that of the nearest mean feature of a path's training images, by cosine.

        Args:
            model_input: RGB images, uint8 [N, S, S, 3].
        """
        import torch
        import torch.nn.functional as F

        from hirl.data.views import evaluation_view

        images = torch.from_numpy(np.ascontiguousarray(model_input)).movedim(3, 1)
        with torch.inference_mode():
            embedding = torch.cat([self.backbone(evaluation_view(batch)).float() for batch in images.split(BATCH)])
            if self.tree is None:
                return {"embedding": embedding.numpy()}
            nearest = (F.normalize(embedding, dim=1) @ self.tree["centroids"].T).argmax(dim=1)
        return {"embedding": embedding.numpy(), "path": self.tree["paths"][nearest].numpy()}


mlflow.models.set_model(BackboneModel())

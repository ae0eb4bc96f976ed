from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hirl.config import MODEL_CONFIGS, load_study
from tests.config.conftest import problem

PLUGIN = '''
from hirl.config import Count, Section
from hirl.methods import register
from hirl.methods.base import Encoder, Method, MethodOutput
from torch import nn


class Config(Section):
    embedding_dim: Count = 8


@register("mean_teacherless", Config)
class Own(Method):
    """Pulls two views together."""

    def __init__(self, backbone, config):
        super().__init__()
        self.embedding_dim = config.embedding_dim
        self.encoder = Encoder(backbone, nn.Linear(backbone.num_features, config.embedding_dim))

    @property
    def backbone(self):
        return self.encoder.backbone

    def forward(self, views, step):
        first, second = self.encoder(views[0]), self.encoder(views[1])
        return MethodOutput((first - second).square().mean(), first)

    def embed(self, images):
        return self.encoder(images)
'''


@pytest.fixture
def forget_plugins():
    known = set(MODEL_CONFIGS)
    yield
    for name in MODEL_CONFIGS.keys() - known:
        del MODEL_CONFIGS[name]


@pytest.mark.usefixtures("forget_plugins")
def test_a_method_of_your_own_is_one_python_file(study, tmp_path: Path) -> None:
    from hirl.hierarchy.wrapper import HIRL
    from hirl.methods import create_method
    from hirl.models.backbones import build_backbone

    (tmp_path / "own.py").write_text(PLUGIN)
    settings = {
        "methods": {"mean_teacherless": {"backbone": {"name": "resnet8"}, "model": {"embedding_dim": 4}}},
        "plugins": [str(tmp_path / "own.py")],
    }
    path = study(yaml.safe_dump(settings))
    config = load_study(path).resolve("mean_teacherless", "hirl")
    assert config.model.embedding_dim == 4
    method = create_method(config.method, build_backbone(config.backbone, 32), config.model)
    assert HIRL(method, config.hierarchy, 0).embedding_dim == 4
    assert "unknown key 'model.dim'" in problem(
        lambda: load_study(path).resolve("mean_teacherless", "hirl", 0, {"model.dim": 4})
    )


def test_a_missing_plugin_is_named(study) -> None:
    text = "methods: [own_method]\nplugins: [absent.py]"
    assert "plugin absent.py is missing" in problem(lambda: load_study(study(text)))

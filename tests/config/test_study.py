from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from hirl.config import (
    CONFIG_ROOT,
    MODEL_CONFIGS,
    TASKS,
    flatten,
    load_study,
    parse_override,
    read_yaml,
)

PAPER_TASKS = (  # evaluations that the methods' files have published settings for; your own need none
    *("knn", "probe", "linear", "finetune", "semisup-1", "semisup-10", "transfer"),
    *("clustering", "detection", "hierarchy"),
)
STUDIES = sorted(path.stem for path in (CONFIG_ROOT / "studies").glob("*.yaml"))
RUNS = [(study, method) for study in STUDIES for method in load_study(study).config.methods]


@pytest.fixture
def study(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a study file and returns its path."""

    def write(text: str, name: str = "own") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    return write


def problem(call: Callable[[], object]) -> str:
    """Return the one line that a user reads."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller looks at the words
        call()
    message = str(caught.value)
    assert not isinstance(caught.value, ValidationError)
    assert "\n" not in message
    return message


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_every_shipped_run_resolves(name: str, method: str) -> None:
    for variant in ("baseline", "hirl"):
        config = load_study(name).resolve(method, variant)
        assert isinstance(config.model, MODEL_CONFIGS[config.algorithm])
        assert config.training.effective_lr > 0


@pytest.mark.parametrize(("name", "method"), RUNS)
def test_baseline_and_hirl_differ_in_the_hierarchy_alone(name: str, method: str) -> None:
    baseline, hirl = (
        flatten(load_study(name).resolve(method, v).model_dump(mode="json")) for v in ("baseline", "hirl")
    )
    different = {key for key in baseline.keys() | hirl.keys() if baseline.get(key) != hirl.get(key)}
    assert {key.split(".")[0] for key in different} == {"variant", "hierarchy"}
    assert baseline["hierarchy"] is None


@pytest.mark.parametrize("path", sorted(CONFIG_ROOT.glob("methods/*.yaml")), ids=lambda path: path.stem)
def test_method_files_name_their_source_and_spell_out_their_method(path: Path) -> None:
    content = read_yaml(path)
    assert content["source"]
    if "base" not in content:
        assert set(content["model"]) == set(MODEL_CONFIGS[path.stem].model_fields)
        trained = {TASKS[task].settings for task in PAPER_TASKS if TASKS[task].protocol == "trained"}
        assert set(content["evaluation"]) == trained


def test_the_papers_study_runs_every_method_file_and_every_evaluation() -> None:
    study = load_study("imagenet").config
    assert set(study.methods) == {path.stem for path in CONFIG_ROOT.glob("methods/*.yaml")}
    assert set(study.tasks) == set(PAPER_TASKS)
    assert study.variants == ("baseline", "hirl")


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERED = """
methods:
  mocov2:
    training: {epochs: 7}
    views: {jitter: {hue: 0.3}}
  dino:
all:
  training: {epochs: 5, batch_size: 64}
  hierarchy: {start_epoch: 1}
  views: {jitter: {hue: 0.2, contrast: 0.1}}
"""


def test_later_layers_win_key_by_key(study) -> None:
    path = study(LAYERED)
    config = load_study(path).resolve(
        "mocov2", "hirl", 3, {"training.batch_size": 32, "hierarchy.num_clusters": [9, 3]}
    )
    assert (config.training.epochs, config.training.batch_size) == (7, 32)
    jitter = config.views.jitter
    assert (jitter.hue, jitter.contrast, jitter.brightness) == (0.3, 0.1, 0.4)  # method block, all, method file
    assert config.hierarchy.num_clusters == (9, 3)
    assert load_study(path).resolve("dino", "hirl").training.epochs == 5
    assert (config.name, config.study) == ("mocov2-hirl-s3", "own")


def test_provenance_names_the_layer_of_each_value(study) -> None:
    found = {
        key: origin
        for key, _, origin in load_study(study(LAYERED)).provenance("mocov2", "hirl", 1, {"model.momentum": 0.5})
    }
    expected = {
        "training.epochs": "studies/own.yaml methods.mocov2",
        "training.batch_size": "studies/own.yaml all",
        "training.optimizer.base_lr": "methods/mocov2.yaml",
        "training.precision": "default",
        "model.momentum": "--set",
        "seed": "the run",
    }
    assert {key: found[key] for key in expected} == expected
    assert set(found) == set(flatten(load_study(study(LAYERED)).resolve("mocov2", "hirl").model_dump(mode="json")))


def test_studies_take_their_own_keys_from_a_call(study) -> None:
    config = load_study(study(LAYERED), {"methods": ["dino", "swav"], "seeds": [0, 1]}).config
    assert list(config.methods) == ["dino", "swav"]
    assert config.seeds == (0, 1)
    assert load_study(study(LAYERED), {"methods": ["mocov2"]}).config.methods["mocov2"]["training"] == {"epochs": 7}


def test_a_study_names_its_runs_and_configures_its_controls(study) -> None:
    path = study(LAYERED)
    names = ("mocov2-baseline-s0", "mocov2-hirl-s0", "dino-baseline-s0", "dino-hirl-s0")
    assert list(map(str, load_study(path).run_names())) == [
        *names,
        "untrained-resnet50-s0",
        "untrained-vit_base_patch16-s0",
    ]
    assert load_study(path).resolve_control("vit_base_patch16").method == "dino"
    assert "name one of its methods' backbones" in problem(lambda: load_study(path).resolve_control("resnet18"))


def test_the_effective_rate_is_derived_and_never_written_back(study) -> None:
    config = load_study(study("methods: [mocov2]")).resolve("mocov2", "hirl", 0, {"training.batch_size": 1024})
    assert config.training.effective_lr == pytest.approx(0.12)
    assert config.training.optimizer.base_lr == 0.03
    with pytest.raises(ValidationError):
        config.training.epochs = 3


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", ".0001", "1E-4", "+1e-4"])
def test_floats_are_numbers_in_every_spelling(study, text: str) -> None:
    path = study(f"methods: [mocov2]\nall: {{training: {{optimizer: {{base_lr: {text}}}}}}}")
    config = load_study(path).resolve("mocov2", "hirl")
    assert config.training.optimizer.base_lr == pytest.approx(1e-4, rel=1e-15)
    assert parse_override(f"training.optimizer.base_lr={text}")[1] == pytest.approx(1e-4, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=[4, 2]", [4, 2]),
        ("a.b=all", "all"),
        ("a.b=true", True),
        ("a.b=x=y", "x=y"),
    ],
)
def test_overrides_are_read_as_yaml(text: str, value: Any) -> None:
    assert parse_override(text) == ("a.b", value)


# --- hashes -----------------------------------------------------------------------------------------------------------

PLAIN = "methods: [mocov2]\nall: {training: {epochs: 5, batch_size: 64}, hierarchy: {start_epoch: 1}}\n"
REWRITTEN = """# why
all:
  hierarchy: {start_epoch: 1}
  training:
    batch_size: 64  # fits
    epochs: 5
methods: [mocov2]
"""


def test_the_hash_sees_values_not_their_spelling(study) -> None:
    first = load_study(study(PLAIN)).resolve("mocov2", "hirl").pretraining_hash
    assert load_study(study(REWRITTEN)).resolve("mocov2", "hirl").pretraining_hash == first


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.epochs", 6), ("model.momentum", 0.5), ("hierarchy.negatives", "all"), ("views.jitter.hue", 0.2)],
)
def test_the_hash_changes_with_what_decides_the_weights(study, key: str, value: Any) -> None:
    path = study(PLAIN)
    changed = load_study(path).resolve("mocov2", "hirl", 0, {key: value})
    assert changed.pretraining_hash != load_study(path).resolve("mocov2", "hirl").pretraining_hash


def test_each_run_has_a_hash_of_its_own_and_a_baselines_leaves_the_hierarchy_out(study) -> None:
    path = study(PLAIN)
    runs = [("baseline", 0), ("hirl", 0), ("baseline", 1)]
    hashes = [load_study(path).resolve("mocov2", *run).pretraining_hash for run in runs]
    assert len(set(hashes)) == 3
    assert load_study(path).resolve("mocov2", "baseline", 0, {"hierarchy.negatives": 5}).pretraining_hash == hashes[0]


def test_evaluation_settings_have_hashes_of_their_own(study) -> None:
    path = study(PLAIN)
    first, second = (
        load_study(path).resolve("mocov2", "hirl", 0, {"evaluation.knn.temperature": t}) for t in (0.07, 0.1)
    )
    assert first.pretraining_hash == second.pretraining_hash
    assert first.task_hash("knn") != second.task_hash("knn")
    assert first.task_hash("linear") == second.task_hash("linear")


@pytest.mark.parametrize(
    "key", ["evaluation.linear.epochs", "transfer_data.train_images", "scenes.train_images", "data.label_lists"]
)
def test_what_comes_after_the_training_does_not_decide_its_weights(study, key: str) -> None:
    value = {1: "list.txt"} if key.endswith("lists") else 7
    changed = load_study(study(PLAIN)).resolve("mocov2", "hirl", 0, {key: value})
    assert changed.pretraining_hash == load_study(study(PLAIN)).resolve("mocov2", "hirl", 0).pretraining_hash


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"training.epoch": 5}, ["unknown key 'training.epoch'", "epochs"]),
        ({"training.optimizer.lr": 1}, ["unknown key 'training.optimizer.lr'", "base_lr"]),
        ({"model.tau": 1}, ["unknown key 'model.tau'", "temperature"]),
        ({"hierarchy.levels": 3}, ["unknown key 'hierarchy.levels'", "num_clusters"]),
        ({"hierarchy.kmeans.niter": 3}, ["unknown key 'hierarchy.kmeans.niter'", "iterations"]),
        ({"traning.epochs": 5}, ["unknown key 'traning'", "training"]),
        ({"training.epochs": 0}, ["training.epochs = 0", "greater than or equal to 1"]),
        ({"training.epochs": "many"}, ["training.epochs = 'many'", "integer"]),
        ({"training.epochs.first": 1}, ["training.epochs", "integer"]),
        ({"training.precision": "fp16"}, ["training.precision = 'fp16'", "'auto', 'fp32' or 'bf16'"]),
        ({"model.momentum": 1.5}, ["model.momentum = 1.5", "less than or equal to 1"]),
        ({"training.optimizer.base_lr": float("nan")}, ["training.optimizer.base_lr", "finite"]),
        ({"hierarchy.num_clusters": [10, 30]}, ["num_clusters is [10, 30]", "fine to coarse"]),
        ({"hierarchy.num_clusters": []}, ["num_clusters is []"]),
        ({"hierarchy.negatives": "some"}, ["hierarchy.negatives = 'some'", "integer", "'all'"]),
        ({"hierarchy": None}, ["hierarchy is empty", "baseline"]),
        ({"views.global_scale": [0.9, 0.1]}, ["global_scale is [0.9, 0.1]", "[low, high]"]),
        ({"seed": 4}, ["'seed' names a run"]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_named_with_what_is_allowed(study, overrides: dict[str, Any], parts: list[str]) -> None:
    path = study(PLAIN)
    for variant in ("baseline", "hirl"):  # a baseline's hierarchy is read with the same care
        message = problem(lambda v=variant: load_study(path).resolve("mocov2", v, 0, overrides))
        assert all(part in message for part in [*parts, "mocov2"]), message


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_hirl_run_that_ends_before_its_first_tree_is_refused_and_its_baseline_is_not(study, epochs: int) -> None:
    short = {"training.epochs": epochs, "hierarchy.start_epoch": 2}
    message = problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "hirl", 0, short))
    assert f"hierarchy.start_epoch is 2, but training.epochs is {epochs}: " in message
    assert load_study(study(PLAIN)).resolve("mocov2", "baseline", 0, short).training.epochs == epochs


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("methods: [mocov4]", ["'mocov4' is unknown", "mocov2, simsiam, swav, mocov3, dino, ibot, beit"]),
        ("methods: [mocov2]\nseed: [0]", ["own.yaml", "unknown key 'seed'", "seeds"]),
        ("methods: [mocov2]\ntasks: [knm]", ["own.yaml", "tasks.0 = 'knm'", "known: knn, probe"]),
        ("methods: [mocov2]\nvariants: [hirl, both]", ["variants.1 = 'both'"]),
        ("methods: [mean-teacher]", ["methods = 'mean-teacher'", "has no hyphen", "use _"]),
        ("methods: [untrained]", ["methods.untrained = 'untrained'", "choose another"]),
        ("methods: [mocov2]\nall: {data: {label_lists: {5: list.txt}}}", ["known: 1, 10"]),
        ("- mocov2", ["own.yaml must hold a mapping"]),
        ("methods: 3", ["own.yaml", "methods = 3"]),
        ("methods: [mocov2", ["own.yaml is not valid YAML"]),
        ("methods: {mocov2: {data: {image_size: 8}}}", ["methods.mocov2.data is not possible", "all.data"]),
        ("methods: [mocov2]\nall: {trainig: {epochs: 3}}", ["unknown key 'trainig'"]),
    ],
)
def test_a_wrong_study_is_named_with_what_is_allowed(study, text: str, parts: list[str]) -> None:
    message = problem(lambda: load_study(study(text)).resolve("mocov2", "hirl"))
    assert all(part in message for part in parts), message


def test_unknown_names_are_answered_with_the_known_ones(study) -> None:
    message = problem(lambda: load_study("imagnet").resolve("mocov2", "hirl"))
    assert all(name in message for name in ("no studies file 'imagnet'", *STUDIES))
    assert "known: mocov2, simsiam" in problem(lambda: load_study(study(PLAIN)).resolve("moco", "hirl"))
    assert "known: baseline, hirl" in problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "both"))
    assert "seed = -1" in problem(lambda: load_study(study(PLAIN)).resolve("mocov2", "hirl", -1))


@pytest.mark.parametrize("text", ["epochs", "=3", "training.epochs=[1,"])
def test_an_incomplete_override_is_named(text: str) -> None:
    assert repr(text) in problem(lambda: parse_override(text))


# --- a method of your own ---------------------------------------------------------------------------------------------

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


def test_a_missing_config_folder_is_named(study, tmp_path: Path, monkeypatch) -> None:
    path = study(PLAIN)
    monkeypatch.setattr("hirl.config.study.CONFIG_ROOT", tmp_path / "config")
    message = problem(lambda: load_study(path).resolve("mocov2", "hirl"))
    assert f"{tmp_path}/config is missing: install hirl again" in message


def test_a_missing_plugin_is_named(study) -> None:
    text = "methods: [own_method]\nplugins: [absent.py]"
    assert "plugin absent.py is missing" in problem(lambda: load_study(study(text)))


def test_a_study_reads_every_file_once(study, monkeypatch) -> None:
    opened: list[str] = []
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *rest: opened.append(path.name) or read(path, *rest))
    own = load_study(study("methods: [mocov2, dino, swav_800]\nseeds: [0, 1, 2]"))
    for run in own.run_names():
        if not run.is_control:
            own.resolve(run.method, run.variant, run.seed)
    own.resolve_control("resnet50")
    list(own.provenance("dino", "hirl"))
    assert sorted(opened) == ["dino.yaml", "mocov2.yaml", "own.yaml", "swav.yaml", "swav_800.yaml"]


def test_configuration_costs_no_torch() -> None:
    resolve = "hirl.config.load_study('demo').resolve('dino', 'hirl')"
    code = f"import sys, hirl.config, hirl.files; {resolve}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_a_study_may_start_from_another(study) -> None:
    base = study("methods: {dino: {training: {epochs: 9, batch_size: 32}}}\nall: {data: {image_size: 8}}", "base")
    path = study(f"base: {base}\nmethods: {{dino: {{training: {{epochs: 4}}}}}}\nseeds: [7]")
    config = load_study(path).resolve("dino", "baseline")
    assert (config.training.epochs, config.training.batch_size, config.data.image_size) == (4, 32, 8)
    assert load_study(path).config.seeds == (7,)


def test_a_method_named_without_settings_keeps_those_of_the_base(study) -> None:
    base = study("methods: {dino: {training: {epochs: 50}}}", "base")
    for named in ("{dino: }", "[dino]"):
        assert load_study(study(f"base: {base}\nmethods: {named}")).resolve("dino", "hirl").training.epochs == 50


def test_the_base_of_a_study_must_have_no_base_itself(study) -> None:
    first = study("methods: [dino]", "first")
    second = study(f"base: {first}", "second")
    message = problem(lambda: load_study(study(f"base: {second}", "third")))
    assert f"{second} is the base of a study and has base" in message

"""Configuration: study + method + overrides -> one frozen, typed, hashed RunConfig.

Layers, later wins: the typed defaults below, the method file, the study's `all` block, the study's block for the
method, overrides given on the command line. Nothing else in the project reads these YAML files. Import costs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CONFIG_ROOT = Path(__file__).resolve().parents[2] / "config"
Variant = Literal["baseline", "hirl"]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Task = Literal["knn", "linear", "clustering", "hierarchy"]


class Section(BaseModel):
    """A block of the configuration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- data and views ---------------------------------------------------------------------------------------------------


class DataConfig(Section):
    """Which images, and how they are held."""

    name: str = "taxonomy"  # taxonomy, folder, or a torchvision data set: cifar10, cifar100, fashion_mnist, ...
    image_size: Count = 32  # pixels; stored pictures are image_size squares where storage is "memory"
    storage: Literal["memory", "files"] = "memory"  # decoded uint8 in memory, or read by workers at each step
    train_images: Count | None = None  # a class-balanced, seeded subset; None takes all
    validation_images: Count | None = None
    class_tree: str | None = None  # CSV naming each class's ancestors; None reads nested folders


class JitterConfig(Section):
    """Colour jitter: factors drawn from [1 - strength, 1 + strength] (hue: [-hue, hue]), with one probability."""

    brightness: float = Field(0.4, ge=0)
    contrast: float = Field(0.4, ge=0)
    saturation: float = Field(0.4, ge=0)
    hue: float = Field(0.1, ge=0, le=0.5)
    probability: Probability = 0.8


class ViewsConfig(Section):
    """The random views of an image. Triples hold one value for: global view 1, global view 2, every local view."""

    global_size: Count = 32  # pixels
    global_scale: tuple[Positive, Positive] = (0.2, 1.0)  # share of the image's area
    local_crops: int = Field(0, ge=0)
    local_size: Count = 16  # pixels
    local_scale: tuple[Positive, Positive] = (0.05, 0.14)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Probability = 0.5
    jitter: JitterConfig = JitterConfig()
    grayscale: Probability = 0.2
    blur: tuple[Probability, Probability, Probability] = (0.5, 0.5, 0.5)
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)  # pixels
    solarize: tuple[Probability, Probability, Probability] = (0.0, 0.0, 0.0)

    @model_validator(mode="after")
    def _ranges_ascend(self) -> ViewsConfig:
        for key in ("global_scale", "local_scale", "blur_sigma"):
            low, high = getattr(self, key)
            if low > high or (key != "blur_sigma" and high > 1):
                raise ValueError(
                    f"{key} is [{low}, {high}]: give it as [low, high]" + ", high at most 1" * ("scale" in key)
                )
        return self


# --- networks ---------------------------------------------------------------------------------------------------------


class BackboneConfig(Section):
    """The network that is evaluated; names are listed in hirl.backbones."""

    name: str = "resnet50"
    zero_init_residual: bool = False
    drop_path: Probability = 0.0  # stochastic depth of the trained (student) network, rising linearly over blocks
    position_embedding: Literal["learned", "sincos"] = "learned"  # ViT only


class MoCoV2Config(Section):
    """MoCo v2 (arXiv 2003.04297)."""

    hidden_dim: Count = 2048
    embedding_dim: Count = 128
    temperature: Positive = 0.2
    queue_size: Count = 16384
    momentum: Probability = 0.999
    batch_norm_groups: Count = 8  # of images that share statistics, the keys' shuffled: one per GPU in the release


class SimSiamConfig(Section):
    """SimSiam (arXiv 2011.10566)."""

    embedding_dim: Count = 2048
    predictor_hidden_dim: Count = 512


class SwAVConfig(Section):
    """SwAV (arXiv 2006.09882)."""

    hidden_dim: Count = 2048
    embedding_dim: Count = 128
    prototypes: Count = 3000
    temperature: Positive = 0.1
    epsilon: Positive = 0.05
    sinkhorn_iterations: Count = 3
    frozen_prototype_steps: int = Field(313, ge=0)


class MoCoV3Config(Section):
    """MoCo v3 (arXiv 2104.02057)."""

    hidden_dim: Count = 4096
    embedding_dim: Count = 256
    temperature: Positive = 0.2
    momentum: Probability = 0.99  # rises to 1 along a cosine, per step


class DINOConfig(Section):
    """DINO (arXiv 2104.14294)."""

    hidden_dim: Count = 2048
    embedding_dim: Count = 256  # the head's bottleneck
    batch_norm: bool = False  # in the head; the authors' use_bn_in_head
    prototypes: Count = 65536
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)  # from, to: linear, per epoch
    teacher_temperature_epochs: int = Field(50, ge=0)
    center_momentum: Probability = 0.9
    momentum: Probability = 0.996  # of the teacher; rises to 1 along a cosine, per step
    frozen_prototype_epochs: int = Field(3, ge=0)


class IBOTConfig(DINOConfig):
    """iBOT (arXiv 2111.07832)."""

    prototypes: Count = 8192
    patch_teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    patch_center_momentum: Probability = 0.9
    patch_loss_weight: float = Field(1.0, ge=0)
    mask_probability: Probability = 0.5  # the share of global views that are masked at all
    mask_ratio: tuple[Probability, Probability] = (0.1, 0.5)  # uniform share of a masked view's patches
    mask_aspect: Positive = 0.3  # blocks between this aspect ratio and its inverse


MODEL_CONFIGS: dict[str, type[Section]] = {
    "mocov2": MoCoV2Config,
    "simsiam": SimSiamConfig,
    "swav": SwAVConfig,
    "mocov3": MoCoV3Config,
    "dino": DINOConfig,
    "ibot": IBOTConfig,
}


# --- hierarchy, training, evaluation ----------------------------------------------------------------------------------


class KMeansConfig(Section):
    """One level of k-means, as faiss runs it."""

    iterations: Count = 20
    restarts: Count = 5
    max_points_per_centroid: Count = 1000
    backend: Literal["auto", "faiss", "torch"] = "auto"  # auto: torch on a GPU, faiss on CPU


class HierarchyConfig(Section):
    """What HIRL adds to a method (paper, section 4)."""

    num_clusters: tuple[Count, ...] = (30000, 10000, 1000)  # fine to coarse
    negatives: Count | Literal["all"] = 1000  # negative paths per image
    mlp_layers: Count = 2  # layers of each level's projection
    start_epoch: int = Field(20, ge=0)  # image loss alone before it
    snapshot_epochs: Count = 1  # a new tree every so many epochs
    reassign: bool = False  # SwAV: re-assign a batch's images at every step
    kmeans: KMeansConfig = KMeansConfig()

    @model_validator(mode="after")
    def _levels_shrink(self) -> HierarchyConfig:
        pairs = zip(self.num_clusters, self.num_clusters[1:], strict=False)
        if not self.num_clusters or any(fine < coarse for fine, coarse in pairs):
            raise ValueError(f"num_clusters is {list(self.num_clusters)}: give it fine to coarse, never growing")
        return self


class OptimizerConfig(Section):
    """The optimiser. base_lr is per 256 images; the effective rate is derived and never written back."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"  # lars without clipping is what apex calls LARC(clip=False)
    base_lr: Positive = 0.03
    momentum: Probability = 0.9  # sgd and lars
    weight_decay: float = Field(1e-4, ge=0)
    final_weight_decay: float | None = Field(None, ge=0)  # along a cosine, per step; None keeps weight_decay
    trust_coefficient: Positive = 0.001  # lars
    clip_norm: Positive | None = None  # global gradient norm


class ScheduleConfig(Section):
    """The learning rate: linear warm-up, then a cosine. start_lr and min_lr are absolute, never scaled by the batch."""

    warmup_epochs: float = Field(0, ge=0)
    start_lr: float = Field(0.0, ge=0)
    min_lr: float = Field(0.0, ge=0)
    per_epoch: bool = False  # the rate of the whole epoch, floor(epoch), as MoCo v2 and SimSiam


class TrainingConfig(Section):
    """The one training loop."""

    epochs: Count = 200
    batch_size: Count = 256  # images in all, over all ranks
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the processor has the instructions
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def effective_lr(self) -> float:
        """The peak learning rate: base_lr * batch_size / 256."""
        return self.optimizer.base_lr * self.batch_size / 256


class KNNConfig(Section):
    """Weighted kNN (formulas: exp(cos / temperature) votes)."""

    neighbours: tuple[Count, ...] = (10, 20, 100, 200)
    temperature: Positive = 0.07


class LinearConfig(Section):
    """The quick linear probe, on cached features."""

    epochs: Count = 100
    batch_size: Count = 256
    base_lr: Positive = 0.3
    momentum: Probability = 0.9
    weight_decay: float = Field(0.0, ge=0)


class ClusteringConfig(Section):
    """k-means with as many clusters as classes, on the validation features."""

    kmeans: KMeansConfig = KMeansConfig()


class EvaluationConfig(Section):
    """The hyper-parameters of every evaluation."""

    knn: KNNConfig = KNNConfig()
    linear: LinearConfig = LinearConfig()
    clustering: ClusteringConfig = ClusteringConfig()


class RunConfig(Section):
    """Everything that decides a run's result. `hierarchy` is None for the baseline: the only difference to hirl."""

    study: str
    method: str
    variant: Variant
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    backbone: BackboneConfig = BackboneConfig()
    model: Any
    hierarchy: HierarchyConfig | None = None
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _tree_comes_before_the_end(self) -> RunConfig:
        if self.variant == "hirl" and self.hierarchy and self.hierarchy.start_epoch >= self.training.epochs:
            raise ValueError(
                f"hierarchy.start_epoch is {self.hierarchy.start_epoch}, but training.epochs is "
                f"{self.training.epochs}: hirl would be its baseline; start earlier, or train longer"
            )
        return self

    @property
    def name(self) -> str:
        """The run's folder name."""
        return f"{self.method}-{self.variant}-s{self.seed}"

    @property
    def pretraining_hash(self) -> str:
        """Digest of all that decides the weights: evaluation settings are not in it."""
        return digest(self.model_dump(mode="json", exclude={"evaluation"}))

    def task_hash(self, task: str) -> str:
        """Digest of what one evaluation adds to the weights; empty for tasks without settings."""
        return digest(self.model_dump(mode="json")["evaluation"].get(task, {}))


class StudyConfig(Section):
    """What a study runs. `all` and `methods` hold partial RunConfigs."""

    methods: dict[str, dict[str, Any] | None]
    variants: tuple[Variant, ...] = ("baseline", "hirl")
    seeds: tuple[int, ...] = (0,)
    tasks: tuple[Task, ...] = ("knn", "linear", "clustering", "hierarchy")
    base: str | None = None  # a study this one starts from: its keys below those given here
    all: dict[str, Any] = {}
    plugins: tuple[str, ...] = ()  # Python files that register a method of your own


def digest(value: Any) -> str:
    """Twelve hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


# --- layers -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 1e-4 is a number, where PyYAML alone reads a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        ValueError: the file is missing, is no YAML, or holds no mapping.
    """
    if not path.is_file():
        allowed = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ValueError(f"there is no {path.parent.name} file {path.stem!r} ({path}); known: {allowed}")
    try:
        value = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values, not {type(value).__name__}")
    return value


def load_study(study: str, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """A study by name (config/studies/NAME.yaml) or by the path of a YAML file of your own.

    Args:
        study: name, or path ending in .yaml.
        overrides: the study's own keys (methods as a list, variants, seeds, tasks) given for this call.

    Raises:
        ValueError: no such study, or a key or value it cannot hold.
    """
    path = _study_path(study)
    content = _read_study(path)
    overrides = dict(overrides or {})
    chosen = overrides.pop("methods", None)
    methods = content["methods"]
    if chosen is not None:
        methods = {name: methods.get(name) for name in chosen}
    config = _validate(StudyConfig, content | overrides | {"methods": methods}, str(path))
    for name in config.methods:
        _model_config(name, config.plugins)
    return config


def _read_study(path: Path, is_base: bool = False) -> dict[str, Any]:
    """A study file, merged over its base; methods given as a list have no settings of their own."""
    content = read_yaml(path)
    methods = content.get("methods") or {}
    content["methods"] = dict.fromkeys(methods) if isinstance(methods, list) else methods
    if (base := content.get("base")) is None:
        return content
    if is_base:
        raise ValueError(f"{path} is the base of a study and has base {base!r} itself: a base stands alone")
    merged = _read_study(_study_path(base), is_base=True)
    _merge(merged, content)
    return merged


def resolve(
    study: str, method: str, variant: str, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """One run's configuration, all layers merged.

    Args:
        study: name, or path ending in .yaml.
        overrides: dotted keys to values, e.g. {"training.epochs": 15}.

    Raises:
        ValueError: an unknown study, method, variant or key, or an impossible value; one line that names it.
    """
    return _resolve(study, method, variant, seed, overrides)[0]


def study_name(study: str) -> str:
    """What a study given by name or by path is called in results, records and trackers."""
    return _study_path(study).stem


def expected_runs(study: str) -> list[str]:
    """The names of all runs of a study: its methods, variants and seeds, and one untrained control per backbone."""
    config = load_study(study)
    runs = [resolve(study, *run) for run in product(config.methods, config.variants, config.seeds)]
    controls = dict.fromkeys(f"untrained-{run.backbone.name}-s0" for run in runs)
    return [*(run.name for run in runs), *controls]


def resolve_control(study: str, backbone: str, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of the study's first method with this backbone: what an untrained control shares with it.

    Raises:
        ValueError: no method of the study has this backbone.
    """
    methods = load_study(study).methods
    for config in (resolve(study, method, "baseline", 0, overrides) for method in methods):
        if config.backbone.name == backbone:
            return config
    raise ValueError(f"no method of study {study} has the backbone {backbone!r}: name one of its methods' backbones")


def provenance(
    study: str, method: str, variant: str, seed: int = 0, overrides: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Any, str]]:
    """Every leaf of a run's configuration as (dotted key, value, where the value came from)."""
    config, origins = _resolve(study, method, variant, seed, overrides)
    for key, value in flatten(config.model_dump(mode="json")).items():
        yield key, value, origins.get(key, "default")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def parse_override(text: str) -> tuple[str, Any]:
    """`training.epochs=15` as ("training.epochs", 15); the value is read as YAML.

    Raises:
        ValueError: there is no `=`, or the value is no YAML.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"--set {text!r} is not key=value, for example --set training.epochs=15")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {text!r} is not valid YAML after the =: quote it, or close its brackets") from error


def _resolve(
    study: str, method: str, variant: str, seed: int, overrides: Mapping[str, Any] | None
) -> tuple[RunConfig, dict[str, str]]:
    if variant not in ("baseline", "hirl"):
        raise ValueError(f"variant {variant!r} is unknown; known: baseline, hirl")
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in _layers(study, method, overrides or {}):
        _merge(merged, layer)
        origins |= dict.fromkeys(flatten(layer), origin)
    if named := sorted(merged.keys() & {"study", "method", "variant", "seed"}):
        raise ValueError(f"study {study}, method {method}: {named[0]!r} names a run and is no setting: remove it")
    model = _model_config(method, load_study(study).plugins)
    merged["model"] = _validate(model, merged.get("model", {}), f"study {study}, method {method}", "model.")
    merged |= {"study": study_name(study), "method": method, "variant": variant, "seed": seed}
    if merged.setdefault("hierarchy", {}) is None:
        raise ValueError(f"study {study}, method {method}: hierarchy is empty: fill it, or run the baseline variant")
    config = _validate(RunConfig, merged, f"study {study}, method {method}")
    origins |= dict.fromkeys(("study", "method", "variant", "seed"), "the run")
    return (config if variant == "hirl" else config.model_copy(update={"hierarchy": None})), origins


def _layers(study: str, method: str, overrides: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers above the typed defaults, lowest first, each with the name shown to the user."""
    config = load_study(study)
    if not CONFIG_ROOT.is_dir():
        raise ValueError(f"{CONFIG_ROOT} is missing: install hirl from a clone of its repository, with pip install -e")
    path = CONFIG_ROOT / "methods" / f"{method}.yaml"
    if path.is_file():
        yield f"methods/{method}.yaml", {key: value for key, value in read_yaml(path).items() if key != "source"}
    name = _study_path(study).name
    yield f"studies/{name} all", config.all
    block = config.methods.get(method) or {}
    if "data" in block:
        raise ValueError(
            f"{name}: methods.{method}.data is not possible, a study has one data set: move it to all.data"
        )
    yield f"studies/{name} methods.{method}", block
    for key, value in overrides.items():
        layer: Any = value
        for part in reversed(key.split(".")):
            layer = {part: layer}
        yield "--set", layer


def _merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merges `layer` into `base`: mappings key by key, everything else whole."""
    for key, value in layer.items():
        if isinstance(value, Mapping):
            below = base.get(key)
            base[key] = dict(below) if isinstance(below, Mapping) else {}
            _merge(base[key], value)
        else:
            base[key] = value


def _study_path(study: str) -> Path:
    return Path(study) if study.endswith(".yaml") else CONFIG_ROOT / "studies" / f"{study}.yaml"


def _model_config(method: str, plugins: tuple[str, ...]) -> type[Section]:
    """The typed hyper-parameters of a method; a plugin registers its own on import."""
    if method not in MODEL_CONFIGS and plugins:
        from hirl.methods import load_plugins

        load_plugins(plugins)
    if method not in MODEL_CONFIGS:
        raise ValueError(f"method {method!r} is unknown; known: {', '.join(MODEL_CONFIGS)}")
    return MODEL_CONFIGS[method]


def _validate(section: type[Section], content: Any, where: str, prefix: str = "") -> Any:
    """Builds a section; what is wrong with it becomes one line."""
    try:
        return section.model_validate(content)
    except ValidationError as error:
        problems = (_one_problem(section, problem, prefix) for problem in error.errors())
        raise ValueError(f"{where}: " + "; ".join(problems)) from None


def _one_problem(section: type[Section], problem: Any, prefix: str) -> str:
    places = [str(part) for part in problem["loc"] if isinstance(part, int) or part.isidentifier()]  # no union's tags
    key = prefix + ".".join(places)
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(section, problem["loc"][:-1]))
        return f"unknown key {key!r}; known here: {known}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key} = {problem['input']!r}: {message}" if problem["loc"] else message


def _known_keys(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    """The keys a nested section takes."""
    for part in location:
        candidates = [section.model_fields[part].annotation]
        candidates += getattr(candidates[0], "__args__", ())
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return sorted(section.model_fields)

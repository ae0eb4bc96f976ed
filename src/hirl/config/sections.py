"""Define the typed sections of a run's configuration, with their defaults and the values they allow."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hirl.config.run_name import CONTROL, UNTRAINED, RunName
from hirl.config.tasks import FROZEN, GATE, LABEL_PERCENTS, TASKS

VARIANTS = ("baseline", "hirl")  # the paper's; a study may name more, which differ in their hierarchy block
VARIANT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?")


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("give a number")
    return value


def _distinct(values: Any) -> Any:
    repeated = [value for index, value in enumerate(values) if value in values[:index]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is repeated")
    return values


Float = Annotated[float, BeforeValidator(_no_bool)]
Int = Annotated[int, BeforeValidator(_no_bool)]
Probability = Annotated[Float, Field(ge=0, le=1)]
Momentum = Annotated[Float, Field(ge=0, lt=1)]  # at 1 an average would never change
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[Int, Field(ge=1)]
NonNegativeInt = Annotated[Int, Field(ge=0)]
NonNegative = Annotated[Float, Field(ge=0)]
Share = Annotated[Float, Field(gt=0, le=1)]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("give it as [low, high]")
    return pair


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"there is no such task; known: {', '.join(TASKS)}")
    return name


def _method_name(name: str) -> str:
    if "-" in name:
        raise ValueError("a method's name has no hyphen, which separates the parts of a run's name: use _")
    if name == UNTRAINED:
        raise ValueError("the controls have this name: choose another")
    return name


def _variant_name(name: str) -> str:
    if not VARIANT_NAME.fullmatch(name) or name == CONTROL:
        raise ValueError("write a variant's name in letters, digits, _ and -, such as hirl-invariant")
    return name


def _label_percent(percent: int) -> int:
    if percent not in LABEL_PERCENTS:
        raise ValueError(f"no task uses this percentage of the labels; known: {', '.join(map(str, LABEL_PERCENTS))}")
    return percent


CropScale = Annotated[tuple[Share, Share], AfterValidator(_ascending)]  # fraction of the image's area
TaskName = Annotated[str, AfterValidator(_known_task)]
MethodName = Annotated[str, AfterValidator(_method_name)]
VariantName = Annotated[str, AfterValidator(_variant_name)]
LabelPercent = Annotated[int, AfterValidator(_label_percent)]

# Execution switches: they change the result by rounding at most and are not hashed, so that a run may be resumed with
# or without them, and a finished run stays finished.
SWITCHES = ("compile", "checkpoint_activations")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# --- data and views ---------------------------------------------------------------------------------------------------


class DataConfig(Section):
    """The images of a study, and how they are stored."""

    name: str = (
        "taxonomy"  # taxonomy, sketches, folder, unlabelled, imagenet, places205, or torchvision's: cifar10, ...
    )
    image_size: Count = 32  # pixels a side of evaluated images; of stored images too where storage is "memory"
    storage: Literal["memory", "files"] = "memory"  # decoded once to uint8, or files that workers read at each step
    train_images: Count | None = None  # a class-balanced, seeded subset; None: all
    validation_images: Count | None = None
    class_tree: str | None = None  # CSV of each class's ancestors; None: read from nested folders
    label_lists: dict[LabelPercent, str] = {}  # percentage: file that lists the labelled images; absent: drawn


class ScenesConfig(Section):
    """Images with boxes and masks, for detection."""

    name: Literal["taxonomy", "coco"] = "taxonomy"  # drawn scenes, or a folder in COCO's layout
    image_size: Count = 96  # pixels a side of drawn scenes
    train_images: Count | None = None  # the first ones; drawn scenes need a number
    validation_images: Count | None = None


class JitterConfig(Section):
    """Colour jitter: factors drawn from [1 - strength, 1 + strength] (hue: [-hue, hue]), all with one probability."""

    brightness: NonNegative = 0.4
    contrast: NonNegative = 0.4
    saturation: NonNegative = 0.4
    hue: Annotated[Float, Field(ge=0, le=0.5)] = 0.1
    probability: Probability = 0.8


class ViewsConfig(Section):
    """The random views of an image. Triples hold the values of global view 1, global view 2 and every local view."""

    global_crops: Literal[1, 2] = 2  # methods that compare views need two
    global_size: Count = 32  # pixels
    global_scale: tuple[Positive, Positive] = (0.2, 1.0)  # fraction of the image's area
    local_crops: NonNegativeInt = 0
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
            if low > high:
                raise ValueError(f"{key} is [{low}, {high}]: give it as [low, high]")
            if key != "blur_sigma" and high > 1:
                raise ValueError(f"{key} is [{low}, {high}], fractions of the image's area: give at most 1")
        return self


# --- networks ---------------------------------------------------------------------------------------------------------


class BackboneConfig(Section):
    """The network that is pretrained and evaluated; hirl.models.backbones lists the names."""

    name: str = "resnet50"
    zero_init_residual: bool = False
    drop_path: Probability = 0.0  # stochastic depth of the trained (student) network, growing linearly over blocks
    position_embedding: Literal["learned", "sincos", "relative"] = "learned"  # ViT only
    layer_scale: Positive | None = None  # ViT only: initial scale of each residual branch


class MoCoV2Config(Section):
    """MoCo v2 (arXiv 2003.04297)."""

    hidden_dim: Count = 2048
    embedding_dim: Count = 128
    temperature: Positive = 0.2
    queue_size: Count = 16384
    momentum: Momentum = 0.999
    batch_norm_groups: Count = 8  # images that share statistics, shuffled for keys; one per GPU in the release


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
    frozen_prototype_steps: NonNegativeInt = 313


class MoCoV3Config(Section):
    """MoCo v3 (arXiv 2104.02057)."""

    hidden_dim: Count = 4096
    embedding_dim: Count = 256
    temperature: Positive = 0.2
    momentum: Momentum = 0.99  # rises to 1 along a cosine, per step


class DINOConfig(Section):
    """DINO (arXiv 2104.14294)."""

    hidden_dim: Count = 2048
    embedding_dim: Count = 256  # the head's bottleneck
    batch_norm: bool = False  # in the head; the authors' use_bn_in_head
    prototypes: Count = 65536
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)  # from, to; linear, per epoch
    teacher_temperature_epochs: NonNegativeInt = 50
    center_momentum: Momentum = 0.9
    momentum: Momentum = 0.996  # of the teacher; rises to 1 along a cosine, per step
    frozen_prototype_epochs: NonNegativeInt = 3


class MaskConfig(Section):
    """Blockwise masking of patches."""

    mask_probability: Probability = 1.0  # of a global view to be masked at all
    mask_ratio: tuple[Probability, Probability] = (0.1, 0.5)  # fraction of a masked view's patches, drawn uniformly
    mask_aspect: Positive = 0.3  # lowest aspect ratio of a block; the highest is its inverse


class IBOTConfig(DINOConfig, MaskConfig):
    """iBOT (arXiv 2111.07832)."""

    prototypes: Count = 8192
    patch_teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    patch_center_momentum: Momentum = 0.9
    patch_loss_weight: NonNegative = 1.0
    mask_probability: Probability = 0.5


# --- hierarchy, training, evaluation ----------------------------------------------------------------------------------


class KMeansConfig(Section):
    """k-means with faiss's parameters."""

    iterations: Count = 20
    restarts: Count = 5
    max_points_per_centroid: Count = 1000
    backend: Literal["auto", "faiss", "torch"] = "auto"  # auto: torch on a GPU, faiss on CPU


class TreeKMeansConfig(KMeansConfig):
    """k-means of a tree's levels; the finest level, the most expensive, can be warm-started from the last tree."""

    warm_iterations: Count | None = None  # of one warm-started k-means; None: never warm-start


class HierarchyConfig(Section):
    """What HIRL adds to a method: the hierarchy and the semantic path discrimination loss (paper, section 4)."""

    num_clusters: tuple[Count, ...] = (30000, 10000, 1000)  # fine to coarse
    negatives: Count | Literal["all"] = 1000  # negative paths per image
    mlp_layers: Count = 2  # layers of each level's projection head
    start_epoch: NonNegativeInt = 20  # epochs of image loss alone
    snapshot_epochs: Count = 1  # epochs between trees
    features: Literal["embedding", "invariant"] = "embedding"  # what is clustered; invariant is beyond the paper
    views: Count = 8  # random views of an image behind its invariant features, in a pass
    # what a tree clusters comes from a pass over all images, or from the views that training steps encode anyway,
    # which is beyond the paper; the first tree always needs a pass
    encode: Literal["pass", "steps"] = "pass"
    weight: Positive = 1.0  # of the path loss beside the image loss; another than 1 is beyond the paper
    projection_warmup_epochs: NonNegativeInt = 0  # epochs in which the path loss trains the projections alone; likewise
    reassign: bool = False  # re-assign a batch's images to clusters at every step (SwAV)
    kmeans: TreeKMeansConfig = TreeKMeansConfig()
    # controls: a random tree, or that of the true classes, which only a study with `control_study: true` may use
    tree: Literal["kmeans", "random", "classes"] = "kmeans"
    noise: Probability = 0.0  # part of the images whose true classes are permuted

    @model_validator(mode="after")
    def _noise_is_of_classes(self) -> HierarchyConfig:
        if self.noise and self.tree != "classes":
            raise ValueError(f"noise is {self.noise}, but it permutes classes, and tree is {self.tree}: remove it")
        return self

    @model_validator(mode="after")
    def _levels_shrink(self) -> HierarchyConfig:
        if not self.num_clusters or any(fine < coarse for fine, coarse in pairwise(self.num_clusters)):
            raise ValueError(f"num_clusters is {list(self.num_clusters)}: give fine to coarse, never increasing")
        return self

    @model_validator(mode="after")
    def _views_vary(self) -> HierarchyConfig:
        if self.features == "invariant" and self.views < 2:
            raise ValueError("views is 1: invariant features need 2 or more, so that they can vary within an image")
        return self


class OptimizerConfig(Section):
    """The optimiser. base_lr is per 256 images of a batch; TrainingConfig.effective_lr derives the learning rate."""

    name: Literal["sgd", "lars", "adamw"] = "sgd"  # lars is apex's LARC(clip=False)
    base_lr: Positive = 0.03
    momentum: Momentum = 0.9  # sgd and lars
    weight_decay: NonNegative = 1e-4
    final_weight_decay: NonNegative | None = None  # along a cosine, per step; None: constant
    trust_coefficient: Positive = 0.001  # lars
    clip_norm: Positive | None = None  # global gradient norm


class ScheduleConfig(Section):
    """The learning rate: linear warm-up, then a cosine or steps. start_lr and min_lr are absolute."""

    warmup_epochs: NonNegative = 0
    warmup_ends_at_peak: bool = False  # the last warm-up step has the peak (DINO, iBOT); else the step after it
    start_lr: NonNegative = 0.0
    min_lr: NonNegative = 0.0
    milestones: tuple[Count, ...] = ()  # epochs at which the rate is multiplied by `factor`; they replace the cosine
    factor: Positive = 0.1
    per_epoch: bool = False  # one rate for the whole epoch, as in MoCo v2 and SimSiam

    @model_validator(mode="after")
    def _milestones_ascend(self) -> ScheduleConfig:
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones is {list(self.milestones)}: give epochs in ascending order")
        return self


class TrainingConfig(Section):
    """The settings of any training: pretraining, tokenizer, and the evaluations that train."""

    epochs: Count = 200
    batch_size: Count = 256  # over all ranks
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the processor supports it
    compile: bool = False  # torch.compile of the network's blocks; `hirl tune` measures the speed-up
    checkpoint_activations: bool = False  # recompute blocks in the backward pass: less memory, more time
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def effective_lr(self) -> float:
        """The peak learning rate: base_lr * batch_size / 256."""
        return self.optimizer.base_lr * self.batch_size / 256

    @model_validator(mode="after")
    def _schedule_fits(self) -> TrainingConfig:
        schedule = self.schedule
        if schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs is {schedule.warmup_epochs:g}, but epochs is {self.epochs}: shorten the "
                "warm-up"
            )
        if schedule.min_lr > self.effective_lr:
            raise ValueError(
                f"schedule.min_lr is {schedule.min_lr:g}, above the peak learning rate of {self.effective_lr:g} "
                "(base_lr * batch_size / 256): lower it"
            )
        return self


class TokenizerConfig(TrainingConfig):
    """A discrete VAE as in DALL-E (arXiv 2102.12092, appendix A), trained unless a tokenizer is given."""

    epochs: Count = 20
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", base_lr=0.001)
    vocabulary: Count = 8192
    patch_size: Literal[2, 4, 8, 16, 32] = 8  # pixels a side of one token
    width: Count = 256  # channels of encoder, codebook and decoder
    temperature: tuple[Positive, Positive] = (1.0, 0.25)  # of the Gumbel softmax; from, to, along a cosine
    kl_weight: NonNegative = 3e-4  # of the divergence of a batch's mean token distribution from uniform


class BEiTConfig(MaskConfig):
    """BEiT (arXiv 2106.08254)."""

    mask_ratio: tuple[Probability, Probability] = (0.3827, 0.3827)
    tokenizer: TokenizerConfig = TokenizerConfig()


MODEL_CONFIGS: dict[str, type[Section]] = {
    "mocov2": MoCoV2Config,
    "simsiam": SimSiamConfig,
    "swav": SwAVConfig,
    "mocov3": MoCoV3Config,
    "dino": DINOConfig,
    "ibot": IBOTConfig,
    "beit": BEiTConfig,
}


class AugmentationConfig(Section):
    """Augmentation of labelled images in training: random crops, flips, and what is set here."""

    crop_scale: CropScale = (0.08, 1.0)
    randaugment: Annotated[str, Field(pattern=r"^rand(-[a-z]+[\d.]+)*$")] | None = None  # such as rand-m9-mstd0.5-inc1
    random_erasing: Probability = 0.0
    mixup: NonNegative = 0.0  # parameter of the Beta distribution
    cutmix: NonNegative = 0.0
    label_smoothing: Probability = 0.0


class KNNConfig(Section):
    """Weighted kNN: a neighbour votes with exp(cosine / temperature)."""

    neighbours: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_distinct)] = (10, 20, 100, 200)
    temperature: Positive = 0.07


class ProbeConfig(Section):
    """Linear probe on cached features."""

    epochs: Count = 100
    batch_size: Count = 256
    base_lr: Positive = 0.3
    momentum: Momentum = 0.9
    weight_decay: NonNegative = 0.0


class LinearConfig(TrainingConfig):
    """Linear evaluation as published: a linear classifier on the frozen backbone's features of augmented views."""

    epochs: Count = 100
    optimizer: OptimizerConfig = OptimizerConfig(base_lr=0.3, weight_decay=0.0)
    crop_scale: CropScale = (0.08, 1.0)
    last_blocks: Count = 1  # blocks of a ViT whose class tokens are concatenated
    head_std: Positive = 0.01  # standard deviation of the classifier's initial weights


class FinetuneConfig(TrainingConfig):
    """Fine-tuning of the whole network. head_lr is absolute, not per 256 images, and follows the schedule."""

    epochs: Count = 20
    optimizer: OptimizerConfig = OptimizerConfig(base_lr=0.1, weight_decay=0.0)
    head_lr: Positive | None = None  # of the classifier; None: the backbone's
    layer_decay: Share | None = None  # factor of a ViT's rate from each block to the one below
    drop_path: Probability = 0.0
    augmentation: AugmentationConfig = AugmentationConfig()


class ClusteringConfig(Section):
    """k-means on the validation features, with as many clusters as classes."""

    kmeans: KMeansConfig = KMeansConfig()


class DetectionConfig(TrainingConfig):
    """Mask R-CNN on the backbone (arXiv 1703.06870), measured by COCO's average precision of boxes and masks."""

    neck: Literal["fpn", "c4"] = "fpn"  # of a ResNet; a ViT gets a simple feature pyramid (arXiv 2203.16527)
    epoch_steps: Count | None = None  # steps counted as one epoch; None: a pass over the images
    warmup_steps: NonNegativeInt = 0  # linear, from warmup_factor times the rate
    warmup_factor: Positive = 0.001
    layer_decay: Share | None = None  # factor of a ViT's rate from each block to the one below
    drop_path: Probability = 0.0
    short_sides: Annotated[tuple[Count, ...], Field(min_length=1)] = tuple(range(640, 801, 32))  # pixels; drawn
    long_side: Count = 1333  # at most
    test_short_side: Count = 800
    anchor_size: Count = 32  # pixels at the finest level; doubled at each level above
    pre_nms_top_n: tuple[Count, Count] = (2000, 1000)  # proposals per level before suppression; in training, at test
    post_nms_top_n: tuple[Count, Count] = (2000, 1000)  # proposals per image after suppression; in training, at test
    roi_batch_size: Count = 512  # regions per image that train the heads, a quarter of them objects
    channels: Count = 256  # of the pyramid and the mask head
    box_dim: Count = 1024  # of the box head's two layers


class EvaluationConfig(Section):
    """The settings of every task, under the names in the table of tasks."""

    knn: KNNConfig = KNNConfig()
    probe: ProbeConfig = ProbeConfig()
    linear: LinearConfig = LinearConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    semisup_1: FinetuneConfig = FinetuneConfig()
    semisup_10: FinetuneConfig = FinetuneConfig()
    transfer: FinetuneConfig = FinetuneConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    detection: DetectionConfig = DetectionConfig()

    def of(self, task: str) -> Any:
        """Return the settings of a task; None for one that has none."""
        return getattr(self, TASKS[task].settings, None)


class RunConfig(Section):
    """Everything that decides a run's result. A baseline differs from its HIRL run only in that `hierarchy` is None."""

    study: str
    method: MethodName
    algorithm: str  # the registered method; another than `method` where the method's file has a base
    variant: VariantName
    seed: NonNegativeInt = 0
    data: DataConfig = DataConfig()
    transfer_data: DataConfig = DataConfig(name="sketches")
    scenes: ScenesConfig = ScenesConfig()
    views: ViewsConfig = ViewsConfig()
    backbone: BackboneConfig = BackboneConfig()
    model: Any
    hierarchy: HierarchyConfig | None = None
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _trees_come_before_the_end(self) -> RunConfig:
        if self.variant == "baseline" or self.hierarchy is None:
            return self
        left = self.training.epochs - self.hierarchy.start_epoch
        if left <= 0:
            raise ValueError(
                f"hierarchy.start_epoch is {self.hierarchy.start_epoch}, but training.epochs is "
                f"{self.training.epochs}: there would be no tree; start earlier, or train longer"
            )
        if self.hierarchy.snapshot_epochs > left:
            raise ValueError(
                f"hierarchy.snapshot_epochs is {self.hierarchy.snapshot_epochs}, but {left} epochs follow "
                f"hierarchy.start_epoch: {left} gives a single tree"
            )
        return self

    @property
    def run(self) -> RunName:
        """The run's name in its parts."""
        return RunName(self.method, self.variant, self.seed)

    @property
    def name(self) -> str:
        """The run's name, which is also its folder's."""
        return str(self.run)

    @property
    def baseline(self) -> RunConfig:
        """The configuration of the run's baseline: without a hierarchy."""
        return self.model_copy(update={"variant": "baseline", "hierarchy": None})

    @property
    def stem_epochs(self) -> int:
        """The number of first epochs that the run shares with its baseline, bit for bit: no hierarchy acts in them.

        A setting of the hierarchy that acts earlier than `start_epoch` must lower it.
        """
        return self.hierarchy.start_epoch if self.hierarchy else 0

    @property
    def uses_tokenizer(self) -> bool:
        """Whether the method predicts the tokens of a tokenizer: its model then has settings to train one."""
        return hasattr(self.model, "tokenizer")

    @property
    def pretraining_hash(self) -> str:
        """The digest of all that decides the weights; evaluation settings are not in it."""
        return pretraining_digest(self.model_dump(mode="json"))

    def task_hash(self, task: str) -> str:
        """Return the digest of a task's settings; tasks without settings share one."""
        settings = self.evaluation.of(task)
        return digest(settings.model_dump(mode="json") if settings else {})


class StudyConfig(Section):
    """What a study runs. `all` and the blocks of `methods` hold partial RunConfigs, those of `variants` hierarchies."""

    methods: Annotated[dict[MethodName, dict[str, Any] | None], Field(min_length=1)]
    variants: dict[VariantName, dict[str, Any] | None] = dict.fromkeys(VARIANTS)  # with blocks of the hierarchy
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_distinct)] = (0,)
    tasks: Annotated[tuple[TaskName, ...], AfterValidator(_distinct)] = FROZEN
    base: str | None = None  # another study, whose keys hold unless given here
    all: dict[str, Any] = {}
    plugins: tuple[str, ...] = ()  # Python files that register methods of your own
    control_study: bool = False  # its trees may be made of labels, which no result of HIRL may use

    @property
    def compares_trees(self) -> bool:
        """Whether the study draws gains by the trees' agreement: it has three variants of HIRL or more."""
        return len(set(self.variants) - {"baseline"}) > 2 and {task for task, _ in GATE} <= set(self.tasks)

    @model_validator(mode="after")
    def _the_papers_variants_have_no_block(self) -> StudyConfig:
        for name, block in self.variants.items():
            if name in VARIANTS and block:
                raise ValueError(f"variants.{name} is the paper's and takes no block: name a variant of your own")
            if name not in VARIANTS and not block:
                raise ValueError(
                    f"variants.{name} is neither of {', '.join(VARIANTS)} and has no block: give it hierarchy values, "
                    "such as {features: invariant}"
                )
        return self


def pretraining_digest(settings: Mapping[str, Any]) -> str:
    """Return the digest of all that decides the weights, from a RunConfig as a mapping."""
    decides = {key: value for key, value in settings.items() if key not in ("evaluation", "transfer_data", "scenes")}
    decides["data"] = {key: value for key, value in settings["data"].items() if key != "label_lists"}
    return digest(decides)


def digest(value: Any) -> str:
    """Return twelve hex digits of the SHA-256 of a value's canonical JSON without the SWITCHES."""
    text = json.dumps(_without_switches(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_switches(value: Any) -> Any:
    """Return a value without the execution switches, at any depth."""
    if isinstance(value, list | tuple):
        return [_without_switches(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_switches(part) for key, part in value.items() if key not in SWITCHES}

"""The two contracts of a protocol: what `hirl.evaluation.run` calls, and what it gets. Import costs no torch.

A protocol is one file of this package, named by `module` in the table of tasks (hirl.config.tasks). A frozen one
defines `evaluate_features`, a trained one `train_and_evaluate`; both return an EvaluationResult and write no results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hirl.config import RunConfig, RunName
from hirl.evaluation.cache import FeatureCache


@dataclass(frozen=True)
class EvaluationTarget:
    """A network to evaluate: a run's, or an untrained control's.

    Attributes:
        config: of the run; a control has that of the study's first method with its backbone.
        run: its name.
        weights: of the backbone; None leaves it as the run's seed initialises it.
        folders: the study's data, transfer and scenes, by these names.
    """

    config: RunConfig
    run: RunName
    weights: Path | None
    folders: dict[str, Path]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.run)

    @property
    def coordinates(self) -> dict[str, Any]:
        """The keys of a result that say whose it is."""
        return {
            "study": self.config.study,
            "dataset": self.config.data.name,
            "method": self.run.method,
            "variant": self.run.variant,
            "backbone": self.config.backbone.name,
            "seed": self.run.seed,
        }


@dataclass(frozen=True)
class EvaluationResult:
    """What a protocol found.

    Attributes:
        metrics: name to number; percentages are 0 to 100.
        settings: what the numbers depend on.
        history: one row per epoch, of a protocol that trains.
        times: when it started and ended, in Unix seconds; `hirl.evaluation.run` measures it.
    """

    metrics: dict[str, float]
    settings: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    times: tuple[float, float] | None = None


@dataclass(frozen=True)
class FrozenInputs:
    """What frozen protocols read.

    Attributes:
        cache: the features and labels of both splits.
        snapshot: file of the run's semantic tree; only tasks with `reads_tree` need it.
    """

    cache: FeatureCache
    snapshot: Path | None = None


class FrozenProtocol(Protocol):
    """A file of hirl.evaluation whose task has the protocol "frozen"."""

    def evaluate_features(self, inputs: FrozenInputs, settings: Any) -> EvaluationResult:
        """Evaluate cached features of a frozen backbone.

        Args:
            settings: the task's section of the run's evaluation settings; None where it has none.

        Raises:
            ValueError: the settings or the snapshot do not fit the features.
        """
        ...


class TrainedProtocol(Protocol):
    """A file of hirl.evaluation whose task has the protocol "trained"."""

    def train_and_evaluate(
        self, task: str, config: RunConfig, weights: Path | None, data: Path, scratch: Path, run_name: str
    ) -> EvaluationResult:
        """Train from the backbone, or resume, and evaluate on the validation images.

        Every rank calls it and gets the same metrics.

        Args:
            task: its name in the table of tasks; one protocol may serve several.
            config: of the run; the task's settings are among its evaluation settings.
            weights: of the backbone; None leaves it as the run's seed initialises it.
            data: the folder that the task reads: the study's data, its transfer data or its scenes.
            scratch: folder that keeps the resume state.
            run_name: what lines of progress call the run.

        Raises:
            ValueError: weights, data or settings do not fit, another process trains here, or the loss is not finite.
        """
        ...

"""Compare the settings of runs: with their baseline's, and with the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hirl.config import flatten
from hirl.config.study import published_settings
from hirl.reporting.runs import Run, trained_by_method
from hirl.reporting.titles import method_title, variant_title

NOT_COMPARED = ("variant", "hash", "evaluation")  # what tells runs apart, or decides nothing of the training
SECTIONS = ("data", "views", "backbone", "model", "training", "hierarchy", "evaluation")  # as the page lists them
NONE = "–"
Line = tuple[str, str, str, str]  # a key, the reference's value, the value here, a method's title


@dataclass(frozen=True)
class Difference:
    """A setting that has one value in a reference and another in some methods' runs.

    Attributes:
        methods: titles of the methods that share both values; empty for all of the study.
    """

    key: str
    reference: str
    here: str
    methods: tuple[str, ...]


def between_variants(runs: Iterable[Run]) -> dict[str, list[Difference]]:
    """Return every setting in which a variant differs from its reference, by a title that names both.

    HIRL's reference is the baseline; that of any other variant is HIRL, or the baseline where HIRL was not run.
    """
    methods = trained_by_method(runs)
    found: dict[str, list[Line]] = {}
    for method, members in methods.items():
        first = {run.variant: run for run in reversed(members)}  # of the first seed
        for run in dict.fromkeys(first[member.variant] for member in members if member.has_tree):
            reference = first.get("baseline" if run.variant == "hirl" or "hirl" not in first else "hirl")
            if reference:
                title = f"{variant_title(run.variant)} against {variant_title(reference.variant)}"
                lines = _differing(_settings(reference), _settings(run))
                found.setdefault(title, []).extend((*line, method_title(method)) for line in lines)
    return {title: _grouped(lines, len(methods)) for title, lines in found.items()}


def from_paper(runs: Iterable[Run]) -> dict[str, list[Difference]]:
    """Return, by section of the configuration, every published setting that the study's methods change.

    The hierarchy's settings are those of the first run that has them.
    """
    methods = trained_by_method(runs)
    found: dict[str, list[Line]] = {}
    for method, members in methods.items():
        here: dict[str, Any] = {}
        for run in members:
            here = flatten(run.config) | here if run.variant in ("baseline", "hirl") else here
        published = published_settings(method)
        shared = published.keys() & here.keys()
        for line in _differing({key: published[key] for key in shared}, {key: here[key] for key in shared}):
            found.setdefault(line[0].split(".")[0], []).append((*line, method_title(method)))
    return {section: _grouped(found[section], len(methods)) for section in SECTIONS if section in found}


def _settings(run: Run) -> dict[str, Any]:
    """Return a run's configuration by dotted key."""
    return flatten({key: value for key, value in run.config.items() if key not in NOT_COMPARED and value is not None})


def _differing(reference: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield key and both values of every setting that differs."""
    for key in sorted({**reference, **other}):
        if reference.get(key, NONE) != other.get(key, NONE):
            yield key, _text(reference.get(key, NONE)), _text(other.get(key, NONE))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _grouped(lines: list[Line], methods: int) -> list[Difference]:
    """Join the methods that share a setting and both of its values; lines of one key stay together."""
    shared: dict[tuple[str, str, str], list[str]] = {}
    for *values, method in lines:
        shared.setdefault((values[0], values[1], values[2]), []).append(method)
    return [Difference(*values, tuple(of) if len(of) < methods else ()) for values, of in sorted(shared.items())]

"""The layers of a configuration, and how a study's files become typed sections.

Later wins: the typed defaults, the method file (over its base), the study's `all` block, the study's block for the
method, overrides given on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from hirl.config.plugins import load_plugins
from hirl.config.sections import MODEL_CONFIGS, RunConfig, Section, StudyConfig

CONFIG_ROOT = Path(__file__).resolve().parents[3] / "config"
STUDY_WIDE = ("data", "transfer_data", "scenes")  # one for all methods of a study


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
        _model_config(_algorithm(name), config.plugins)
    return config


def _read_study(path: Path, is_base: bool = False) -> dict[str, Any]:
    """A study file, merged over its base; methods given as a list, or empty, have no settings of their own."""
    content = read_yaml(path)
    methods = content.get("methods") or {}
    methods = dict.fromkeys(methods) if isinstance(methods, list) else methods
    if isinstance(methods, Mapping):
        methods = {name: {} if block is None else block for name, block in methods.items()}
    content["methods"] = methods
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
    if named := sorted(merged.keys() & {"study", "method", "algorithm", "variant", "seed"}):
        raise ValueError(f"study {study}, method {method}: {named[0]!r} names a run and is no setting: remove it")
    algorithm = _algorithm(method)
    model = _model_config(algorithm, load_study(study).plugins)
    merged["model"] = _validate(model, merged.get("model", {}), f"study {study}, method {method}", "model.")
    merged |= {"study": study_name(study), "method": method, "algorithm": algorithm, "variant": variant, "seed": seed}
    if merged.setdefault("hierarchy", {}) is None:
        raise ValueError(f"study {study}, method {method}: hierarchy is empty: fill it, or run the baseline variant")
    config = _validate(RunConfig, merged, f"study {study}, method {method}")
    origins |= dict.fromkeys(("study", "method", "algorithm", "variant", "seed"), "the run")
    return (config if variant == "hirl" else config.model_copy(update={"hierarchy": None})), origins


def _layers(study: str, method: str, overrides: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The layers above the typed defaults, lowest first, each with the name shown to the user."""
    config = load_study(study)
    if not CONFIG_ROOT.is_dir():
        raise ValueError(f"{CONFIG_ROOT} is missing: install hirl from a clone of its repository, with pip install -e")
    yield from _method_files(method)
    name = _study_path(study).name
    yield f"studies/{name} all", config.all
    block = config.methods.get(method) or {}
    for key in STUDY_WIDE:
        if key in block:
            raise ValueError(f"{name}: methods.{method}.{key} is not possible, a study has one: move it to all.{key}")
    yield f"studies/{name} methods.{method}", block
    for key, value in overrides.items():
        layer: Any = value
        for part in reversed(key.split(".")):
            layer = {part: layer}
        yield "--set", layer


def _method_files(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The method's file, after the file it is based on."""
    path = CONFIG_ROOT / "methods" / f"{method}.yaml"
    if path.is_file():
        content = read_yaml(path)
        if (base := content.get("base")) is not None:
            yield from _method_files(base)
        yield (
            f"methods/{method}.yaml",
            {key: value for key, value in content.items() if key not in ("source", "base")},
        )


def _algorithm(method: str) -> str:
    """The registered method that a method's file names as its base; else the method itself."""
    path = CONFIG_ROOT / "methods" / f"{method}.yaml"
    return read_yaml(path).get("base", method) if path.is_file() else method


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

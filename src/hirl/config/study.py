"""A study: its YAML file and its methods' files, read once, and the run configurations they make.

The layers of a run's configuration, later ones win: the typed defaults, the method's file (over the file it is based
on), the study's `all` block, its block for the method, its hierarchy block for the variant, overrides given on the
command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hirl.config.nested import flatten, merge, nest
from hirl.config.plugins import check_plugin, load_plugins
from hirl.config.resources import CONFIG_ROOT, REINSTALL
from hirl.config.run_name import RunName
from hirl.config.sections import MODEL_CONFIGS, VARIANTS, RunConfig, Section, StudyConfig
from hirl.config.suggestions import unknown
from hirl.config.validation import validate
from hirl.config.yaml_files import read_yaml

STUDY_WIDE = ("data", "transfer_data", "scenes")  # one for all methods of a study
RUN_KEYS = ("study", "method", "algorithm", "variant", "seed")  # name a run; no layer may set them

Layer = tuple[str, Mapping[str, Any]]  # where its values come from, as shown to the user, and the values


@dataclass(frozen=True)
class MethodFile:
    """A method's YAML file.

    Attributes:
        algorithm: the registered method that it configures: its own name, or the base's.
        layers: its content, after that of the file it is based on.
    """

    algorithm: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Study:
    """A study and every file that its runs are configured from.

    Attributes:
        path: its YAML file.
        config: what it runs.
        method_files: of its methods, by their names.
    """

    path: Path
    config: StudyConfig
    method_files: dict[str, MethodFile]

    @property
    def name(self) -> str:
        """What results, records and trackers call it."""
        return self.path.stem

    def resolve(
        self, method: str, variant: str, seed: int = 0, overrides: Mapping[str, Any] | None = None
    ) -> RunConfig:
        """Return one run's configuration, all layers merged.

        Args:
            method: one of the study's, or any other that has a file.
            overrides: dotted keys to values, e.g. {"training.epochs": 15}.

        Raises:
            ValueError: an unknown method, variant or key, or an impossible value; one line names it.
        """
        return self._resolve(method, variant, seed, overrides or {})[0]

    def resolve_any(self, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the configuration of the first method's baseline: all runs share its data."""
        return self.resolve(next(iter(self.config.methods)), "baseline", 0, overrides)

    def resolve_control(self, backbone: str, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """Return the configuration of the first method with this backbone; its untrained control shares it.

        Raises:
            ValueError: no method of the study has this backbone.
        """
        for method in self.config.methods:
            config = self.resolve(method, "baseline", seed, overrides)
            if config.backbone.name == backbone:
                return config
        raise ValueError(
            f"no method of study {self.name} has the backbone {backbone!r}: name one of its methods' backbones"
        )

    def stem_epochs(self, method: str, seed: int, overrides: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """Return the epochs after which a HIRL run of the study leaves its baseline, in order; 0 is left out."""
        epochs = set()
        for variant in self.config.variants:
            with suppress(ValueError):  # a run whose first tree would come after the end: its baseline may be trained
                epochs.add(self.resolve(method, variant, seed, overrides).stem_epochs)
        return tuple(sorted(epochs - {0}))

    def run_names(self, overrides: Mapping[str, Any] | None = None) -> list[RunName]:
        """Return the names of all runs: each method, variant and seed, then one untrained control per backbone."""
        config = self.config
        runs = [RunName(*run) for run in product(config.methods, config.variants, config.seeds)]
        baselines = (self.resolve(method, "baseline", 0, overrides) for method in config.methods)
        backbones = dict.fromkeys(baseline.backbone.name for baseline in baselines)
        return [*runs, *map(RunName.control, backbones)]

    def published(self, method: str) -> dict[str, Any]:
        """Return a method's own values by their dotted keys: its file's over the typed defaults, without any study."""
        file = self.method_files.get(method) or _read_method(method)
        merged = _merge_layers([*file.layers])[0]
        where = f"method {method}"
        model = _model_config(file.algorithm, self.config.plugins)
        merged["model"] = validate(model, merged.get("model", {}), where, "model.")
        run = self._name(method, file, "hirl", 0)
        return flatten(validate(RunConfig, {"hierarchy": {}} | merged | run, where).model_dump(mode="json"))

    def _name(self, method: str, file: MethodFile, variant: str, seed: int) -> dict[str, Any]:
        return dict(zip(RUN_KEYS, (self.name, method, file.algorithm, variant, seed), strict=True))

    def provenance(
        self, method: str, variant: str, seed: int = 0, overrides: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[str, Any, str]]:
        """Yield every leaf of a run's configuration as (dotted key, value, where the value came from)."""
        config, origins = self._resolve(method, variant, seed, overrides or {})
        for key, value in flatten(config.model_dump(mode="json")).items():
            yield key, value, origins.get(key, "default")

    def _resolve(
        self, method: str, variant: str, seed: int, overrides: Mapping[str, Any]
    ) -> tuple[RunConfig, dict[str, str]]:
        """Return a run's configuration, and the origin of every key that a layer sets."""
        where = f"study {self.name}, method {method}"
        known = dict.fromkeys([*VARIANTS, *self.config.variants])
        if variant not in known:
            raise ValueError(f"variant {variant!r} {unknown(variant, known)}")
        file = self.method_files.get(method) or _read_method(method)
        merged, origins = _merge_layers([*file.layers, *self._own_layers(method, variant, overrides)])
        if named := [key for key in RUN_KEYS if key in merged]:
            raise ValueError(f"{where}: {named[0]!r} names a run and is no setting: remove it")
        model = _model_config(file.algorithm, self.config.plugins)
        merged["model"] = validate(model, merged.get("model", {}), where, "model.")
        if merged.setdefault("hierarchy", {}) is None:
            raise ValueError(f"{where}: hierarchy is empty: fill it, or run the baseline variant")
        config = validate(RunConfig, merged | self._name(method, file, variant, seed), where)
        if config.hierarchy is not None and config.hierarchy.tree == "classes" and not self.config.control_study:
            raise ValueError(
                f"{where}: hierarchy.tree is classes, which reads labels: use kmeans, or mark the study as a control "
                "with `control_study: true`"
            )
        origins |= dict.fromkeys(RUN_KEYS, "the run")
        if variant == "baseline":  # its hierarchy was validated with the same care
            config = config.model_copy(update={"hierarchy": None})
        return config, origins

    def _own_layers(self, method: str, variant: str, overrides: Mapping[str, Any]) -> Iterator[Layer]:
        """Yield the study's layers and the command line's, lowest first."""
        file = self.path.name
        block = self.config.methods.get(method) or {}
        for key in STUDY_WIDE:
            if key in block:
                raise ValueError(
                    f"{file}: methods.{method}.{key} is not possible, a study has one: move it to all.{key}"
                )
        yield f"studies/{file} all", self.config.all
        yield f"studies/{file} methods.{method}", block
        if hierarchy := self.config.variants.get(variant):
            yield f"studies/{file} variants.{variant}", {"hierarchy": hierarchy}
        for key, value in overrides.items():
            yield "--set", nest(key, value)


def load_study(study: str, narrowed: Mapping[str, Any] | None = None) -> Study:
    """Load a study by name (config/studies/NAME.yaml) or by the path of a YAML file of your own.

    Args:
        study: name, or path ending in .yaml.
        narrowed: values for the study's own keys (methods and variants as lists, seeds, tasks) in place of the file's.

    Raises:
        ValueError: there is no such study, or it has a key or value it cannot hold.
    """
    if not CONFIG_ROOT.is_dir():
        raise ValueError(f"{CONFIG_ROOT} is missing: {REINSTALL}")
    path = _study_path(study)
    content = _read_study(path)
    narrowed = dict(narrowed or {})
    if "methods" in narrowed:
        narrowed["methods"] = {
            name: content["methods"].get(name) for name in _from_list("methods", narrowed["methods"])
        }
    if "variants" in narrowed:
        narrowed["variants"] = _chosen_variants(content, narrowed["variants"])
    config = validate(StudyConfig, content | narrowed, str(path))
    for plugin in config.plugins:
        check_plugin(Path(plugin))
    files = {name: _read_method(name) for name in config.methods}
    for file in files.values():
        _model_config(file.algorithm, config.plugins)
    return Study(path, config, files)


def _study_path(study: str) -> Path:
    return Path(study) if study.endswith(".yaml") else CONFIG_ROOT / "studies" / f"{study}.yaml"


def _read_study(path: Path, is_base: bool = False) -> dict[str, Any]:
    """Read a study file over its base; methods and variants given as a list, or empty, have no block of their own."""
    content = read_yaml(path)
    for key in ("methods", "variants"):
        if key in content:
            content[key] = _with_blocks(f"{path}: {key}", content[key])
    content.setdefault("methods", {})
    if (base := content.get("base")) is None:
        return content
    if not isinstance(base, str):
        raise ValueError(f"{path}: base is {base!r}, no study: give one name, such as demo")
    if is_base:
        raise ValueError(f"{path} is the base of a study and has base {base!r} itself: a base must not have one")
    merged = _read_study(_study_path(base), is_base=True)
    if content["methods"]:  # they choose among the base's, whose values they keep
        merged["methods"] = {name: merged["methods"].get(name, {}) for name in content["methods"]}
    if "variants" in content:  # they replace the base's, as seeds and tasks do
        merged.pop("variants", None)
    merge(merged, content)
    return merged


def _with_blocks(where: str, names: Any) -> dict[str, Any]:
    """Return a mapping from names to their blocks, for names given as a list or with empty blocks."""
    named = _from_list(where, names) if isinstance(names, list) else names
    if not isinstance(named, Mapping):
        raise ValueError(f"{where} is {names!r}: give a list, such as [dino, ibot], or a mapping of names to values")
    return {name: {} if block is None else block for name, block in named.items()}


def _from_list(where: str, names: list[Any]) -> dict[Any, None]:
    """Return names as keys; unknown ones are found later."""
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise ValueError(f"{where} has {name!r}, which is no name: write it as [dino, ibot]")
        if name in names[:index]:
            raise ValueError(f"{where} repeats {name!r}: name it once")
    return dict.fromkeys(names)


def _chosen_variants(content: Mapping[str, Any], names: Sequence[Any]) -> dict[str, Any]:
    """Return the blocks of the variants that a call asks for: the study's, or the paper's two."""
    known = dict.fromkeys(VARIANTS) | content.get("variants", {})
    for name in _from_list("variants", list(names)):
        if name not in known:
            raise ValueError(f"variant {name!r} {unknown(name, known)}")
    return {name: known[name] for name in names}


def _read_method(name: str) -> MethodFile:
    """Read a method's file and the files it is based on; a method of a plugin may have none."""
    path = CONFIG_ROOT / "methods" / f"{name}.yaml"
    if not path.is_file():
        return MethodFile(name, ())
    content = read_yaml(path)
    settings = {key: value for key, value in content.items() if key not in ("source", "base")}
    below = _read_method(content["base"]) if "base" in content else MethodFile(name, ())
    return MethodFile(below.algorithm, (*below.layers, (f"methods/{name}.yaml", settings)))


def published_settings(method: str) -> dict[str, Any]:
    """Return a method's published hyper-parameters by dotted key; empty for a method without a file."""
    return flatten(_merge_layers(list(_read_method(method).layers))[0])


def _merge_layers(layers: list[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge layers, lowest first; return the values, and the origin of every leaf by its dotted key."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        merge(merged, layer)
        origins |= dict.fromkeys(flatten(layer), origin)
    return merged, origins


def _model_config(algorithm: str, plugins: tuple[str, ...]) -> type[Section]:
    """Return the typed hyper-parameters of a registered method; a plugin registers its own on import."""
    if algorithm not in MODEL_CONFIGS and plugins:
        load_plugins(plugins)
    if algorithm not in MODEL_CONFIGS:
        raise ValueError(f"method {algorithm!r} {unknown(algorithm, MODEL_CONFIGS)}")
    return MODEL_CONFIGS[algorithm]

"""A run's network as MLflow's model: images in, embedding and semantic path out; and the best one of each method.

A model holds safetensors files and the code of hirl.tracking.mlflow.pyfunc, and no pickle. On this machine its weights
are hard links to those of the results, so that a model needs no room.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hirl.config import digest
from hirl.files import read_json, sha256
from hirl.tracking.mlflow.store import Store, local_folder, place
from hirl.tracking.mlflow.texts import BEST, KEY, source

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

MODEL = "hirl.model"  # the tag of a run that names its logged model and the digest of its files
CODE = Path(__file__).with_name("pyfunc.py")
FILES = {"config": "config.json", "weights": "weights.safetensors", "paths": "paths.safetensors"}
NEEDED = ("torch", "torchvision", "timm", "lightly", "safetensors", "numpy")  # hirl itself is not on any index


def log_model(store: Store, run_id: str, folder: Path, tags: Mapping[str, str], known: Mapping[str, str]) -> str | None:
    """Log the model of a trained run, unless it is stored already; return its id, or None without weights.

    Args:
        folder: of the run's results.
        tags: of the run.
        known: the tags that the run had in the store.
    """
    from mlflow.entities import LoggedModelOutput

    if not all((folder / FILES[name]).is_file() for name in ("config", "weights")):
        return None
    inputs = (CODE, *(folder / name for name in (*FILES.values(), "tree.safetensors", "features.safetensors")))
    content = digest([sha256(file) for file in inputs if file.is_file()])
    model_id, _, stored = known.get(MODEL, "").partition(" ")
    if stored == content:
        return model_id
    shown = {key: tags[key] for key in ("method", "variant", "seed", "backbone")}
    created = store.client.create_logged_model(
        store.experiment,
        folder.name,
        run_id,
        tags={KEY: tags[KEY], **source("hirl pretrain")},
        params=shown,
        model_type="backbone",
    )
    _write_files(store, folder, created.model_id, created.artifact_location, run_id)
    store.client.finalize_logged_model(created.model_id, "READY")
    store.client.log_outputs(run_id, [LoggedModelOutput(created.model_id, 0)])
    store.client.set_tag(run_id, MODEL, f"{created.model_id} {content}")
    return created.model_id


def _write_files(store: Store, folder: Path, model_id: str, location: str, run_id: str) -> None:
    """Write a model's files to where they stay, or upload them to a server."""
    if (place_of_artifacts := local_folder(location)) is not None:
        _write_model(folder, place_of_artifacts, model_id, run_id)
        return
    with tempfile.TemporaryDirectory() as temporary:
        _write_model(folder, Path(temporary) / "model", model_id, run_id)
        store.client.log_model_artifacts(model_id, str(Path(temporary) / "model"))


def _write_model(folder: Path, out: Path, model_id: str, run_id: str) -> None:
    """Write a model: MLflow's description of it, the code, and the files that the code reads."""
    import mlflow.pyfunc
    from mlflow.models import Model

    from hirl.tracking.mlflow.paths import write_paths

    needed = [f"{package}=={version(package)}" for package in NEEDED]
    model = Model(artifact_path=str(out), run_id=run_id, model_id=model_id)
    with warnings.catch_warnings(record=True):  # the signature below is checked, not type hints or an example
        mlflow.pyfunc.save_model(str(out), python_model=str(CODE), mlflow_model=model, pip_requirements=needed)
    files = out / "artifacts"
    for name in ("config", "weights"):
        place(folder / FILES[name], files / FILES[name])
    has_paths = write_paths(folder, files / FILES["paths"])
    artifacts = {name: f"artifacts/{file}" for name, file in FILES.items() if (files / file).is_file()}
    # MLflow would copy the files itself, weights too
    model.flavors["python_function"]["artifacts"] = {
        name: {"path": path, "uri": path} for name, path in artifacts.items()
    }
    model.signature = _signature(read_json(folder / FILES["config"]), has_paths)
    model.save(str(out / "MLmodel"))


def _signature(config: Mapping[str, Any], has_paths: bool) -> ModelSignature:
    """Return a model's signature: uint8 images [N, S, S, 3] in, embedding [N, D] and path [N, L] out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    size = config["data"]["image_size"]
    out: list[ColSpec | TensorSpec] = [TensorSpec(np.dtype(np.float32), (-1, -1), "embedding")]
    if has_paths:
        out.append(TensorSpec(np.dtype(np.int64), (-1, len(config["hierarchy"]["num_clusters"])), "path"))
    return ModelSignature(Schema([TensorSpec(np.dtype(np.uint8), (-1, size, size, 3))]), Schema(out))


# --- registry ---------------------------------------------------------------------------------------------------------


def register(
    store: Store, study: str, tags: Mapping[str, str], run_id: str, model_id: str | None, score: float | None
) -> None:
    """Make a run's model a version of its method's registered model, and the best version `best`.

    Args:
        study: the name of the results' folder; published weights have one of their own.
        tags: of the run.
        score: the number that the best version has most of; None if it is not known yet.
    """
    if model_id is None:
        return
    name = f"{study}-{tags['method']}"
    versions = _versions(store, name)
    if model_id not in versions:
        about = f"{tags['variant']}, seed {tags['seed']}"
        created = store.client.create_model_version(
            name, f"models:/{model_id}", run_id, {KEY: tags[KEY]}, description=about, model_id=model_id
        )
        versions[model_id] = created
        known_as = json.dumps([{"name": name, "version": created.version}])
        store.client.set_logged_model_tags(model_id, {"mlflow.modelVersions": known_as})
    if score is not None:
        store.client.set_model_version_tag(name, versions[model_id].version, BEST, f"{score:.2f}")
        versions[model_id].tags[BEST] = f"{score:.2f}"
    _name_the_best(store, name, versions.values())


def _versions(store: Store, name: str) -> dict[str, ModelVersion]:
    """Return the versions of a registered model by the id of their logged models; make the model if it is new."""
    from mlflow.exceptions import MlflowException

    found = store.client.search_model_versions(f"name = '{name}'")
    if not found:
        about = f"The backbones of {name}. `best` has the highest `{BEST}` of all variants and seeds."
        with suppress(MlflowException):  # it exists, without versions
            store.client.create_registered_model(name, description=about)
    return {str(version.source).removeprefix("models:/"): version for version in found}


def _name_the_best(store: Store, name: str, versions: Iterable[ModelVersion]) -> None:
    """Give the alias `best` to the version with the highest score; of retrained runs the last version counts."""
    last = {version.tags[KEY]: version for version in sorted(versions, key=lambda version: int(version.version))}
    scored = [version for version in last.values() if BEST in version.tags]
    if scored:
        best = max(scored, key=lambda version: float(version.tags[BEST]))
        store.client.set_registered_model_alias(name, "best", str(best.version))

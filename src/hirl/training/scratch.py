"""The scratch folder of a training: its name, and the files that say how far it is. Import costs no torch."""

from __future__ import annotations

from pathlib import Path

from hirl.config import RunConfig, digest
from hirl.files import read_json, sha256

RECORD = "record.jsonl"  # the run's record, while it trains


def checkpoint_path(folder: Path, epochs_done: int) -> Path:
    """Return the file of the state after so many epochs."""
    return folder / f"checkpoint{epochs_done:05d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, readable or not, newest first."""
    return sorted(folder.glob("checkpoint*.pt"), reverse=True)


def saved_epochs(folder: Path) -> int:
    """Return after how many epochs the newest checkpoint was written; 0 without one."""
    return max((int(path.stem.removeprefix("checkpoint")) for path in checkpoints(folder)), default=0)


def pretraining_folder(scratch: Path, config: RunConfig, data: Path, tokenizer: Path | None = None) -> Path:
    """Return the folder of a run's resume state, named by the run and all that decides its weights."""
    return scratch / f"{config.name}-{pretraining_fingerprint(config, data, tokenizer)}"


def pretraining_fingerprint(config: RunConfig, data: Path, tokenizer: Path | None = None) -> str:
    """Return the digest of all that decides a run's weights: configuration, prepared images, tokenizer."""
    decides = [config.pretraining_hash, _images_digest(data)]
    if config.uses_tokenizer and tokenizer is not None:
        decides.append(sha256(tokenizer))
    return digest(decides)


def tokenizer_folder(scratch: Path, config: RunConfig, data: Path) -> Path:
    """Return the folder of a tokenizer's resume state, named by all that decides its weights."""
    return scratch / f"tokenizer-{tokenizer_fingerprint(config, data)}"


def tokenizer_fingerprint(config: RunConfig, data: Path) -> str:
    """Return the digest of all that decides a tokenizer's weights: its settings, the views, the seed, the images.

    Raises:
        ValueError: the method uses no tokenizer.
    """
    if not config.uses_tokenizer:
        raise ValueError(f"method {config.method} uses no tokenizer: name one that does, such as beit")
    settings = [section.model_dump(mode="json") for section in (config.model.tokenizer, config.views)]
    return digest([*settings, config.seed, _images_digest(data)])


def _images_digest(data: Path) -> str:
    return read_json(data / "manifest.json")["digest"]

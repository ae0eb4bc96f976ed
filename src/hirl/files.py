"""Atomic writes, JSON, digests, and locks that keep two writers apart."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

LOOK_SECONDS = 0.05  # longer than `is_locked` holds a lock
METADATA = "hirl"  # the key of a safetensors file that has all metadata, as JSON


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends, remove it on an error.

    Raises:
        ValueError: the folder cannot be made or written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(mode)  # some libraries write files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: the file is missing or is not JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with the step that writes it, or correct the path")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it and make it again") from error


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def pack_metadata(values: Mapping[str, str]) -> dict[str, str]:
    """Return metadata as one key of a safetensors file: several keys would be written in random order."""
    return {METADATA: json.dumps(values, sort_keys=True)}


def unpack_metadata(stored: Mapping[str, str] | None) -> dict[str, str]:
    """Return the metadata of a safetensors file: those that `pack_metadata` packed, or keys that others wrote."""
    others = dict(stored or {})
    packed = others.pop(METADATA, "{}")
    return others | json.loads(packed)


def make_folder(folder: str | Path) -> None:
    """Make a folder and check that it can be written, so that a long job does not fail at its end.

    Raises:
        ValueError: it cannot be made or written.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write {folder}: {error.strerror}; choose a folder you may write to") from error


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Lock a folder for this process until the block ends, or the process does, even if it is killed.

    Raises:
        ValueError: another process has locked it, or it cannot be made or written.
    """
    make_folder(folder)
    with open(Path(folder) / "lock", "w") as handle:
        if not try_lock(handle):
            time.sleep(LOOK_SECONDS)  # `is_locked` may have looked just now
            if not try_lock(handle):
                raise ValueError(f"{folder} is in use by another process: wait for it, or stop it")
        yield


def is_locked(folder: str | Path) -> bool:
    """Return whether a process has locked a folder; it looks by taking the lock for a moment."""
    try:
        with open(Path(folder) / "lock") as handle:
            return not try_lock(handle)
    except OSError:
        return False


def try_lock(handle: IO[str]) -> bool:
    """Lock an open file until it is closed, unless another process has locked it; return whether it is locked now.

    The operating system releases the lock when the process ends, even if it is killed.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

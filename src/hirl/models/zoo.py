"""List and download the authors' published weights."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pydantic import ValidationError

from hirl.config import CONFIG_ROOT, Count, Section, read_yaml
from hirl.files import make_folder, sha256

MANIFEST = CONFIG_ROOT / "weights.yaml"
WAITS = (1, 4, 16)  # seconds before a broken download is resumed
TIMEOUT = 60  # seconds without data after which a connection counts as broken
CHUNK = 2**20  # bytes


class PublishedWeights(Section):
    """One file of the authors' model zoo; size (bytes) and sha256 are None if they are not known yet."""

    method: str
    variant: Literal["baseline", "hirl"]
    epochs: Count
    backbone: str
    url: str
    size: Count | None
    sha256: str | None

    @property
    def name(self) -> str:
        """Return the name by which `hirl weights fetch` knows it."""
        return f"{self.method}-{self.variant}"

    @property
    def file(self) -> str:
        """Return the authors' own file name."""
        return Path(urlsplit(self.url).path).name


class Manifest(Section):
    """The content of config/weights.yaml."""

    files: tuple[PublishedWeights, ...]


def published_weights() -> dict[str, PublishedWeights]:
    """Return the authors' files by name, in the order of their table.

    Raises:
        ValueError: config/weights.yaml is malformed.
    """
    try:
        files = Manifest.model_validate(read_yaml(MANIFEST)).files
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{MANIFEST}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    return {weights.name: weights for weights in files}


def recognise(file: str | Path) -> PublishedWeights | None:
    """Return the entry of the authors' file that has this file's name, or None."""
    return next((weights for weights in published_weights().values() if weights.file == Path(file).name), None)


def fetch_weights(name: str, folder: str | Path) -> Path:
    """Download one of the authors' files into a folder; an existing file is only checked.

    A broken download leaves a .part file, from which the next call resumes.

    Raises:
        ValueError: the name is unknown, the server cannot be reached or has no such file, or the file is not the
            one that was published.
    """
    known = published_weights()
    if name not in known:
        raise ValueError(f"there are no published weights {name!r}: choose {', '.join(known)}")
    weights = known[name]
    make_folder(folder)
    target = Path(folder) / weights.file
    if target.exists():
        _check(target, weights)
    else:
        print(f"{weights.url} -> {target}", flush=True)
        _download(weights, target)
    if weights.size is None or weights.sha256 is None:
        print(f"in {MANIFEST.name}, {name} can now say  size: {target.stat().st_size}, sha256: {sha256(target)}")
    return target


def _check(path: Path, weights: PublishedWeights) -> None:
    size, digest = path.stat().st_size, weights.sha256 and sha256(path)
    for key, found, published in (("size", size, weights.size), ("sha256", digest, weights.sha256)):
        if published not in (None, found):
            raise ValueError(
                f"{path} has {key} {found}, but {MANIFEST.name} says {published}: delete the file and fetch it again"
            )


def _download(weights: PublishedWeights, target: Path) -> None:
    """Download to target's .part file, and rename it once it matches the published size and digest.

    Written here because pooch starts a broken download again from its first byte.
    """
    part = target.with_name(f"{target.name}.part")
    with open(part, "ab") as sink:
        try:
            fcntl.flock(sink, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{part} is being written by another process: wait for it, or stop it") from error
        _receive_all(weights.url, sink)
        sink.flush()
        os.fsync(sink.fileno())
        try:
            _check(part, weights)
        except ValueError:
            part.unlink()
            raise
        part.replace(target)


def _receive_all(url: str, sink: BinaryIO) -> None:
    """Receive a whole file into sink, reconnecting after each wait of WAITS."""
    for wait in (*WAITS, None):
        try:
            return _receive(url, sink)
        except (OSError, HTTPException) as error:
            refused = isinstance(error, HTTPError) and error.code < 500
            if refused or wait is None:
                raise ValueError(
                    f"cannot fetch {url} ({error}): check the network, and the address in {MANIFEST}; "
                    f"{sink.tell()} bytes are kept in {sink.name}"
                ) from error
            time.sleep(wait)


def _receive(url: str, sink: BinaryIO) -> None:
    """Append the rest of a file to sink, or all of it if the server does not support ranges.

    Raises:
        OSError, HTTPException: the connection broke; the bytes received so far are kept.
    """
    done = sink.tell()
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={done}-"}), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers["Content-Range"] == f"bytes */{done}":
            return  # the file was complete
        _empty(sink)
        raise ConnectionError(f"the file is shorter than the {done} bytes already received") from error
    with response:
        if response.status != 206:
            _empty(sink)
        start = sink.tell()
        shutil.copyfileobj(response, sink, CHUNK)
        length = response.headers["Content-Length"]
        if length is not None and sink.tell() - start != int(length):
            raise ConnectionError(f"cut off after {sink.tell()} bytes")


def _empty(sink: BinaryIO) -> None:
    sink.truncate(0)
    sink.seek(0)

"""The authors' published weights: the list, and a download that survives what networks do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from hirl.config import load_study
from hirl.models import zoo
from hirl.models.zoo import fetch_weights, published_weights, recognise

CONTENT = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(HTTPServer):
    """Serves CONTENT, as awkwardly as told; remembers the ranges it was asked for."""

    ranges = True  # whether it can start in the middle
    cuts: tuple[int, ...] = ()  # bytes after which the next connections break
    status: int | None = None  # an error for every request

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}/some_200eps_backbone.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.server.asked.append(start)
        if self.server.status:
            return self.send_error(self.server.status)
        if not self.server.ranges:
            start = 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            return self.end_headers()
        self.send_response(206 if self.server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT)
        if self.server.cuts:
            end, *self.server.cuts = self.server.cuts
        self.wfile.write(CONTENT[start:end])
        return None

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def publish(server, tmp_path, monkeypatch) -> Callable[..., None]:
    """Lists the served file as the weights `swav-hirl`."""

    def write(**known: object) -> None:
        row = {"method": "swav", "variant": "hirl", "epochs": 200, "backbone": "resnet50", "url": server.url}
        path = tmp_path / "weights.yaml"
        path.write_text(yaml.safe_dump({"files": [row | {"size": None, "sha256": None} | known]}))
        monkeypatch.setattr(zoo, "MANIFEST", path)

    monkeypatch.setattr(zoo, "WAITS", (0, 0))
    write(size=len(CONTENT), sha256=DIGEST)
    return write


@pytest.fixture
def folder(publish, tmp_path) -> Path:
    return tmp_path / "downloads"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_has_both_variants_of_every_row_of_the_authors_table() -> None:
    known = published_weights()
    methods = ("mocov2", "simsiam", "swav", "swav_800", "mocov3", "dino", "ibot", "beit")
    assert list(known) == [f"{method}-{variant}" for method in methods for variant in ("baseline", "hirl")]
    assert all(weights.file.startswith("hirl_") == (weights.variant == "hirl") for weights in known.values())
    assert len({weights.url for weights in known.values()}) == len(known)
    assert known["swav_800-hirl"].url.endswith(".amazonaws.com/hirl_swav_800eps_backbone.pth")


@pytest.mark.parametrize("weights", published_weights().values(), ids=lambda weights: weights.name)
def test_the_list_agrees_with_the_methods_own_files(weights) -> None:
    config = load_study("imagenet").resolve(weights.method, weights.variant)
    assert (config.backbone.name, config.training.epochs) == (weights.backbone, weights.epochs)


def test_a_file_is_recognised_by_its_name(tmp_path) -> None:
    assert recognise(tmp_path / "hirl_dino_400eps_backbone.pth").name == "dino-hirl"
    assert recognise("checkpoint_0100.pth") is None


def test_a_mistake_in_the_list_is_named(publish) -> None:
    publish(variant="hril")
    with pytest.raises(ValueError, match=r"weights\.yaml: files\.0\.variant: Input should be 'baseline' or 'hirl'"):
        published_weights()


# --- the download -----------------------------------------------------------------------------------------------------


def test_a_download_is_the_file_under_the_authors_name(folder) -> None:
    path = fetch_weights("swav-hirl", folder)
    assert path == folder / "some_200eps_backbone.pth"
    assert path.read_bytes() == CONTENT
    assert files(folder) == [path.name]


def test_a_file_that_is_there_is_not_fetched_again(folder, server) -> None:
    fetch_weights("swav-hirl", folder)
    fetch_weights("swav-hirl", folder)
    assert server.asked == [0]


def test_a_cut_connection_goes_on_where_it_was_cut(folder, server) -> None:
    server.cuts = (1000, 500_000)
    assert fetch_weights("swav-hirl", folder).read_bytes() == CONTENT
    assert server.asked == [0, 1000, 500_000]


def test_a_server_that_cannot_start_in_the_middle_starts_anew(folder, server) -> None:
    server.ranges, server.cuts = False, (1000,)
    assert fetch_weights("swav-hirl", folder).read_bytes() == CONTENT
    assert server.asked == [0, 1000]


def test_a_call_that_gave_up_keeps_what_it_got_for_the_next(folder, server) -> None:
    server.cuts = (1000, 2000, 3000)
    with pytest.raises(ValueError, match=r"cannot fetch .*cut off after 3000 bytes.* 3000 bytes are kept in .*\.part"):
        fetch_weights("swav-hirl", folder)
    assert files(folder) == ["some_200eps_backbone.pth.part"]
    assert fetch_weights("swav-hirl", folder).read_bytes() == CONTENT
    assert server.asked == [0, 1000, 2000, 3000]


@pytest.mark.parametrize(("kept", "asked"), [(CONTENT, [len(CONTENT)]), (CONTENT + b"more", [len(CONTENT) + 4, 0])])
def test_a_part_as_long_as_the_file_is_the_file_and_a_longer_one_is_not(folder, server, kept, asked) -> None:
    folder.mkdir()
    (folder / "some_200eps_backbone.pth.part").write_bytes(kept)
    assert fetch_weights("swav-hirl", folder).read_bytes() == CONTENT
    assert server.asked == asked


@pytest.mark.parametrize(("key", "value"), [("sha256", "0" * 64), ("size", 12)])
def test_a_download_that_is_not_what_was_published_leaves_nothing(folder, publish, key, value) -> None:
    publish(**{key: value})
    with pytest.raises(ValueError, match=rf"has {key} .*, but weights\.yaml says {value}: delete the file"):
        fetch_weights("swav-hirl", folder)
    assert files(folder) == []


def test_a_file_that_is_there_and_wrong_stays_and_is_named(folder) -> None:
    folder.mkdir()
    (folder / "some_200eps_backbone.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match=rf"some_200eps_backbone\.pth has size 4, but .* says {len(CONTENT)}"):
        fetch_weights("swav-hirl", folder)
    assert files(folder) == ["some_200eps_backbone.pth"]


def test_what_is_not_known_of_a_file_is_told_for_the_list(folder, publish, capsys) -> None:
    publish(size=None, sha256=None)
    fetch_weights("swav-hirl", folder)
    told = f"in weights.yaml, swav-hirl can now say  size: {len(CONTENT)}, sha256: {DIGEST}"
    assert told in capsys.readouterr().out


def test_an_unknown_name_lists_the_known(folder) -> None:
    with pytest.raises(ValueError, match=r"no published weights 'swav': choose swav-hirl$"):
        fetch_weights("swav", folder)


def test_a_missing_file_is_not_asked_for_twice(folder, server) -> None:
    server.status = 404
    with pytest.raises(ValueError, match=r"cannot fetch http.* \(HTTP Error 404: Not Found\)"):
        fetch_weights("swav-hirl", folder)
    assert server.asked == [0]


def test_a_server_in_trouble_is_asked_again(folder, server) -> None:
    server.status = 503
    with pytest.raises(ValueError, match="HTTP Error 503"):
        fetch_weights("swav-hirl", folder)
    assert server.asked == [0, 0, 0]


def test_no_network_is_one_line(folder, publish) -> None:
    publish(url="http://host.invalid/some_200eps_backbone.pth")
    with pytest.raises(ValueError, match=r"^cannot fetch http://host\.invalid/.*: check the network.*$"):
        fetch_weights("swav-hirl", folder)


def test_two_calls_do_not_write_one_file(folder, server) -> None:
    import fcntl

    folder.mkdir()
    with open(folder / "some_200eps_backbone.pth.part", "ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"\.part is being written by another process"):
            fetch_weights("swav-hirl", folder)
    assert server.asked == []

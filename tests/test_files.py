from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from hirl.files import (
    atomic_path,
    is_locked,
    locked,
    pack_metadata,
    read_json,
    sha256,
    unpack_metadata,
    write_json,
    write_text,
)


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("1 2 3")
        assert not path.exists()
        assert temporary.suffix == ".txt"  # writers that look at the suffix see the right one
    assert path.read_text() == "1 2 3"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, "old"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "numbers.txt"
    if before is not None:
        path.write_text(before)

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_folder_that_cannot_be_made_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write .*file/results/x\.txt: .*; choose a folder you may write to"):
        write_text(tmp_path / "file" / "results" / "x.txt", "1")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"levels": [[1, 2], [3]], "name": "×", "nothing": None}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


def test_a_missing_or_torn_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json is missing"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text('{"levels": [1,')
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        read_json(tmp_path / "torn.json")


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _hold(folder: Path, held: object, done: object) -> None:
    with locked(folder):
        held.set()
        done.wait()


def test_one_process_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, done))
    holder.start()
    assert held.wait(timeout=30)
    with pytest.raises(ValueError, match=r"is in use by another process: wait for it, or stop it"), locked(tmp_path):
        pytest.fail("two hold the lock")
    holder.kill()
    holder.join()
    with locked(tmp_path):
        pass


def test_a_lock_in_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose a folder you may write to"), locked(tmp_path / "file" / "scratch"):
        pytest.fail("there is nothing to lock")


def test_a_lock_is_seen_and_looking_takes_none(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_metadata_are_one_key_in_one_order_and_come_back() -> None:
    values = {"backbone": "resnet8", "method": "dino"}
    packed = {"hirl": '{"backbone": "resnet8", "method": "dino"}'}
    assert pack_metadata(values) == pack_metadata(dict(reversed(values.items()))) == packed
    assert unpack_metadata(pack_metadata(values)) == values


def test_metadata_that_others_wrote_are_read_too() -> None:
    assert unpack_metadata(None) == {}
    assert unpack_metadata({"backbone": "resnet8", "format": "pt"}) == {"backbone": "resnet8", "format": "pt"}

"""One process finds what it gave; several find each other's rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hirl.distributed import collectives
from tests.run_on_ranks import on_two_ranks

SHARDED = ((6, torch.float32), (5, torch.int64), (1, torch.int64), (4, torch.bool))  # how many rows there are in all


def rows_of(numbers: range, dtype: torch.dtype) -> torch.Tensor:
    """[len(numbers), 2]: each number twice."""
    return torch.tensor(numbers, dtype=dtype).view(-1, 1).expand(-1, 2)


def of_each() -> dict[str, Any]:
    """What one rank sees of itself and of the others, whose rows are their own number."""
    number = collectives.rank()
    return {
        "place": (collectives.world_size(), number, collectives.is_main_process()),
        "share": collectives.local_slice(torch.arange(8).view(4, 2)),
        "columns": collectives.local_slice(torch.arange(8).view(2, 4), dim=1),
        "shard": [collectives.shard_range(count) for count in (0, 1, 5, 6)],
        "gather": collectives.gather(torch.full((2, 3), number)),
        "flags": collectives.gather(torch.tensor([number == 0])),
        "strided": collectives.gather(torch.arange(4).view(2, 2).t() + 4 * number),
        "mean": collectives.mean(torch.tensor([1.0, 3.0]) * number),
        "scalar": collectives.mean(torch.tensor(float(number))),
        "from_first": collectives.broadcast_object(lambda: {"maker": number, "rows": torch.tensor([number])}),
        "shards": [
            collectives.gather_shards(
                torch.tensor(collectives.shard_range(count), dtype=dtype).view(-1, 1).expand(-1, 2), count
            )
            for count, dtype in SHARDED
        ],
    }


def same(one: Any, other: Any) -> bool:
    return torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_one_process_gets_back_what_it_gave() -> None:
    alone = of_each()
    assert alone["place"] == (1, 0, True)
    assert same(alone["share"], torch.arange(8).view(4, 2))
    assert same(alone["columns"], torch.arange(8).view(2, 4))
    assert alone["shard"] == [range(count) for count in (0, 1, 5, 6)]
    assert same(alone["gather"], torch.zeros(2, 3))
    assert same(alone["mean"], [0.0, 0.0])
    assert [len(rows) for rows in alone["shards"]] == [6, 5, 1, 4]


def test_two_ranks_share_and_gather() -> None:
    first, second = on_two_ranks(of_each)
    assert [each["place"] for each in (first, second)] == [(2, 0, True), (2, 1, False)]
    assert same(torch.cat([first["share"], second["share"]]), torch.arange(8).view(4, 2))
    assert same(torch.cat([first["columns"], second["columns"]], dim=1), torch.arange(8).view(2, 4))
    assert [list(part) for part in first["shard"]] == [[], [0], [0, 1, 2], [0, 1, 2]]
    assert [list(part) for part in second["shard"]] == [[], [], [3, 4], [3, 4, 5]]
    for each in (first, second):
        assert same(each["gather"], [[0] * 3] * 2 + [[1] * 3] * 2)
        assert same(each["flags"], [True, False])
        assert same(each["strided"], [[0, 2], [1, 3], [4, 6], [5, 7]])
        assert same(each["mean"], [0.5, 1.5])
        assert same(each["scalar"], 0.5)
        assert each["from_first"]["maker"] == 0
        assert same(each["from_first"]["rows"], [0])
    assert second["shards"] == [None] * 4
    for rows, (count, dtype) in zip(first["shards"], SHARDED, strict=True):
        assert same(rows, torch.arange(count)[:, None].expand(-1, 2).to(dtype))
        assert rows.dtype == dtype


def test_without_torchrun_there_is_nobody_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with collectives.process_group():
        assert not torch.distributed.is_initialized()

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor, nn

from hirl.distributed.launch import CHOSEN
from hirl.files import locked
from hirl.training import core, progress
from hirl.training.checkpoint import load_checkpoint
from tests.training.small_training import CONFIG, PER_EPOCH, loss_of, new_network, train


def test_precision_decides_the_autocast(tmp_path) -> None:
    seen = {}
    for precision in ("fp32", "bf16"):
        network = new_network()

        def loss(batch: Tensor, network: nn.Module = network, precision: str = precision) -> Tensor:
            output = network(batch)
            seen[precision] = output.dtype
            return output.float().square().mean()

        train(tmp_path / precision, network, loss, config=CONFIG.model_copy(update={"precision": precision}))
    assert seen == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_long_epochs_are_told_in_between(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", -1)
    train(tmp_path, new_network())
    _, *first = capsys.readouterr().out.splitlines()[:5]
    assert [line.split("  loss")[0] for line in first] == [
        "run  epoch 1/4  step 1/3",
        "run  epoch 1/4  step 2/3",
        "run  epoch 1/4  step 3/3",
        "run  epoch 1/4",
    ]


def test_the_state_of_something_else_is_refused(tmp_path) -> None:
    train(tmp_path, new_network())
    with pytest.raises(ValueError, match="holds the checkpoint of another configuration, other data") as caught:
        train(tmp_path, new_network(), fingerprint="other")
    assert str(tmp_path) in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_last_good_state(tmp_path) -> None:
    network, seen = new_network(), []

    def loss(batch: Tensor) -> Tensor:
        seen.append(batch)
        return loss_of(network)(batch) * (math.inf if len(seen) > 2 * PER_EPOCH else 1)

    with pytest.raises(
        ValueError, match=r"^run: the loss is not finite in epoch 3, by step 3; the state after 2"
    ) as caught:
        train(tmp_path, network, loss)
    assert "\n" not in str(caught.value)
    assert len(load_checkpoint(tmp_path)["history"]) == 2


def test_a_finished_epoch_is_told_in_one_line(tmp_path, capsys) -> None:
    history = train(tmp_path, new_network())
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("run  trains 4 epochs of 3 steps of 128  cpu, ")
    assert len(lines) == 4
    for epoch, (row, line) in enumerate(zip(history, lines, strict=True), 1):
        assert line.startswith(f"run  epoch {epoch}/4  loss {row['loss']:.3f}  ")
        assert line.endswith(" images/s" if epoch == 4 else " s left")


def test_a_resumed_training_says_where_it_goes_on(tmp_path, capsys, stopped_after_one_epoch) -> None:
    with stopped_after_one_epoch():
        train(tmp_path, new_network())
    capsys.readouterr()
    train(tmp_path, new_network())
    assert capsys.readouterr().out.splitlines()[0] == "run  resumes after epoch 1/4"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("set_by_the_user", "remark", "threads"),
    [
        (False, "threads: 2 as before (1 would be chosen now)", [2, 2, 2, 2]),
        (True, "threads: 1 instead of 2, so it rounds differently from here", [2, 1, 1, 1]),
    ],
)
def test_a_resumed_training_keeps_its_number_of_threads_or_says_that_it_differs(
    tmp_path, capsys, monkeypatch, stopped_after_one_epoch, set_by_the_user: bool, remark: str, threads: list[int]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv(CHOSEN, raising=False) if set_by_the_user else monkeypatch.setenv(CHOSEN, "1")
    torch.set_num_threads(2)
    with stopped_after_one_epoch():
        train(tmp_path, new_network())
    torch.set_num_threads(1)
    capsys.readouterr()
    history = train(tmp_path, new_network())
    assert capsys.readouterr().out.splitlines()[0] == f"run  resumes after epoch 1/4  {remark}"
    assert [row["threads"] for row in history] == threads


@pytest.mark.parametrize(("clip_norm", "length"), [(None, 5.0), (1.0, 1.0), (7.0, 5.0)])
def test_a_step_clips_no_gradients_but_those_it_is_given(clip_norm: float | None, length: float) -> None:
    clipped, free = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = torch.optim.SGD([clipped, free], lr=1.0)
    slope = torch.tensor([3.0, 4.0])
    core.descend((slope * (clipped + free)).sum(), optimizer, [clipped], clip_norm)
    assert clipped.norm().item() == pytest.approx(length, rel=1e-5)  # clipping adds 1e-6 to the norm
    assert free.tolist() == [-3.0, -4.0]


def test_gradients_of_an_earlier_step_are_forgotten() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    core.descend(2 * parameter.sum(), torch.optim.SGD([parameter], lr=1.0), [], None)
    assert parameter.item() == -2.0


def test_the_folder_of_a_training_is_locked(tmp_path) -> None:
    with core.lock_scratch(tmp_path), pytest.raises(ValueError, match="is in use by another process"), locked(tmp_path):
        pass

from __future__ import annotations

from rich.table import Table

from hirl.reporting.console import wide_console


def test_a_row_wider_than_the_window_stays_on_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("key", "value")
    table.add_row("evaluation.semisup_10.optimizer.final_weight_decay", "None" * 10)
    wide_console(table).print(table)
    rows = [line for line in capsys.readouterr().out.splitlines() if "final_weight_decay" in line]
    assert len(rows) == 1
    assert "None" * 10 in rows[0]

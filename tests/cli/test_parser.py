from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hirl.cli import main


@pytest.mark.parametrize(
    "arguments", [(), ("pretran",), ("pretrain", "--method", "simsiam"), ("evaluate", "knm"), ("publish", "shrink")]
)
def test_wrong_arguments_end_in_exit_code_2(arguments: tuple[str, ...], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help_imports_no_heavy_package() -> None:
    """Every job imports what the parser imports, so heavy packages must not be among it."""
    heavy = (
        "torch",
        "numpy",
        "timm",
        "lightly",
        "mlflow",
        "faiss",
        "sklearn",
        "matplotlib",
        "pandas",
        "snakemake",
        "dvc",
    )
    code = f"""
import contextlib, sys
from hirl.cli import main
from hirl.config import CONFIG_ROOT
with contextlib.suppress(SystemExit):
    main(["--help"])
print("heavy:", *(name for name in {heavy} if name in sys.modules))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.startswith("usage: hirl")
    assert answer.splitlines()[-1] == "heavy:"


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("hirl")
    answer = subprocess.run([command, "config", "show", "--study", "none"], capture_output=True, text=True)
    assert answer.returncode == 2

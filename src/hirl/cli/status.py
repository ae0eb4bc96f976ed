from typing import Any


def add(steps: Any) -> None: ...

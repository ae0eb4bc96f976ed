"""Sample the load of the machine during a long training: processor, memory and GPUs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

SECONDS = 60.0  # between two samples; a shorter training has none


class MachineSampler:
    """Take a sample every minute, in a thread that ends with the process.

    Args:
        take: gets each sample.
    """

    def __init__(self, take: Callable[[dict[str, float]], None], seconds: float = SECONDS):
        self.take, self.seconds = take, seconds
        self.stopped = threading.Event()
        threading.Thread(target=self._run, name="machine", daemon=True).start()

    def stop(self) -> None:
        """Take no more samples."""
        self.stopped.set()

    def _run(self) -> None:
        sample()  # the load of the processor is that since the last call
        while not self.stopped.wait(self.seconds):
            if found := sample():
                self.take(found)


def sample() -> dict[str, float]:
    """Return the load of the processor, main memory and each GPU by MLflow's names; nothing where psutil is missing."""
    try:
        import psutil
    except ImportError:
        return {}
    memory = psutil.virtual_memory()
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        "system_memory_usage_percentage": memory.percent,
    } | _gpus()


def _gpus() -> dict[str, float]:
    """Return memory and load of the GPUs that this process uses; the load needs nvidia-ml-py."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found = {}
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found[f"gpu_{number}_memory_usage_megabytes"] = round((total - free) / 1e6, 1)
        found[f"gpu_{number}_memory_usage_percentage"] = round(100 * (total - free) / total, 1)
        try:
            found[f"gpu_{number}_utilization_percentage"] = float(torch.cuda.utilization(number))
        except (ImportError, RuntimeError):
            continue
    return found

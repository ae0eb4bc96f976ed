"""Measure this project on one GPU within a few minutes, and write docs/performance_gpu.md; `make gpu` runs it.

PYTHONPATH=src python benchmarks/gpu.py [--minutes 9] [--data FOLDER] [--results FILE] [--page FILE]

It needs no network, no installation of this project, and of its dependencies only those of the training core. It names
the missing ones first, with a command that downloads them elsewhere. Every part runs in a process of its own, the most
valuable part first, and may take the seconds of its budget; what then does not fit is left out, and said to be. Every
number is saved as soon as it is measured. A second call measures what is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from gpu_page import write_page

from hirl.files import read_json, write_json
from hirl.tracking.record import environment

ROOT = Path(__file__).resolve().parents[1]
PARTS_SCRIPT = Path(__file__).with_name("gpu_parts.py")
LEAST = 20  # seconds below which no part is started
RESERVE = 5  # seconds to write the page
NEEDED = {  # packages that the training core imports: the name in an import statement, and the distribution's
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
    "timm": "timm",
    "huggingface_hub": "huggingface-hub",  # timm imports it
    "lightly": "lightly",
    "lightning_utilities": "lightning-utilities",  # lightly's transforms import it
    "packaging": "packaging",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "annotated_types": "annotated-types",
    "typing_inspection": "typing-inspection",
    "typing_extensions": "typing-extensions",
    "tqdm": "tqdm",
}


class Part(NamedTuple):
    """A part of the measurement, and the seconds it may take at first; later all that are left."""

    name: str
    budget: int


PARTS = (  # the most valuable first
    Part("tests", 60),
    Part("steps", 210),
    Part("kmeans", 60),
    Part("path_loss", 40),
    Part("compile", 90),
    Part("input", 60),
    Part("plan", 60),
    Part("tune", 160),
    Part("training", 540),
)
Result = dict[str, Any]
Runner = Callable[[list[str], float], str]  # arguments of gpu_parts.py, seconds -> "" or what went wrong


def main(arguments: list[str] | None = None, run: Runner | None = None) -> int:
    args = parser().parse_args(arguments)
    started = time.monotonic()
    if lacking := missing():
        print(carry_command(lacking), file=sys.stderr)
        return 2
    import torch

    if not (torch.cuda.is_available() or args.rehearse):
        print("make gpu: torch sees no GPU here: run it where `nvidia-smi` lists one", file=sys.stderr)
        return 2
    results = open_results(args, environment())
    measure(args, results, started + 60 * args.minutes - RESERVE, run or run_part)
    print(f"Page:  {args.page}\nNumbers:  {args.results}")
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=9, help="that a call may take (default %(default)s)")
    options.add_argument("--data", type=Path, help="a folder with torchvision's CIFAR-10, for a training to look at")
    options.add_argument("--results", type=Path, default=ROOT / "scratch" / "gpu.json", help="file of all numbers")
    options.add_argument("--page", type=Path, default=ROOT / "docs" / "performance_gpu.md")
    options.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="default: all")
    options.add_argument("--commit", help="of this copy, if it is no git repository")
    options.add_argument("--rehearse", action="store_true", help="tiny sizes, on any device: numbers without meaning")
    return options


# --- packages ---------------------------------------------------------------------------------------------------------


def missing() -> list[str]:
    """Return the distributions of the training core that are missing here or older than pyproject.toml allows."""
    floors = core_floors((ROOT / "pyproject.toml").read_text())
    return [name for module, name in NEEDED.items() if find_spec(module) is None or too_old(name, floors.get(name))]


def core_floors(pyproject: str) -> dict[str, str]:
    """Return the lowest version of every dependency that has one."""
    dependencies = tomllib.loads(pyproject)["project"]["dependencies"]
    found = (re.match(r"([\w.-]+)>=([\d.]+)", dependency) for dependency in dependencies)
    return {match[1]: match[2] for match in found if match}


def too_old(name: str, floor: str | None) -> bool:
    if floor is None:
        return False
    return numbers(importlib.metadata.version(name)) < numbers(floor)


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version.partition("+")[0])]


def carry_command(lacking: Iterable[str]) -> str:
    """Return what is missing, how to download it on a machine with a network, and how to install it on this one."""
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    names = " ".join(f"{name}=={locked[name]}" if name in locked else name for name in lacking)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms = " ".join(
        f"--platform {kind}_{platform.machine()}" for kind in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
    )
    download = f"pip download --no-deps --only-binary=:all: --python-version {python} {platforms} -d wheels {names}"
    install = f"{sys.executable} -m pip install --no-index --no-deps --target site wheels/*.whl"
    return (
        f"make gpu: missing or too old: {' '.join(lacking)}\n"
        f"Where there is a network:  {download}\n"
        f"Here, with that folder:    {install} && export PYTHONPATH=$PWD/site"
    )


# --- results ----------------------------------------------------------------------------------------------------------


def open_results(args: argparse.Namespace, found: Result) -> Result:
    """Return the results of earlier calls, or empty ones if they are of other code, another GPU or another torch."""
    where = {key: found[key] for key in ("processor", "cores", "memory_gb", "gpu", "python", "torch", "git_commit")}
    where |= {"date": datetime.now(UTC).date().isoformat(), "rehearsal": args.rehearse}
    where["git_commit"] = args.commit or where["git_commit"]
    if args.results.exists():
        earlier = read_json(args.results)
        if same_place(earlier["where"], where):
            return earlier
        print(f"{args.results} has numbers of another commit, GPU or torch: all parts are measured anew")
    for part in PARTS:
        own_file(args.results, part.name).unlink(missing_ok=True)
    results: Result = {"where": where, "parts": {}}
    write_json(args.results, results)
    return results


def same_place(one: Result, other: Result) -> bool:
    """Whether two results may stand on one page; the page itself makes a commit dirty."""

    def decisive(where: Result) -> list[Any]:
        commit = where["git_commit"].removesuffix("-dirty")
        return [commit, *(where[key] for key in ("gpu", "torch", "rehearsal"))]

    return decisive(one) == decisive(other)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace, results: Result, end: float, run: Runner) -> None:
    """Measure every missing part within its budget, then those that were cut within what is left; write the page.

    Args:
        end: when to be done, by time.monotonic().
    """
    asked = [part for part in PARTS if args.parts is None or part.name in args.parts]
    if args.data is None:
        asked = [part for part in asked if part.name != "training"]
    write_page(results, args.page)
    for again in (False, True):
        for part in asked:
            state = results["parts"].get(part.name, {})
            if state.get("status") == "done" or (again and state.get("status") != "cut"):
                continue
            left = end - time.monotonic()
            if left < (0 if args.rehearse else LEAST):
                results["parts"][part.name] = {"items": {}, "seconds": 0.0} | state | {"status": "left out"}
            else:
                results["parts"][part.name] = measure_part(part, left if again else min(part.budget, left), args, run)
            write_json(args.results, results)
            write_page(results, args.page)


def measure_part(part: Part, seconds: float, args: argparse.Namespace, run: Runner) -> Result:
    """Run a part for so many seconds at most; return its state, with the items of earlier calls."""
    print(f"== {part.name}: at most {seconds:.0f} s", flush=True)
    started = time.monotonic()
    earlier = read_json(args.results)["parts"].get(part.name, {})
    own = own_file(args.results, part.name)
    items = read_json(own)["items"] if own.exists() else {}  # of a call that was killed
    write_json(own, {"items": earlier.get("items", {}) | items, "errors": {}})
    options = ["--out", str(own), "--seconds", f"{seconds:.0f}"]
    options += ["--data", str(args.data)] if args.data else []
    options += ["--rehearse"] if args.rehearse else []
    problem = run([part.name, *options], seconds)
    state = read_json(own)
    own.unlink()
    took = earlier.get("seconds", 0.0) + time.monotonic() - started
    errors = state["errors"] | ({"": problem} if problem not in ("", "cut") else {})
    status = "cut" if problem == "cut" else "failed" if errors else "done"
    print(f"   {status}, {time.monotonic() - started:.0f} s", *errors.values(), sep="\n   ", flush=True)
    return {"status": status, "seconds": took, "items": state["items"], "errors": errors}


def own_file(results: Path, part: str) -> Path:
    """Return the file that a part's process alone writes, while it runs."""
    return results.with_name(f"{results.stem}-{part}.json")


def run_part(arguments: list[str], seconds: float) -> str:
    """Run gpu_parts.py for so many seconds at most; return "", "cut", or how it ended."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(PARTS_SCRIPT), *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, process_group=0) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill_group(process.pid)  # its workers too
    if code is None or code == -signal.SIGALRM:
        return "cut"
    return "" if code == 0 else f"ended with code {code}"


def kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

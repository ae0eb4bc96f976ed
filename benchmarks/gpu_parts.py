"""Measure one part of `make gpu`: benchmarks/gpu.py runs this script in a process of its own, for each part.

python benchmarks/gpu_parts.py steps --out FILE --seconds 200 [--data FOLDER] [--rehearse]

A part consists of items. Each item that FILE does not have yet is measured, and saved at once.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hirl.config import RunConfig, TreeKMeansConfig, load_study
from hirl.data.sources import SOURCES
from hirl.distributed.device import choose_device
from hirl.files import read_json, write_json
from hirl.planning.step_benchmark import StepBenchmark, measure_matmul_flops, with_training

ROOT = Path(__file__).resolve().parents[1]
Item = dict[str, Any]
IMAGENET_IMAGES = SOURCES["imagenet"].num_images[0]


@dataclass(frozen=True)
class Sizes:
    """How large everything is: as in the paper on one GPU, or tiny for a rehearsal.

    Attributes:
        study: of the runs whose steps are measured.
        batches: the first batch size to try for each method; it is halved until a step fits into memory.
        rounds: of steps; the best counts.
        steps: of a round.
        points: of k-means: images, clusters per level, width.
        paths: of the path loss: name -> images, clusters per level, width, negative paths.
        files: images read by our loader, and by the plain one.
        tune: study and method of `hirl tune`.
        plan: methods of `hirl plan --check`, and how many ranks share a batch.
        epochs: of the training, at most.
    """

    study: str
    batches: dict[str, int]
    rounds: int
    steps: int
    points: tuple[int, tuple[int, ...], int]
    paths: dict[str, tuple[int, tuple[int, ...], int, int]]
    files: tuple[int, int]
    tune: tuple[str, str]
    plan: tuple[tuple[str, ...], int]
    epochs: int


PAPER_TREE = (30000, 10000, 1000)
FULL = Sizes(
    study="imagenet",
    batches={"dino": 128, "mocov2": 512, "mocov3": 256, "simsiam": 512, "ibot": 128, "swav": 256, "beit": 512},
    rounds=3,
    steps=4,
    points=(IMAGENET_IMAGES, PAPER_TREE, 256),
    paths={"SimSiam": (32, PAPER_TREE, 2048, 1000), "MoCo v3": (256, PAPER_TREE, 256, 1000)},
    files=(32_768, 4_096),
    tune=("cifar10", "mocov3"),
    plan=(("mocov3", "simsiam"), 16),
    epochs=200,
)
TINY = Sizes(
    study=str(ROOT / "tests" / "tiny.yaml"),
    batches={"dino": 8, "mocov2": 8},
    rounds=1,
    steps=1,
    points=(256, (6, 3), 16),
    paths={"SimSiam": (4, (6, 3, 2), 16, 8)},
    files=(4, 4),
    tune=(str(ROOT / "tests" / "tiny.yaml"), "mocov3"),
    plan=(("mocov3",), 2),
    epochs=1,
)


@dataclass(frozen=True)
class Call:
    """What the items of a part need to know."""

    sizes: Sizes
    device: torch.device
    end: float  # when to be done, by time.monotonic()
    data: Path | None = None


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if not args.rehearse:
        signal.alarm(math.ceil(args.seconds) + 5)  # ends this process if its parent was killed
    end = time.monotonic() + args.seconds
    call = Call(TINY if args.rehearse else FULL, choose_device(), end, args.data)
    state = read_json(args.out)
    for name, item in PARTS[args.part](call).items():
        if name in state["items"]:
            continue
        started = time.monotonic()
        try:
            state["items"][name] = item() | {"took": time.monotonic() - started}
        except Exception as error:  # one item that fails must not cost the others
            state["errors"][name] = f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        write_json(args.out, state)
        free_memory()
    return 0


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("part", choices=PARTS)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--seconds", type=float, required=True)
    options.add_argument("--data", type=Path)
    options.add_argument("--rehearse", action="store_true")
    return options


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_seconds(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Return the seconds of the best round, after one that does not count."""
    taken = []
    for _ in range(1 + rounds):
        wait(device)
        started = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def peak_gib(work: Callable[[], object], device: torch.device, in_all: bool = False) -> float:
    """Return by how much a GPU's memory in use rises at most, or its peak in all, in GiB; 0 on a CPU."""
    if device.type != "cuda":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    before = 0 if in_all else torch.cuda.memory_allocated(device)
    work()
    wait(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30


# --- the tests that need a GPU ----------------------------------------------------------------------------------------


def tests(call: Call) -> dict[str, Callable[[], Item]]:
    return {"gpu": run_tests}


def run_tests() -> Item:
    """Run the tests that are marked gpu; only their files, since others import packages that may be missing."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in path.read_text()]
    options = ["-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    plain = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins of other packages may be broken here
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    if "No module named pytest" in done.stderr:
        raise ValueError("pytest is missing: carry it as the other packages")
    counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    if not counts:
        raise ValueError(f"pytest ended with code {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    failures = re.findall(r"^(?:FAILED|ERROR) (.+)$", done.stdout, re.MULTILINE)
    return {"passed": 0, "failed": 0, "skipped": 0} | counts | {"failures": failures}


# --- steps ------------------------------------------------------------------------------------------------------------


def steps(call: Call) -> dict[str, Callable[[], Item]]:
    return {"machine": partial(measure_machine, call)} | {
        method: partial(measure_steps, call, method) for method in call.sizes.batches
    }


def measure_machine(call: Call) -> Item:
    """Return the rates that steps are compared with: matrix products, and a copy, bytes read and written."""
    source = torch.randn(2**30 if call.device.type == "cuda" else 2**20, device=call.device)
    target = torch.empty_like(source)
    seconds = best_seconds(lambda: target.copy_(source), 5, call.device)
    precisions = ("bf16", "fp32", "tf32") if call.device.type == "cuda" else ("bf16", "fp32")
    rates = {precision: measure_matmul_flops(precision, call.device) for precision in precisions}
    return {"bytes_per_second": 2 * source.nbytes / seconds, "flops": rates}


def halve_until_it_fits(work: Callable[[int], Item], batch: int) -> Item:
    """Return what `work` measures with the largest batch that fits into memory: the first one, its half, and so on."""
    while True:
        try:
            return work(batch)
        except torch.OutOfMemoryError:
            batch //= 2
        free_memory()
        if batch < 2:
            raise ValueError("no step fits into memory")


def run_of(call: Call, method: str, variant: str, batch: int, precision: str = "bf16") -> RunConfig:
    config = load_study(call.sizes.study).resolve(method, variant, 0)
    return with_training(config, batch_size=batch, precision=precision)


def measure_steps(call: Call, method: str) -> Item:
    """Compare a method's steps with plain ones, in images/s; count what a step computes and moves."""
    batch = call.sizes.batches[method]
    ours = halve_until_it_fits(partial(measure_ours, call, method), batch)
    free_memory()
    hirl = halve_until_it_fits(partial(measure_hirl, call, method), ours["batch"])
    free_memory()
    plain = halve_until_it_fits(partial(measure_plain, call, method), batch)
    return ours | {"rates": {"ours": ours.pop("rate"), "HIRL": hirl["rate"]} | plain}


def measure_ours(call: Call, method: str, batch: int) -> Item:
    config = run_of(call, method, "baseline", batch)
    benchmark = StepBenchmark(config, call.device)
    seconds = time_steps(call, benchmark.step)
    memory = peak_gib(benchmark.step, call.device, in_all=True)
    item = {"network": config.backbone.name, "batch": batch, "rate": batch / seconds, "seconds": seconds}
    return item | {"memory_gib": memory} | Counter().count(benchmark.step)


def measure_hirl(call: Call, method: str, batch: int) -> Item:
    return {"rate": batch / time_steps(call, StepBenchmark(run_of(call, method, "hirl", batch), call.device).step)}


def measure_plain(call: Call, method: str, batch: int) -> Item:
    """Return the plain loop's images/s in both precisions; in fp32 it is so slow that one round has to do."""
    loop = PlainLoop(run_of(call, method, "baseline", batch, "fp32"), call.device)
    fp32 = best_seconds(lambda: loop.step("fp32"), 2, call.device)
    return {"plain fp32": batch / fp32, "plain bf16": batch / time_steps(call, lambda: loop.step("bf16"))}


def time_steps(call: Call, step: Callable[[], object]) -> float:
    """Return the seconds of a step."""
    for _ in range(2):
        step()  # kernels are chosen, memory is taken

    def several() -> None:
        for _ in range(call.sizes.steps):
            step()

    return best_seconds(several, call.sizes.rounds, call.device) / call.sizes.steps


class PlainLoop:
    """The same method in a plain loop: torch's default optimiser and memory format, a loss read at every step.

    Views are ready on the device. With "bf16" the forward pass is under autocast; otherwise all is fp32, with torch's
    own default of TF32 in convolutions.
    """

    def __init__(self, config: RunConfig, device: torch.device):
        from recipes import optimizer_of

        benchmark = StepBenchmark(config, device)
        self.device, self.at, self.clip_norm = device, benchmark.at, benchmark.clip_norm
        self.method = benchmark.method.to(memory_format=torch.contiguous_format)
        self.views = [view.contiguous() for view in benchmark.draw_views()]
        self.optimizer = optimizer_of(self.method.parameters(), config)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-6  # tiny, so that random images do not make the loss diverge

    def step(self, precision: str) -> None:
        """Take one step."""
        self.method.before_step(self.at)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = self.method(self.views, self.at).loss
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.clip_norm)
        self.optimizer.step()
        self.method.after_step(self.at)
        loss.item()


class Counter(TorchDispatchMode):
    """Count a step's operations, and the bytes that its kernels read and write, those of matrix products left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.flops = FlopCounterMode(display=False)

    def count(self, step: Callable[[], object]) -> Item:
        """Return what a step computes and moves."""
        with self.flops, self:
            step()
        return {"flop": self.flops.get_total_flops(), "other_bytes": self.bytes}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.flops.get_total_flops()
        out = func(*args, **(kwargs or {}))
        is_product = self.flops.get_total_flops() > before
        if not (is_product or getattr(func, "is_view", False)):
            self.bytes += sum(value.nbytes for value in tensors((args, kwargs, out)))
        return out


def tensors(values: Any) -> Iterable[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from tensors(list(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from tensors(value)


# --- clustering and path loss -----------------------------------------------------------------------------------------


def kmeans(call: Call) -> dict[str, Callable[[], Item]]:
    return {
        "cold": partial(measure_tree, call, warm=False),
        "warm": partial(measure_tree, call, warm=True),
        "plain": partial(measure_plain_pass, call),
    }


def mixture(call: Call) -> Tensor:
    """Draw unit rows around random directions, as far from their direction as random rows are from each other."""
    torch.manual_seed(0)
    count, clusters, width = call.sizes.points
    centers = F.normalize(torch.randn(2 * clusters[0], width, device=call.device), dim=1)
    points = F.normalize(torch.randn(count, width, device=call.device), dim=1)
    points += centers[torch.randint(2 * clusters[0], (count,), device=call.device)]
    return F.normalize(points, dim=1)


def measure_tree(call: Call, warm: bool) -> Item:
    """Return the seconds and the memory of a tree at the paper's settings; "warm" goes on from another tree."""
    from hirl.hierarchy import hierarchical_kmeans

    points, clusters = mixture(call), call.sizes.points[1]
    config = TreeKMeansConfig(backend="torch", warm_iterations=15 if warm else None)
    quick = TreeKMeansConfig(backend="torch", restarts=1, iterations=2)
    last = hierarchical_kmeans(points, clusters, quick)  # libraries load what they load at first use
    wait(call.device)
    started = time.perf_counter()
    memory = peak_gib(lambda: hierarchical_kmeans(points, clusters, config, 0, last if warm else None), call.device)
    wait(call.device)
    return {"seconds": time.perf_counter() - started, "memory_gib": memory, "points": call.sizes.points}


def measure_plain_pass(call: Call) -> Item:
    """Return the seconds of assigning all points to the finest clusters, by torch.cdist in float32 and by ours."""
    from hirl.hierarchy.kmeans import nearest

    points = mixture(call)
    centroids = points[: call.sizes.points[1][0]].clone()

    def plain() -> None:
        for chunk in points.split(8192):
            torch.cdist(chunk, centroids).argmin(dim=1)

    ours = best_seconds(lambda: nearest(points, centroids), 2, call.device)
    return {"plain": best_seconds(plain, 2, call.device), "ours": ours}


def path_loss(call: Call) -> dict[str, Callable[[], Item]]:
    return {name: partial(measure_path_loss, call, *size) for name, size in call.sizes.paths.items()}


def measure_path_loss(call: Call, images: int, clusters: tuple[int, ...], width: int, negatives: int) -> Item:
    """Compare our loss with its literal formula: a forward and a backward pass on the same negatives."""
    from path_loss import LOSSES, Size, make_inputs, step

    embeddings, tree, index, paths = make_inputs(Size(images, clusters, width, negatives))
    embeddings = embeddings.detach().to(call.device).requires_grad_()
    inputs = (embeddings, tree.to(call.device), index.to(call.device), paths.to(call.device))
    item: Item = {"size": [images, clusters, width, negatives]}
    values = {}
    for name, loss in zip(("formula", "ours"), LOSSES.values(), strict=True):
        take = partial(step, loss, *inputs)
        values[name] = take()[0]
        item[name] = {"seconds": best_seconds(take, 5, call.device), "gib": peak_gib(take, call.device)}
        free_memory()
    return item | {"difference": abs(values["ours"] / values["formula"] - 1)}


# --- execution switches -----------------------------------------------------------------------------------------------


def compile_gain(call: Call) -> dict[str, Callable[[], Item]]:
    methods = [method for method in ("mocov3", "simsiam", "mocov2") if method in call.sizes.batches][:2]
    return {method: partial(measure_compile, call, method) for method in methods}


def measure_compile(call: Call, method: str) -> Item:
    """Compare compiled blocks with eager ones."""
    eager = halve_until_it_fits(partial(measure_switch, call, method, False), call.sizes.batches[method])
    free_memory()
    compiled = halve_until_it_fits(partial(measure_switch, call, method, True), eager["batch"])
    return {"eager": eager, "compiled": compiled}


def measure_switch(call: Call, method: str, compiled: bool, batch: int) -> Item:
    config = with_training(run_of(call, method, "baseline", batch), compile=compiled)
    benchmark = StepBenchmark(config, call.device)
    first = benchmark.seconds(2)
    rate = batch / time_steps(call, benchmark.step)
    return {"network": config.backbone.name, "batch": batch, "rate": rate, "first_steps": first}


def tune(call: Call) -> dict[str, Callable[[], Item]]:
    return {"tune": partial(measure_tune, *call.sizes.tune)}


def measure_tune(study: str, method: str) -> Item:
    """Run `hirl tune`."""
    from hirl.planning.tune import recommended
    from hirl.planning.tune import tune as measure

    measured = measure(load_study(study).resolve(method, "hirl", 0))
    batch = load_study(study).resolve(method, "hirl", 0).training.batch_size
    rows = [
        each.settings | {"rate": batch / each.step, "memory_gib": each.memory / 2**30, "start": each.start}
        for each in measured.candidates
    ]
    return {"command": f"hirl tune --study {Path(study).stem} --method {method} --variant hirl", "rows": rows} | {
        "use": recommended(measured.candidates).arguments
    }


# --- input ------------------------------------------------------------------------------------------------------------


def input_rate(call: Call) -> dict[str, Callable[[], Item]]:
    methods = [method for method in ("mocov2", "swav", "dino", "beit") if method in call.sizes.batches]
    return {method: partial(measure_input, call, method) for method in methods}


def measure_input(call: Call, method: str) -> Item:
    """Return the images/s of our loader and of a plain one with Pillow, with a worker per core, start included."""
    from common import crops
    from input import Pictures, draw_files
    from recipes import pil_views
    from torch.utils.data import DataLoader

    from hirl.data.loader import PIECE, Crops, load_in_workers

    views = load_study(call.sizes.study).resolve(method, "baseline", 0).views
    ours, plain = call.sizes.files
    with tempfile.TemporaryDirectory() as folder:
        files = draw_files(Path(folder))
        indices = [(torch.arange(count) % len(files)).split(PIECE) for count in (ours, plain)]
        started = time.perf_counter()
        for _ in load_in_workers(Crops(files, views, 0, 0), indices[0], call.device):
            pass
        wait(call.device)
        ours_taken, started = time.perf_counter() - started, time.perf_counter()
        pictures = Pictures(files, pil_views(views))
        for _ in DataLoader(pictures, batch_sampler=indices[1], num_workers=torch.get_num_threads()):
            pass
        plain_taken = time.perf_counter() - started
    rates = {"ours": ours / ours_taken, "plain": plain / plain_taken}
    return {"crops": crops(views), "workers": torch.get_num_threads(), "rates": rates}


# --- plan -------------------------------------------------------------------------------------------------------------


def plan(call: Call) -> dict[str, Callable[[], Item]]:
    return {"here": partial(check_plan, call)}


def check_plan(call: Call) -> Item:
    """Run `hirl plan --gpu here --check`: compare estimated steps with measured ones."""
    from hirl.planning.machine import find_machine
    from hirl.planning.plan import check_steps

    methods, ranks = call.sizes.plan
    threads = torch.get_num_threads()
    checks = check_steps(load_study(call.sizes.study), find_machine("here"), ranks, methods)
    torch.set_num_threads(threads)  # without a GPU, a machine is one core
    rows = [{"run": each.run, "planned": each.planned, "measured": each.measured} for each in checks]
    return {
        "command": f"hirl plan --study {Path(call.sizes.study).stem} --gpu here --count {ranks} --check",
        "rows": rows,
    }


# --- a training to look at --------------------------------------------------------------------------------------------


def training(call: Call) -> dict[str, Callable[[], Item]]:
    return {"mocov2": partial(train, call)}


def train(call: Call) -> Item:
    """Train MoCo v2 on CIFAR-10, ResNet-18, batches of 128, as many epochs as fit; return its kNN accuracy."""
    from hirl.data.images import prepare
    from hirl.evaluation.features import make_cache
    from hirl.evaluation.knn import knn
    from hirl.tracking.record import Recorder
    from hirl.training.loop import Pretrainer

    overrides = {"training.batch_size": 128, "training.precision": "bf16", "backbone.name": "resnet18_small_images"}
    study = load_study("cifar10")
    config = study.resolve("mocov2", "baseline", 0, overrides)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare(config.data, call.data, data)
        images = read_json(data / "manifest.json")["splits"]["train"]
        seconds = images / 128 * time_steps(call, StepBenchmark(config, call.device).step)
        left = 0.8 * (call.end - time.monotonic()) - 30  # features and kNN, and a margin
        epochs = max(1, min(call.sizes.epochs, int(left / seconds)))
        config = study.resolve("mocov2", "baseline", 0, overrides | {"training.epochs": epochs})
        scratch = Path(folder) / "scratch"
        trainer = Pretrainer(config, data, scratch, Recorder(scratch / "record.jsonl"))
        history = trainer.train()
        cache = make_cache(trainer.method.backbone, data, call.device, 512)
        assert cache is not None, "there is one rank"
        accuracy = knn(cache, config.evaluation.knn)["top1"]
    rate = max(row["images_per_second"] for row in history)
    return {"method": "mocov2", "network": config.backbone.name, "epochs": epochs, "knn": accuracy, "rate": rate}


PARTS: dict[str, Callable[[Call], dict[str, Callable[[], Item]]]] = {
    "tests": tests,
    "steps": steps,
    "kmeans": kmeans,
    "path_loss": path_loss,
    "compile": compile_gain,
    "input": input_rate,
    "plan": plan,
    "tune": tune,
    "training": training,
}

if __name__ == "__main__":
    sys.exit(main())

"""Write docs/performance_gpu.md from the numbers of `make gpu`: the answers, then a screen for every question."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common import NAMES

from hirl.files import write_text

Item = dict[str, Any]
Items = dict[str, Item]
Rows = list[dict[str, str]]
IMAGENET_IMAGES = 1_281_167
CIFAR_EPOCHS = 200
LIGHTLY = {"mocov2": 83.8}  # kNN top-1 on CIFAR-10 of MoCo, ResNet-18, 200 epochs, batch 128, in lightly's benchmarks
INTRODUCTION = """\
# Performance on a GPU

<!-- Written by `make gpu` from benchmarks/. Do not edit. -->
"""
NOT_RUN = """\
**No GPU has run this project yet.** `make gpu` measures what this page asks, in nine minutes on one card, and writes
the answers here.
"""
HOW_TO_RUN = """\
## How to run it

```bash
make gpu                          # nine minutes at most; a second call measures what the first left out
make gpu DATA=/data/cifar10       # also trains on CIFAR-10, if time is left
```

It needs no network and no installation of this project: Python 3.11 or newer and the packages of the training core,
which are torch, torchvision, numpy, Pillow, PyYAML, safetensors, timm (with huggingface_hub and what that needs),
lightly (of its own dependencies only lightning-utilities with packaging) and pydantic (with pydantic-core,
annotated-types, typing-inspection and typing-extensions). Before anything else it names those that are missing or too
old, in one line, with a command that downloads them on another machine.

| Without | What is lost here |
| --- | --- |
| MLflow, DVC, Snakemake, faiss, scikit-learn, pandas, rich | nothing |
| pytest | the tests |
| scipy | the tests of views |
| pydantic, timm, lightly, safetensors, PyYAML or Pillow | everything: configurations, backbones, heads, files |

torch 2.11 is the oldest that passes the tests: it was the first with `torch.cpu.get_capabilities`, by which a CPU
chooses its precision. torch 2.9 fails there alone, so that a GPU could do with it; torch 2.8 also lacks the setting of
TF32 that k-means uses.

Each part runs in a process of its own and within a budget of seconds, the most valuable first. A number is saved in
`scratch/gpu.json` as soon as it is measured, so that a call may be killed at any time. Numbers of another commit, GPU
or torch are not kept.
"""


class Goal:
    """A number that is compared with a goal."""

    def __init__(self, value: float, bound: float, unit: str = "", at_most: bool = False, digits: int = 2):
        self.met = value <= bound if at_most else value >= bound
        self.value = f"{value:,.{digits}f}{unit}"
        self.bound = f"{'≤' if at_most else '≥'} {bound:g}{unit}"

    @property
    def verdict(self) -> str:
        """Return "met" or "missed", as the page shows it."""
        return "met" if self.met else "**missed**"


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the page of all numbers that there are."""
    write_text(path, page(results))


def page(results: dict[str, Any] | None) -> str:
    parts = results["parts"] if results else {}
    head = [INTRODUCTION, machine(results["where"]) if parts else NOT_RUN]
    if parts:
        head.append(summary(parts))
    sections = [section(name, parts) for name in SECTIONS]
    return "\n".join([*head, *sections, HOW_TO_RUN])


def machine(where: dict[str, Any]) -> str:
    """Return the line on hardware, versions and commit."""
    commit = re.sub(r"(\w{12})\w*", r"\1", where["git_commit"])  # "-dirty", if it ends so, stays
    line = (
        f"Measured on {where['gpu']}, {where['cores']} cores of {where['processor']}, {where['memory_gb']:.0f} GB; "
        f"torch {where['torch']}, Python {where['python']}, commit {commit}, {where['date']}.\n"
    )
    if where["rehearsal"]:
        line = f"**A rehearsal with tiny sizes: these numbers mean nothing.** {line}"
    return line


def summary(parts: dict[str, Any]) -> str:
    """Return the answers in one table."""
    rows = []
    for name, (question, answer, _) in SECTIONS.items():
        state = parts.get(name, {})
        found = answer(state["items"], parts) if state.get("items") else {}
        row = {"Question": f"[{question}](#{anchor(question)})"}
        rows.append(
            row | {key: found.get(key, "") for key in ("goal", "ours", "peer", "ratio")} | {"": verdict(state, found)}
        )
    return markdown(rows) + "\n"


def verdict(state: Item, found: dict[str, str]) -> str:
    status = state.get("status", "not run")
    if status == "done":
        return found.get("verdict", "")
    shown = {"cut": "cut by its budget", "left out": "not run: no time left", "failed": "failed in part"}
    return "; ".join(filter(None, [found.get("verdict", ""), shown.get(status, status)]))


def section(name: str, parts: dict[str, Any]) -> str:
    """Return a question's section: the answer, the numbers, how they were measured."""
    question, answer, table = SECTIONS[name]
    state = parts.get(name, {})
    lines = [f"## {question}"]
    if state.get("items"):
        found = answer(state["items"], parts)
        lines.append(found["text"])
        lines.append(markdown(table(state["items"], parts)))
    if state.get("status", "not run") != "done":
        lines.append(f"{'Incomplete' if state.get('items') else 'Not run'}{reason(state)}.")
    lines += [f"- {problem}" for problem in state.get("errors", {}).values()]
    lines.append(HOW[name])
    if state.get("seconds"):
        lines.append(f"Part `{name}`, {state['seconds']:.0f} seconds.")
    return "\n\n".join(filter(None, lines)) + "\n"


def reason(state: Item) -> str:
    reasons = {"cut": ": cut by its budget", "left out": ": no time was left", "failed": ": see below"}
    return reasons.get(state.get("status", ""), "")


def anchor(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def markdown(rows: Rows) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    lines += [[row.get(column, "") for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_methods(items: Items) -> Iterable[tuple[str, Item]]:
    """Yield the items of methods, in the paper's order."""
    return ((name, items[name]) for name in NAMES if name in items)


# --- tests ------------------------------------------------------------------------------------------------------------


def tests_answer(items: Items, parts: Item) -> dict[str, str]:
    found = items["gpu"]
    bad = found["failed"] + found.get("error", 0)
    text = f"{found['passed']} passed, {bad} failed, {found['skipped']} skipped."
    goal = Goal(bad, 0, " failures", at_most=True, digits=0)
    return {"goal": "all pass", "ours": text.rstrip("."), "verdict": goal.verdict, "text": text}


def tests_table(items: Items, parts: Item) -> Rows:
    return [{"failed": f"`{name}`"} for name in items["gpu"]["failures"]]


# --- steps ------------------------------------------------------------------------------------------------------------


def family(item: Item) -> str:
    return "ViT" if item["network"].startswith("vit") else "ResNet"


MFU_GOALS = {"ViT": 50, "ResNet": 35}  # per cent, on an H200


def mfu(item: Item, items: Items) -> float:
    """Return the MFU in per cent of the bf16 matrix products that this GPU computes."""
    return 100 * item["flop"] / item["seconds"] / items["machine"]["flops"]["bf16"]


def roofline(item: Item, items: Items) -> tuple[float, float]:
    """Return the least seconds of a step's products, and of moving the bytes of all other kernels."""
    rates = items["machine"]
    return item["flop"] / rates["flops"]["bf16"], item["other_bytes"] / rates["bytes_per_second"]


def steps_answer(items: Items, parts: Item) -> dict[str, str]:
    if "machine" not in items or len(items) < 2:
        return {"text": "No method was measured."}
    methods = [item for _, item in of_methods(items)]
    least = min(methods, key=lambda item: item["rates"]["ours"] / item["rates"]["plain fp32"])["rates"]
    goals = {"speed-up over the plain loop in fp32": Goal(least["ours"] / least["plain fp32"], 2, "×")}
    limits = dict.fromkeys(goals, "")
    for kind, bound in MFU_GOALS.items():
        if found := [item for item in methods if family(item) == kind]:
            lowest = min(found, key=lambda item: mfu(item, items))
            goals[f"MFU of a {kind}"] = goal = Goal(mfu(lowest, items), bound, " %", digits=0)
            products, moved = roofline(lowest, items)
            allowed = f" Its kernels, one after the other, allow {100 * products / (products + moved):.0f} %."
            limits[f"MFU of a {kind}"] = "" if goal.met else allowed
    met = sum(goal.met for goal in goals.values())
    lines = [
        f"- Lowest {what}: {goal.value}, goal {goal.bound}: {goal.verdict}.{limits[what]}"
        for what, goal in goals.items()
    ]
    return {
        "goal": "≥ 2× the plain loop; MFU ≥ 50 % (ViT), ≥ 35 % (ResNet)",
        "ours": f"{least['ours']:,.0f} images/s",
        "peer": f"{least['plain fp32']:,.0f} images/s",
        "ratio": f"{least['ours'] / least['plain fp32']:.2f}×",
        "verdict": f"{met} of {len(goals)} met" + ("" if met == len(goals) else ", **others missed**"),
        "text": "\n".join(lines),
    }


def steps_table(items: Items, parts: Item) -> Rows:
    if "machine" not in items:
        return []
    rows = []
    for name, item in of_methods(items):
        rates, (products, moved) = item["rates"], roofline(item, items)
        rows.append(
            {
                "": f"{NAMES[name]}, {item['network']}",
                "batch": str(item["batch"]),
                "images/s": f"{rates['ours']:,.0f}",
                "plain fp32": f"{rates['plain fp32']:,.0f}",
                "plain bf16": f"{rates['plain bf16']:,.0f}",
                "speed-up": f"{rates['ours'] / rates['plain fp32']:.2f}",
                "over bf16": f"{rates['ours'] / rates['plain bf16']:.2f}",
                "HIRL time ratio": f"{rates['ours'] / rates['HIRL']:.2f}",
                "GFLOP/image": f"{item['flop'] / item['batch'] / 1e9:.3g}",
                "MFU": f"{mfu(item, items):.0f} %",
                "GiB": f"{item['memory_gib']:.1f}",
                "ms": f"{1000 * item['seconds']:.0f}",
                "limit: products + bytes, ms": f"{1000 * products:.0f} + {1000 * moved:.0f}",
                "time / limit": f"{item['seconds'] / (products + moved):.2f}",
            }
        )
    return rows


# --- clustering and path loss -----------------------------------------------------------------------------------------


def kmeans_answer(items: Items, parts: Item) -> dict[str, str]:
    epoch = epoch_seconds(parts)
    if "cold" not in items or epoch is None:
        return {"text": "The share of an epoch needs a tree and the steps of MoCo v3."}
    share = Goal(100 * items["cold"]["seconds"] / epoch, 5, " %", at_most=True)
    seconds = items["cold"]["seconds"]
    return {
        "goal": f"{share.bound} of an epoch",
        "ours": f"{seconds:.1f} s",
        "peer": f"epoch: {epoch:,.0f} s",
        "ratio": share.value,
        "verdict": share.verdict,
        "text": f"A tree takes {seconds:.1f} s, {share.value} of MoCo v3's epoch, goal {share.bound}: {share.verdict}.",
    }


def epoch_seconds(parts: Item) -> float | None:
    """Return the seconds of the steps of an ImageNet epoch of MoCo v3 under HIRL, if they were measured."""
    item = parts.get("steps", {}).get("items", {}).get("mocov3")
    return IMAGENET_IMAGES / item["rates"]["HIRL"] if item else None


def kmeans_table(items: Items, parts: Item) -> Rows:
    rows = []
    for name in ("cold", "warm"):
        if name in items:
            count, clusters, width = items[name]["points"]
            size = f"{count:,} x {width}, {'/'.join(map(str, clusters))}"
            start = {"cold": "random starts", "warm": "finest level warm-started"}[name]
            row = {"": f"tree, {start}", "size": size, "seconds": f"{items[name]['seconds']:.2f}"}
            rows.append(row | {"GiB": f"{items[name]['memory_gib']:.1f}"})
    if "plain" in items:
        rows += [
            {"": f"one assignment, {label}", "seconds": f"{items['plain'][name]:.3f}"}
            for name, label in (("ours", "ours in float32"), ("plain", "torch.cdist"))
        ]
    return rows


def path_loss_answer(items: Items, parts: Item) -> dict[str, str]:
    item = items.get("SimSiam") or next(iter(items.values()))
    speedup = Goal(item["formula"]["seconds"] / item["ours"]["seconds"], 10, "×")
    return {
        "goal": f"speed-up {speedup.bound}",
        "ours": f"{1000 * item['ours']['seconds']:.2f} ms",
        "peer": f"formula: {1000 * item['formula']['seconds']:.2f} ms",
        "ratio": speedup.value,
        "verdict": speedup.verdict,
        "text": f"Speed-up over the formula, SimSiam: {speedup.value}, goal {speedup.bound}: {speedup.verdict}.",
    }


def path_loss_table(items: Items, parts: Item) -> Rows:
    rows = []
    for name, item in items.items():
        images, clusters, width, negatives = item["size"]
        ours, formula = item["ours"], item["formula"]
        rows.append(
            {
                "": name,
                "size": f"{images} images, {'/'.join(map(str, clusters))} clusters, width {width}, {negatives} paths",
                "ours ms": f"{1000 * ours['seconds']:.2f}",
                "formula ms": f"{1000 * formula['seconds']:.2f}",
                "speed-up": f"{formula['seconds'] / ours['seconds']:.1f}",
                "ours GiB": f"{ours['gib']:.3f}",
                "formula GiB": f"{formula['gib']:.3f}",
                "difference": f"{item['difference']:.0e}",
            }
        )
    return rows


# --- switches, input, plan --------------------------------------------------------------------------------------------


def compile_answer(items: Items, parts: Item) -> dict[str, str]:
    gains = {name: item["compiled"]["rate"] / item["eager"]["rate"] for name, item in items.items()}
    text = ", ".join(f"{gain:.2f}× for {NAMES[name]}" for name, gain in gains.items())
    return {"ratio": text, "verdict": "no goal", "text": f"Compiled over eager: {text}."}


def compile_table(items: Items, parts: Item) -> Rows:
    return [
        {
            "": f"{NAMES[name]}, {item['eager']['network']}",
            "batch": str(item["eager"]["batch"]),
            "eager images/s": f"{item['eager']['rate']:,.0f}",
            "compiled images/s": f"{item['compiled']['rate']:,.0f}",
            "gain": f"{item['compiled']['rate'] / item['eager']['rate']:.2f}",
            "first two steps, eager s": f"{item['eager']['first_steps']:.1f}",
            "compiled s": f"{item['compiled']['first_steps']:.1f}",
        }
        for name, item in items.items()
    ]


def input_answer(items: Items, parts: Item) -> dict[str, str]:
    steps = parts.get("steps", {}).get("items", {})
    feeds = {
        name: item["rates"]["ours"] / steps[name]["rates"]["ours"] for name, item in items.items() if name in steps
    }
    if not feeds:
        return {"text": "Whether it feeds the GPU needs the steps."}
    least = min(feeds, key=feeds.__getitem__)
    goal = Goal(feeds[least], 1, "×")
    return {
        "goal": f"loaded / trained {goal.bound}",
        "ours": f"{items[least]['rates']['ours']:,.0f} images/s",
        "peer": f"Pillow: {items[least]['rates']['plain']:,.0f} images/s",
        "ratio": goal.value,
        "verdict": goal.verdict,
        "text": f"Lowest images loaded / trained, {NAMES[least]}: {goal.value}, goal {goal.bound}: {goal.verdict}.",
    }


def input_table(items: Items, parts: Item) -> Rows:
    steps = parts.get("steps", {}).get("items", {})
    return [
        {
            "": f"{NAMES[name]}, {item['crops']}",
            "workers": str(item["workers"]),
            "ours images/s": f"{item['rates']['ours']:,.0f}",
            "Pillow images/s": f"{item['rates']['plain']:,.0f}",
            "speed-up": f"{item['rates']['ours'] / item['rates']['plain']:.1f}",
            "the GPU trains images/s": f"{steps[name]['rates']['ours']:,.0f}" if name in steps else "",
        }
        for name, item in items.items()
    ]


def off(row: Item) -> float:
    """Return the factor by which a plan is too high or too low."""
    return max(row["planned"] / row["measured"], row["measured"] / row["planned"])


def plan_answer(items: Items, parts: Item) -> dict[str, str]:
    item = items["here"]
    worst = max(map(off, item["rows"]))
    text = f"`{item['command']}` is off by a factor of {worst:.2f} at worst."
    return {"ratio": f"{worst:.2f}×", "verdict": "no goal", "text": text}


def plan_table(items: Items, parts: Item) -> Rows:
    return [
        {
            "": row["run"],
            "planned ms": f"{1000 * row['planned']:.0f}",
            "measured ms": f"{1000 * row['measured']:.0f}",
            "planned / measured": f"{row['planned'] / row['measured']:.2f}",
        }
        for row in items["here"]["rows"]
    ]


def tune_answer(items: Items, parts: Item) -> dict[str, str]:
    return {
        "ours": f"`{items['tune']['use']}`",
        "verdict": "no goal",
        "text": f"`{items['tune']['command']}` recommends `{items['tune']['use']}`.",
    }


def tune_table(items: Items, parts: Item) -> Rows:
    return [
        {
            "precision": row["precision"],
            "compiled": "yes" if row["compile"] else "no",
            "checkpointed": "yes" if row["checkpoint_activations"] else "no",
            "images/s": f"{row['rate']:,.0f}",
            "GiB": f"{row['memory_gib']:.1f}",
            "start s": f"{row['start']:.1f}",
        }
        for row in items["tune"]["rows"]
    ]


def training_answer(items: Items, parts: Item) -> dict[str, str]:
    item = next(iter(items.values()))
    reached = f"kNN top-1 {item['knn']:.1f} % after {item['epochs']} epochs"
    text = f"{NAMES[item['method']]}, {item['network']}: {reached}"
    if item["epochs"] < CIFAR_EPOCHS:
        text = f"{text}. That is too short to be compared: lightly's benchmarks train {CIFAR_EPOCHS} epochs."
        return {"ours": reached, "verdict": "no goal", "text": text}
    goal = Goal(item["knn"], LIGHTLY[item["method"]], " %", digits=1)
    text = f"{text}, goal {goal.bound}, as in lightly's benchmarks: {goal.verdict}."
    return {"goal": goal.bound, "ours": reached, "peer": "lightly", "verdict": goal.verdict, "text": text}


def training_table(items: Items, parts: Item) -> Rows:
    return []


Answer = Callable[[Items, Item], dict[str, str]]
Table = Callable[[Items, Item], Rows]
SECTIONS: dict[str, tuple[str, Answer, Table]] = {
    "tests": ("Do the tests that need a GPU pass?", tests_answer, tests_table),
    "steps": ("How fast are training steps?", steps_answer, steps_table),
    "kmeans": ("What does a tree cost at the paper's size?", kmeans_answer, kmeans_table),
    "path_loss": ("What does the path loss cost at the paper's size?", path_loss_answer, path_loss_table),
    "compile": ("What does compiling gain?", compile_answer, compile_table),
    "input": ("Does the input feed the GPU?", input_answer, input_table),
    "plan": ("Are planned steps as long as measured ones?", plan_answer, plan_table),
    "tune": ("Which settings are fastest?", tune_answer, tune_table),
    "training": ("What does a training on CIFAR-10 reach?", training_answer, training_table),
}
HOW = {
    "tests": "`pytest -m gpu`, on the files that have such tests.",
    "steps": """\
Ours are the steps of the study `imagenet` in bf16, baselines, at the largest batch of a power of two that was tried and
fits into memory: views drawn on the GPU from crops that are there, forward, backward, optimiser, momentum. The plain
loop trains the same method with torch's default optimiser and memory format, views made beforehand, a loss read at
every step, in fp32 (convolutions in TF32, torch's default) or under bf16 autocast. The best of 3 rounds of 4 steps
counts, in fp32 the best of 2 steps. Reading files is another question, below.

MFU (model FLOPs utilisation) compares the operations of a step, as torch counts them, with a matrix product of 8192
rows in bf16 on this GPU. The limit adds the time of these operations at that rate and the time of the bytes that all
other kernels read and write at the rate of a copy: what separate kernels need at least.""",
    "kmeans": """\
A tree of the paper's size: three levels of k-means, 5 starts of 20 iterations, on random unit rows around twice as many
directions as clusters. The epoch is that of MoCo v3's steps under HIRL at ImageNet's number of images. The peer is one
assignment of all points to the finest clusters by `torch.cdist` and `argmin` in float32, in chunks, beside ours in the
same precision; iterations run in TF32.""",
    "path_loss": """\
A forward and a backward pass, in milliseconds, best of 5. The peer holds every negative's centroids, as the released
code does (benchmarks/path_loss.py). Memory is the rise of the GPU's peak.""",
    "compile": "`training.compile` compiles the blocks of the backbone. Steps are those of the question on steps.",
    "input": """\
Our loader and a plain DataLoader with Pillow read the same drawn JPEG files (benchmarks/input.py), with a worker per
core, their start included. The peer's images are augmented on the CPU; ours get their colours on the GPU, in the
step.""",
    "plan": """\
The plan counts operations on the CPU, and measures this GPU's rate and the MFU of at most 128 images. The measured step
is the median of three, with the images that one of 16 GPUs gets of the paper's batch: baseline and HIRL of a ViT and of
a ResNet. Plans for other GPUs assume the MFU in `config/hardware.yaml`: compare it with that of the steps.""",
    "tune": "All speed settings of a run of the study `cifar10`, with HIRL, at its own batch size.",
    "training": """\
MoCo v2 on CIFAR-10, ResNet-18 with the CIFAR stem, batches of 128, bf16, with as many of 200 epochs as fit into the
budget, the schedule shortened to them. It is left out unless `DATA` names a folder with the images.""",
}

if __name__ == "__main__":
    write_text(Path(__file__).parents[1] / "docs" / "performance_gpu.md", page(None))

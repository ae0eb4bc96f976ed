"""How does a training step grow as the batch or the network's width doubles?

    python benchmarks/growth.py [--batch 32] [--width 192] [--rounds 3]

DINO on 32-pixel images with the published crops, a ViT of three blocks. The peer is ours at half the size: seconds of a
step by the clock, best of turns, and the floating-point operations that torch counts in it. If time grows less than
operations, the MFU rises.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common import Report, parser
from torch.utils.flop_counter import FlopCounterMode
from training import Way, our_steps, prepare_noise, settings

from hirl.config import RunConfig, load_study
from hirl.models.backbones import VITS

HEAD_WIDTH = 64


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--width", type=int, default=192)
    options.add_argument("--rounds", type=int, default=3)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "base": configure(args.batch, args.width),
            "batch": configure(2 * args.batch, args.width),
            "width": configure(args.batch, 2 * args.width),
        }
        data = prepare_noise(cases["base"].data, 2 * args.batch * (args.rounds + 2), Path(folder))
        ways = {name: Way(our_steps(config, data, Path(folder) / name)) for name, config in cases.items()}
        operations = {}
        for name, way in ways.items():
            way.start()
            with FlopCounterMode(display=False) as counter:
                way.turn(1)
            operations[name] = counter.get_total_flops()
        for _ in range(args.rounds):
            for way in ways.values():
                way.wall = min(way.wall, way.turn(1)[0])
    rows = [
        {"doubled": name, "time ratio": ways[name].wall / ways["base"].wall}
        | {"FLOP ratio": operations[name] / operations["base"]}
        for name in ("batch", "width")
    ]
    Report(args).table(rows, f"From batches of {args.batch} and width {args.width}, {ways['base'].wall:.2f} s a step")


def configure(batch: int, width: int) -> RunConfig:
    """Return the configuration of DINO with a ViT of this width, which is added to VITS."""
    name = f"vit_{width}"
    VITS[name] = {"patch_size": 4, "embed_dim": width, "depth": 3, "num_heads": width // HEAD_WIDTH}
    config = load_study("demo").resolve("dino", "baseline", 0, settings("demo", "dino", batch))
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"name": name})})


if __name__ == "__main__":
    main()

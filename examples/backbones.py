"""Generate protein fragments: positions, frames, residue types and torsions at once.

Trains a small network on fragments of experimental structures, generates new ones, and compares
them with held-out fragments. The files of a run lie in its folder:

    checkpoint.safetensors, .json       the state of the training
    exact/0001.pdb ...                  generated fragments, drawn from the model's law
    scaled/0001.pdb ...                 the same at a temperature: noise times 0.8, logits over 0.8
    trajectory.pdb, trajectory.gif      one fragment on its way from noise
    ramachandran.png, losses.png, gallery.png
    report.json                         all numbers of the printed table
    sequence/, structure/, motif/       what `--fix` generates, with a report of its own

A run that was interrupted is finished as it was planned; the result is the same, bit for bit, as
without the interruption if the plan was in steps. A finished run is used as it is; `--steps` or
`--minutes` train it further.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from bridges.protein import write_backbone
from fragments import checkpoint, conditional, generate, metrics, plots
from fragments.data import Batch, Fragments
from fragments.process import as_batch, fragment_process
from fragments.train import Run, train

MINUTES = 4.0  # that a new run trains
SCALE = 0.8  # of the noise in the scaled set, and what its logits are divided by
SHOWN = 16  # fragments in the gallery
SMOOTH = 0.98  # of the losses beside the progress bar
NOVELTY_STRIDE = 5  # every fifth training fragment is compared with
FRAMES = 90  # of the animation


def main(arguments: Sequence[str] | None = None) -> None:
    """Train if there is something to train, then generate and report."""
    args = parse(arguments)
    run = trained(args)
    generator = torch.Generator().manual_seed(args.seed + 1)
    if args.fix is None:
        whole_fragments(run, args, generator)
    else:
        fixed_part(run, args, generator)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/backbones"), help="folder of the run")
    add("--minutes", type=minutes, help=f"time to train; a new run takes {MINUTES}")
    add("--steps", type=count, help="steps to train instead; a finished run goes on for as many")
    add("--seed", type=int, default=0, help="of a new run, and of generation (%(default)s)")
    add("--length", type=count, default=24, help="residues, of a new run (%(default)s)")
    add("--width", type=count, default=128, help="of the network, of a new run (%(default)s)")
    add("--reverse-steps", type=count, default=60, help="steps from noise to data (%(default)s)")
    add("--count", type=count, default=256, help="fragments in a set (%(default)s)")
    add("--fix", choices=conditional.MODES, help="generate around a given part of held-out ones")
    return parser.parse_args(arguments)


def count(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"Expected a whole number above 0; got {text}.")
    return int(text)


def minutes(text: str) -> float:
    """Read a time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"Expected a number above 0; got {text}.")
    return value


def trained(args: argparse.Namespace) -> Run:
    """The run of the folder, trained to the end of its plan."""
    run = started(args)
    smooth: dict[str, float] = {}
    with tqdm(total=run.last, initial=run.step, desc="training", unit="step") as bar:
        for parts in train(run, args.out):
            for name, value in parts.items():
                smooth[name] = SMOOTH * smooth.get(name, value) + (1 - SMOOTH) * value
            bar.total = run.last
            bar.set_postfix({k: f"{v:.3f}" for k, v in smooth.items()}, refresh=False)
            bar.update()
    return run


def started(args: argparse.Namespace) -> Run:
    """A new run, or the one in the folder; with a plan where it has none."""
    if checkpoint.exists(args.out):
        run = Run.load(args.out)
        own = {"length": run.data.length, **run.size}
        if own != {"length": args.length, "width": args.width}:
            raise SystemExit(f"Expected the length and width of the run in {args.out}, {own}.")
    else:
        run = Run(Fragments.load("train", args.length), args.seed, width=args.width)
    if run.finished() and args.steps is not None:
        run.plan_steps(args.steps)
    elif run.finished() and (args.minutes is not None or run.step == 0):
        run.plan_minutes(args.minutes or MINUTES)
    return run


def held_out(length: int) -> Batch:
    """Fragments of the clusters that are kept from training, without overlap."""
    splits = [Fragments.load(split, length).held_out() for split in ("val", "test")]
    return {name: torch.cat([split[name] for split in splits]) for name in splits[0]}


def whole_fragments(run: Run, args: argparse.Namespace, generator: torch.Generator) -> None:
    """Generate the exact and the scaled set, draw the pictures, and write the report."""
    out, length = args.out, run.data.length
    process, sets = fragment_process(), {}
    for name, law in (("exact", process), ("scaled", process.tempered(SCALE))):
        blank = generate.everything(args.count, length)
        state = generate.sample(run.average, law, *blank, args.reverse_steps, generator)
        sets[name] = as_batch(state)
        generate.write_fragments(out / name, sets[name])
    movie = generate.movie(run.average, process, length, args.reverse_steps, generator)
    write_backbone(out / "trajectory.pdb", movie["coords"], movie["seq"])
    others = held_out(length)
    plots.ramachandran(out / "ramachandran.png", sets["exact"], others)
    plots.losses(out / "losses.png", run.history)
    plots.gallery(out / "gallery.png", sets["exact"]["coords"][:SHOWN])
    plots.trajectory_gif(out / "trajectory.gif", thinned(movie["coords"][:, :, 1]))
    report = metrics.report(sets, others, run.data.windows(NOVELTY_STRIDE))
    write_report(out / "report.json", {"training steps": run.step, "sets": report})
    print(metrics.table(report))


def fixed_part(run: Run, args: argparse.Namespace, generator: torch.Generator) -> None:
    """Generate what `--fix` leaves free in held-out fragments."""
    others = held_out(run.data.length)
    rows = torch.randperm(len(others["seq"]), generator=generator)[: args.count]
    others = {name: value[rows] for name, value in others.items()}
    batch, numbers = conditional.generate(
        args.fix, run.average, fragment_process(), others, args.reverse_steps, generator
    )
    generate.write_fragments(args.out / args.fix, batch)
    write_report(args.out / f"{args.fix}.json", {"training steps": run.step, **numbers})
    for name, value in numbers.items():
        print(f"{name:55} {value:.4g}")


def thinned(frames: torch.Tensor) -> torch.Tensor:
    """At most FRAMES of the frames, evenly, with the last one."""
    index = torch.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().long()
    return frames[index]


def write_report(path: Path, report: dict[str, object]) -> None:
    """Write numbers as JSON, beside their place first."""
    with plots.written(path) as beside:
        beside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

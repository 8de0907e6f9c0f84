"""Generation: whole fragments, and fragments of which a part is given.

All of it is the same model and the same process. What differs is which parts start from noise, on
which elements the process moves, and the times that the model is told.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bridges import Process, Step, selfconditioned, trajectory
from bridges.protein import write_backbone
from fragments.data import Batch
from fragments.network import null_prediction
from fragments.process import PARTS, State, Times, as_batch, shapes

CHUNK = 64  # fragments generated at once

Model = Callable[[State, Times, State], State]
Masks = dict[str, Tensor]


def walk(
    model: Model,
    process: Process,
    given: State,
    free: Masks,
    steps: int,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Walk from noise to data where `free`, and keep what is `given` elsewhere.

    Args:
        model: the network.
        process: the process of whole fragments.
        given: a clean state; where all is free it does not matter what stands there.
        free: for each part which residues to generate, shape (B, L), bool.
        steps: how many steps.
        generator: the source of randomness.

    Returns:
        The steps, from the noisiest to the last, which holds the result.
    """
    count, length = given["seq"].shape
    noise = process.sample_prior(shapes(count, length), generator=generator)
    start = {part: _choose(free[part], noise[part], given[part]) for part in PARTS}

    @torch.no_grad()
    def told(x_t: State, t: Tensor, previous: State) -> State:
        return model(x_t, {part: t.unsqueeze(-1) * free[part] for part in PARTS}, previous)

    guess = selfconditioned(told, null_prediction(count, length))
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return trajectory(guess, process.where(free), grid, start, generator=generator)


def sample(
    model: Model,
    process: Process,
    given: State,
    free: Masks,
    steps: int,
    generator: torch.Generator,
) -> State:
    """The last state of :func:`walk`, a chunk of fragments at a time."""
    ends = []
    for first in range(0, len(given["seq"]), CHUNK):
        rows = slice(first, first + CHUNK)
        *_, last = walk(model, process, _rows(given, rows), _rows(free, rows), steps, generator)
        ends.append(last.x_s)
    return _joined(ends)


def everything(count: int, length: int) -> tuple[State, Masks]:
    """A placeholder to give to :func:`sample`, and masks that leave all of it free."""
    blank = {
        "pos": torch.zeros(count, length, 3),
        "rot": torch.eye(3).repeat(count, length, 1, 1),
        "seq": torch.zeros(count, length, dtype=torch.int64),
        "psi": torch.zeros(count, length),
    }
    return blank, dict.fromkeys(PARTS, torch.ones(count, length, dtype=torch.bool))


def movie(
    model: Model, process: Process, length: int, steps: int, generator: torch.Generator
) -> Batch:
    """Every state on the way to one fragment, from noise to data, with its last sequence.

    Returns:
        Atoms N, CA, C, O (steps, L, 4, 3) in angstrom and types (L,).
    """
    states = [step.x_s for step in walk(model, process, *everything(1, length), steps, generator)]
    frames = as_batch(_joined(states))
    return {"coords": frames["coords"], "seq": frames["seq"][-1]}


def write_fragments(folder: Path, batch: Batch) -> None:
    """Write one PDB file for each fragment, 0001.pdb and so on, in place of those of before."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9]*.pdb"):
        old.unlink()
    for index, (coords, seq) in enumerate(zip(batch["coords"], batch["seq"], strict=True), 1):
        write_backbone(folder / f"{index:04d}.pdb", coords, seq)


def _choose(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    return torch.where(mask.reshape(*mask.shape, *[1] * (inside.ndim - 2)), inside, outside)


def _rows(state: State, rows: slice) -> State:
    return {part: value[rows] for part, value in state.items()}


def _joined(states: list[State]) -> State:
    return {part: torch.cat([state[part] for state in states]) for part in states[0]}

"""Generation: whole fragments, and fragments of which a part is given.

All of it is the same model and the same process. What differs is which parts start from noise, on which
elements the process moves, and the times that the model is told.
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

Model = Callable[[State, Times | Tensor, State], State]


def run(
    model: Model,
    process: Process,
    given: State,
    free: dict[str, Tensor],
    steps: int,
    generator: torch.Generator,
) -> Iterator[Step]:
    """Walk from noise to data where `free`, and keep what is `given` elsewhere.

    Args:
        model: the network.
        process: the process of whole fragments.
        given: a clean state; what stands where all is free does not matter.
        free: for each part which residues to generate, shape (B, L), bool.
        steps: how many steps.
        generator: the source of randomness.

    Yields:
        The steps, from the noisiest to the last, which holds the result.
    """
    count, length = given["seq"].shape
    noise = process.sample_prior(shapes(count, length), generator=generator)
    start = {part: choose(free[part], noise[part], given[part]) for part in PARTS}

    def guess(x_t: State, t: Tensor, previous: State) -> State:
        return model(x_t, {part: t.unsqueeze(-1) * free[part] for part in PARTS}, previous)

    closed = selfconditioned(guess, null_prediction(count, length))
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        yield from trajectory(closed, process.where(free), grid, start, generator=generator)


def choose(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Elements of one state where a mask over (B, L) is true, and of the other elsewhere."""
    return torch.where(mask.reshape(*mask.shape, *[1] * (inside.ndim - 2)), inside, outside)


def everything(count: int, length: int) -> tuple[State, dict[str, Tensor]]:
    """A state of zeros and masks that leave all of it free."""
    free = torch.ones(count, length, dtype=torch.bool)
    blank = {
        "pos": torch.zeros(count, length, 3),
        "rot": torch.eye(3).repeat(count, length, 1, 1),
        "seq": torch.zeros(count, length, dtype=torch.int64),
        "psi": torch.zeros(count, length),
    }
    return blank, dict.fromkeys(PARTS, free)

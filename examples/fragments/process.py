r"""The state of a fragment and the process that noises it.

A fragment is a dictionary with a row for each residue: `pos`, its CA in units of 10 Å; `rot`, its
frame; `seq`, its type; `psi`, the torsion that places O. Each part diffuses on its own space and
its own clock, all over t in [0, 1]. Positions have zero mean.

On geometric clocks equal shares of time go to every order of magnitude of the noise, and the
tokens' linear clock keeps the sequence unknown until the backbone has taken shape.
"""

import torch
from torch import Tensor

from bridges import (
    GeometricClock,
    Joint,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    Process,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
)
from bridges.protein import RESIDUES, backbone_atoms
from fragments.data import Batch

UNIT = 10.0  # angstrom
PARTS = ("pos", "rot", "seq", "psi")

POS_CLOCK = GeometricClock(1e-4, 8.0)  # standard deviation 0.1 Å to 10 Å
ROT_CLOCK = GeometricClock(1.6e-3, 4.0)  # variance in rad², 0.04² to nearly uniform
SEQ_CLOCK = LinearClock(5.0)  # expected jumps; e⁻⁵ of the types survive
PSI_CLOCK = GeometricClock(2.5e-3, 9.0)  # variance in rad², 0.05² to uniform

State = dict[str, Tensor]
Times = dict[str, Tensor]


def fragment_process() -> Joint:
    """Four spaces as one process, on t in [0, 1]."""
    return Joint(
        pos=OrnsteinUhlenbeckDiffusion().on(POS_CLOCK),
        rot=RotationDiffusion(1.0).on(ROT_CLOCK),
        seq=UniformDiscreteDiffusion(1.0, len(RESIDUES)).on(SEQ_CLOCK),
        psi=WrappedBrownianDiffusion(1.0).on(PSI_CLOCK),
    )


def pos_moments(t: Tensor) -> tuple[Tensor, Tensor]:
    """Factor of the mean and variance of `pos` at time t, in the shape of t."""
    tau = POS_CLOCK(t)
    return torch.exp(-tau / 2), -torch.expm1(-tau)


def rot_variance(t: Tensor) -> Tensor:
    """Variance of the rotation vector per axis at time t, in rad²."""
    return ROT_CLOCK(t)


def psi_variance(t: Tensor) -> Tensor:
    """Variance of ψ at time t, in rad²."""
    return PSI_CLOCK(t)


def shapes(count: int, length: int) -> dict[str, tuple[int, ...]]:
    """Batch shapes of `count` fragments, for the prior."""
    return {"pos": (count, length, 3), **{part: (count, length) for part in PARTS[1:]}}


def as_state(batch: Batch) -> State:
    """The clean state of a batch of data."""
    return {"pos": batch["pos"] / UNIT, **{part: batch[part] for part in PARTS[1:]}}


def as_batch(state: State) -> Batch:
    """A state as data: atoms N, CA, C, O in angstrom, types, and the state's own ψ."""
    coords = backbone_atoms(state["pos"] * UNIT, state["rot"], state["psi"])
    return {"coords": coords, "seq": state["seq"], "psi": state["psi"]}


def scaler(process: Process, t: Times) -> Times:
    """What to divide errors by: the noise's variance, and for tokens the square root of that."""
    scale = process.loss_scale(t)
    return {part: value if part == "seq" else value**2 for part, value in scale.items()}

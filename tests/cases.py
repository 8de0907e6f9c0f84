"""One row per process: the laws in `test_process_laws.py` run on each.

The
`general` processes of law 7 are in `oracles.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import gaussian_cases
import quaternion_cases
import sphere_cases
import token_cases
from bridges import (
    GeometricClock,
    Joint,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    Process,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
)
from bridges._so3 import exp
from oracles import DenseGaussian, DenseJumps, GridAngle, SeriesRotation

MEAN, VOLATILITY, REVERSION = 1.3, 0.7, 1.9
RATE, K = 0.8, 5


@dataclass(frozen=True)
class Case:
    """A process and what its laws need: see `bridges.testing.check_process`."""

    name: str
    process: Process
    point: Callable[[torch.dtype], Any]
    view: Callable[[Any], torch.Tensor]
    general: Process | None = None
    has_prior: bool = True
    times: tuple[float, float] = (0.13, 0.71)
    wide: tuple[float, float] = (0.6, 2.9)
    near: float | None = 1e-8
    far: float = 1e3


# ---------------------------------------------------------------- points and views


def numbers(n=20_000):
    return lambda dtype: torch.tensor([2.1, 1.8], dtype=dtype).repeat(n // 2)


def tokens(n=20_000):
    return lambda dtype: torch.tensor([1, 4]).repeat(n // 2)


def angles(n=20_000, period=2 * math.pi):
    return lambda dtype: torch.tensor([0.43, -0.17], dtype=dtype).repeat(n // 2) * period


def rotations(n=10_000):
    rotvec = torch.tensor([[0.4, -1.1, 0.3], [2.0, 0.5, -1.7]], dtype=torch.float64)
    return lambda dtype: exp(rotvec).to(dtype).repeat(n // 2, 1, 1)


def dict_of_four(dtype, n=10_000):
    parts = {"pos": numbers, "seq": tokens, "angle": angles, "rot": rotations}
    return {name: point(n)(dtype) for name, point in parts.items()}


def nested(dtype, n=10_000):
    return (numbers(n)(dtype), (tokens(n)(dtype), angles(n)(dtype)))


def column(x):
    return x.unsqueeze(-1).double()


def circle(period=2 * math.pi):
    def view(x):
        phase = x * (2 * math.pi / period)
        return torch.stack((x, phase.cos(), phase.sin()), -1).double()

    return view


def entries(x):
    return x.flatten(-2).double()


def view_of_four(x):
    rot = torch.stack((x["rot"][:, 0, 1], x["rot"][:, 2, 2]), -1)
    return torch.cat((column(x["pos"]), column(x["seq"]), circle()(x["angle"])[:, :2], rot), -1)


def nested_view(x):
    return torch.cat((column(x[0]), column(x[1][0]), circle()(x[1][1])), -1)


# ---------------------------------------------------------------- the table

OU = OrnsteinUhlenbeckDiffusion(MEAN, VOLATILITY, REVERSION)
UNIFORM = UniformDiscreteDiffusion(RATE, K)
ANGLE = WrappedBrownianDiffusion(1.7)
FRACTION = WrappedBrownianDiffusion(0.11, period=1.0)
ROTATION = RotationDiffusion(0.9)

GAUSSIAN_ORACLE = DenseGaussian(MEAN, VOLATILITY, REVERSION)
JUMP_ORACLE = DenseJumps.uniform(RATE, K)
MASK = torch.arange(20_000) % 3 > 0

SPACES = [
    Case("ornstein-uhlenbeck", OU, numbers(), column, GAUSSIAN_ORACLE),
    Case("uniform", UNIFORM, tokens(), column, JUMP_ORACLE),
    Case("angle", ANGLE, angles(), circle(), GridAngle(1.7, 2 * math.pi)),
    Case("period 1", FRACTION, angles(period=1.0), circle(1.0), GridAngle(0.11, 1.0)),
    Case("rotation", ROTATION, rotations(), entries, SeriesRotation(0.9), wide=(2.9, 6.1)),
]

SPACES += [
    *(Case(**row) for row in token_cases.ROWS),
    *gaussian_cases.rows(Case),
    Case(**sphere_cases.ROW),
    Case(
        "quaternion",
        quaternion_cases.QUATERNION,
        quaternion_cases.quaternions(),
        quaternion_cases.coordinates,
        quaternion_cases.GENERAL,
        wide=quaternion_cases.WIDE,
    ),
]

COMBINED = [
    Case(
        "dict",
        Joint(pos=OU, seq=UNIFORM, angle=ANGLE, rot=ROTATION),
        dict_of_four,
        view_of_four,
        Joint(
            pos=GAUSSIAN_ORACLE,
            seq=JUMP_ORACLE,
            angle=GridAngle(1.7, 2 * math.pi),
            rot=SeriesRotation(0.9),
        ),
    ),
    Case(
        "nested",
        Joint(OU, Joint(UNIFORM, ANGLE)),
        nested,
        nested_view,
        Joint(GAUSSIAN_ORACLE, Joint(JUMP_ORACLE, GridAngle(1.7, 2 * math.pi))),
    ),
    Case("clocked", OU.on(PowerClock(1.7, 0.8)), numbers(), column),
    Case(
        "geometric clock",
        ANGLE.on(GeometricClock(0.01, 50.0)),
        angles(),
        circle(),
        times=(0.13, 0.5),
        wide=(0.4, 0.7),
        near=None,
        far=1.2,
    ),
    Case("masked rows", ANGLE.where(MASK), angles(), circle(), has_prior=False),
    Case("mask of all", UNIFORM.where(torch.tensor(True)), tokens(), column, JUMP_ORACLE),
    Case(
        "masked Joint on a clock",
        Joint(OU, Joint(UNIFORM, ANGLE)).where((MASK[:10_000], True)).on(PowerClock(1.7, 0.8)),
        nested,
        nested_view,
        has_prior=False,
    ),
]

CASES = [*SPACES, *COMBINED]

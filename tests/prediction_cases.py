"""Processes, states and tangent vectors for the tests of predictions."""

import pytest
import torch

from bridges import (
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    Score,
    Velocity,
    WrappedBrownianDiffusion,
)
from bridges._so3 import exp

DOUBLE = torch.float64
OU = OrnsteinUhlenbeckDiffusion(1.3, 0.7, 1.9)
ANGLE = WrappedBrownianDiffusion(1.7, 3.0)
ROTATION = RotationDiffusion(0.9)
CLOCK = PowerClock(1.7, 0.8)
TANGENTS = (Score, Noise, Velocity)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def state(process, n=6, seed=0):
    """Two points that are not far apart."""
    generator = rng(seed)
    if process is ROTATION:
        x_0 = exp(torch.randn(n, 3, generator=generator, dtype=DOUBLE))
    else:
        x_0 = 0.4 * torch.randn(n, generator=generator, dtype=DOUBLE)
    return x_0, process.sample_forward(x_0, 0.3, generator=generator)


def tangent_of(process, x, seed=3):
    shape = x.shape[:-2] + (3,) if process is ROTATION else x.shape
    return 0.3 * torch.randn(shape, generator=rng(seed), dtype=DOUBLE)


SPACES = pytest.mark.parametrize("process", [OU, ANGLE, ROTATION], ids=["ou", "angle", "rotation"])
CURVED = pytest.mark.parametrize("process", [ANGLE, ROTATION], ids=["angle", "rotation"])

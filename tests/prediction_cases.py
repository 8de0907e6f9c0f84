"""Processes, states and tangent vectors for the tests of predictions."""

import pytest
import torch

from bridges import (
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    Score,
    SphereDiffusion,
    Velocity,
    WrappedBrownianDiffusion,
)

DOUBLE = torch.float64
OU = OrnsteinUhlenbeckDiffusion(1.3, 0.7, 1.9)
ANGLE = WrappedBrownianDiffusion(1.7, 3.0)
ROTATION = RotationDiffusion(0.9)
SPHERE = SphereDiffusion(1.1)
CLOCK = PowerClock(1.7, 0.8)
TANGENTS = (Score, Noise, Velocity)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def state(process, n=6, seed=0):
    """Two points that are not far apart."""
    generator = rng(seed)
    x_0 = 0.4 * torch.randn(n, generator=generator, dtype=DOUBLE)
    if process in CURVED_POINTS:
        x_0 = process.sample_prior((n,), generator=generator, dtype=DOUBLE)
    return x_0, process.sample_forward(x_0, 0.3, generator=generator)


def tangent_of(process, x, seed=3):
    shape = x.shape[:-2] + (3,) if process is ROTATION else x.shape
    return tangent(process, x, 0.3 * torch.randn(shape, generator=rng(seed), dtype=DOUBLE))


def tangent(process, x, w):
    return w if process is OU else process._tangent(x, w)


def named(processes):
    return pytest.mark.parametrize("process", processes.values(), ids=list(processes))


CURVED_POINTS = (ROTATION, SPHERE)
BY_NAME = {"ou": OU, "angle": ANGLE, "rotation": ROTATION, "sphere": SPHERE}
SPACES = named(BY_NAME)
CURVED = named({name: process for name, process in BY_NAME.items() if process is not OU})

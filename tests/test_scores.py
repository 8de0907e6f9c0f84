"""Scores against finite differences of log_prob, and gradients, on every continuous space."""

import math

import pytest
import torch

from bridges import (
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    SphereDiffusion,
    WrappedBrownianDiffusion,
)
from bridges._so3 import exp

DOUBLE = torch.float64
RATE = 0.7
OU = OrnsteinUhlenbeckDiffusion(1.3, math.sqrt(RATE), 1e-3)

# A process, a point, the ways to leave it as rows of ambient tangent vectors, and how far one can.
SPACES = {
    "numbers": (OU, torch.tensor(0.4, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE), math.inf),
    "angle": (
        WrappedBrownianDiffusion(RATE),
        torch.tensor(0.4, dtype=DOUBLE),
        torch.ones(1, dtype=DOUBLE),
        math.pi,
    ),
    "rotation": (
        RotationDiffusion(RATE),
        exp(torch.tensor([0.3, -1.1, 0.5], dtype=DOUBLE)),
        torch.eye(3, dtype=DOUBLE),
        math.pi,
    ),
    "sphere": (
        SphereDiffusion(RATE),
        torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE),
        torch.eye(3, dtype=DOUBLE)[:2],
        math.pi,
    ),
}
spaces = pytest.mark.parametrize("name", SPACES)


def move(process, x, w):
    return x + w if process is OU else process._exp(x, w)


def away(name, distance):
    """A point at a distance from x_0, off the axes."""
    process, x_0, ways, _ = SPACES[name]
    way = (torch.tensor([0.2, -0.9, 0.6], dtype=DOUBLE)[: len(ways)].unsqueeze(-1) * ways).sum(0)
    way = way if ways.ndim == 1 else way / way.norm()
    way = torch.ones((), dtype=DOUBLE) if ways.ndim == 1 else way
    return process, x_0, move(process, x_0, distance * way)


def slopes(process, x_0, x_t, ways, t, step):
    """The slope of log_prob along each way, by the two points of a central difference."""
    ends = [
        process.log_prob(move(process, x_t, sign * step * w), x_0, t)
        for w in ways
        for sign in (1, -1)
    ]
    return torch.stack([(ends[i] - ends[i + 1]) / (2 * step) for i in range(0, len(ends), 2)])


def components(score, ways):
    return score.reshape(1) if ways.ndim == 1 else ways @ score


@spaces
@pytest.mark.parametrize("sigmas", [1, 3, 6, 9, 12])
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.25])
def test_scores_against_differences(name, sigmas, sigma):
    process, x_0, x_t = away(name, sigmas * sigma)
    ways, t = SPACES[name][2], sigma**2 / RATE
    found = components(process.score(x_t, x_0, t), ways)
    expected = slopes(process, x_0, x_t, ways, t, 1e-4 * sigma)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 / sigma)


@spaces
@pytest.mark.parametrize("v", [0.3, 1.0, 2.9, 3.1, 8.0])
@pytest.mark.parametrize("gap", [1e-3, 1e-6, 0.0])
def test_scores_next_to_the_far_side(name, v, gap):
    process, x_0, x_t = away(name, min(SPACES[name][3], 3.0) - gap)
    ways, t = SPACES[name][2], v / RATE
    found = components(process.score(x_t, x_0, t), ways)
    expected = slopes(process, x_0, x_t, ways, t, 1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@spaces
@pytest.mark.parametrize("v", [1e-4, 0.1, 2.9, 3.1, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gradients_are_finite_everywhere(name, v, dtype):
    for distance in (0.0, 1e-9, 1e-4, 1.0, min(SPACES[name][3], 3.0)):
        process, x_0, x_t = away(name, distance)
        x_0, x_t = (x.to(dtype).requires_grad_() for x in (x_0, x_t))
        total = process.log_prob(x_t, x_0, v / RATE) + process.score(x_t, x_0, v / RATE).sum()
        grads = torch.autograd.grad(total, (x_0, x_t))
        assert all(g.isfinite().all() for g in (total, *grads))


@spaces
@pytest.mark.parametrize("v", [0.05, 2.0, 6.0])
def test_gradcheck_of_log_prob(name, v):
    process, x_0, x_t = away(name, 1.1)
    ways = SPACES[name][2]

    def f(at_0, at_t):
        places = [
            move(process, x, (a.unsqueeze(-1) * ways).sum(0) if ways.ndim > 1 else a.squeeze())
            for x, a in ((x_0, at_0), (x_t, at_t))
        ]
        return process.log_prob(places[1], places[0], v / RATE)

    inputs = [torch.zeros(len(ways), dtype=DOUBLE, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(f, inputs)

"""One row per process: the laws in `test_process_laws.py` run on each.

The oracles at the end draw the same laws in another way: dense Gaussian conditioning, products of
matrix exponentials, a sum over 121 images on a grid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.linalg import expm

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


# ---------------------------------------------------------------- oracles


@dataclass(frozen=True)
class DenseGaussian(Process):
    """dx = −θ(x − μ) dt + v dW by Van Loan's matrix exponential and dense conditioning."""

    mean: float
    volatility: float
    reversion: float

    def transition(self, time):
        """Return the factor of the mean and the variance after a time."""
        block = np.array([[self.reversion, self.volatility**2], [0, -self.reversion]]) * time
        phi = expm(block)
        return phi[1, 1], phi[1, 1] * phi[0, 1]

    def conditioned(self, s, t):
        """Return the factors of x_0 and x_t in the mean of x_s, both about μ, and its variance."""
        (a_s, v_s), (a, w) = self.transition(s), self.transition(t - s)
        mean, cov = np.array([a_s, a * a_s]), np.array([[v_s, a * v_s], [a * v_s, a**2 * v_s + w]])
        gain = np.linalg.solve(cov[1:, 1:], cov[1:, :1]).item()
        return mean[0] - gain * mean[1], gain, cov[0, 0] - gain * cov[1, 0]

    def _forward(self, x, s, t, draws):
        a, variance = self.transition((t - s).item())
        noise = draws.normal(x.shape, x.dtype, x.device)
        return self.mean + a * (x - self.mean) + math.sqrt(variance) * noise

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        to_0, to_t, variance = self.conditioned(s.item(), t.item())
        mean = self.mean + to_0 * (x_0 - self.mean) + to_t * (x_t - self.mean)
        return mean + math.sqrt(variance) * draws.normal(x_t.shape, x_t.dtype, x_t.device)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


@dataclass(frozen=True)
class DenseJumps(Process):
    """Tokens with any rate matrix, by products of its matrix exponentials."""

    rates: tuple[tuple[float, ...], ...]

    @classmethod
    def uniform(cls, rate, k):
        return cls(tuple(map(tuple, rate * (np.full((k, k), 1 / k) - np.eye(k)))))

    def transition(self, time):
        return torch.from_numpy(expm(np.array(self.rates) * time))

    def bridge_table(self, s, t):
        """Return the law of x_s, shape (x_0, x_t, x_s)."""
        p_s, p_ts = self.transition(s), self.transition(t - s)
        return torch.einsum("xz,zy->xyz", p_s, p_ts) / (p_s @ p_ts).unsqueeze(-1)

    def _forward(self, x, s, t, draws):
        return draws.categorical(self.transition((t - s).item())[x.cpu()].log().to(x.device))

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        table = self.bridge_table(s.item(), t.item()).to(x_t.device)
        return draws.categorical(table[x_0, x_t].log())

    def _check_dtype(self, x, name):
        assert x.dtype == torch.int64

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


@dataclass(frozen=True)
class GridAngle(Process):
    """Wrapped Brownian motion by inversion on a grid of a density summed over 121 images."""

    rate: float
    period: float
    cells: int = 512
    turns: np.ndarray = field(default_factory=lambda: np.arange(-60, 61), compare=False)

    def density(self, delta, v):
        images = delta[..., None] + self.period * self.turns
        return np.exp(-(images**2) / (2 * v)).sum(-1) / math.sqrt(2 * math.pi * v)

    def _draw(self, weight, draws):
        """Draw a turn for every row of weights over the cells, flat within a cell."""
        u, inside = (
            draws.uniform(weight.shape[:1], torch.float64, torch.device("cpu")).numpy()
            for _ in range(2)
        )
        cdf = weight.cumsum(1)
        cell = (cdf < u[:, None] * cdf[:, -1:]).sum(1)
        return ((cell + inside) / self.cells - 0.5) * self.period

    @property
    def grid(self):
        return ((np.arange(self.cells) + 0.5) / self.cells - 0.5) * self.period

    def _placed(self, x, turn):
        y = x.cpu().double().numpy() + turn
        y = (y + self.period / 2) % self.period - self.period / 2
        return torch.from_numpy(y).to(x)

    def _forward(self, x, s, t, draws):
        weight = self.density(self.grid, self.rate * (t - s).item())
        return self._placed(x, self._draw(np.broadcast_to(weight, (len(x), self.cells)), draws))

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        start = self.density(self.grid, self.rate * s.item())
        fine = np.linspace(0, self.period, 8193)
        end = self.density(fine - self.period / 2, self.rate * (t - s).item())
        delta = (x_t - x_0).cpu().double().numpy()[:, None] - self.grid
        weight = start * np.interp((delta + self.period / 2) % self.period, fine, end)
        return self._placed(x_0, self._draw(weight, draws))

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


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
    Case("rotation", ROTATION, rotations(), entries, wide=(2.9, 6.1)),
]

COMBINED = [
    Case(
        "dict", Joint(pos=OU, seq=UNIFORM, angle=ANGLE, rot=ROTATION), dict_of_four, view_of_four
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

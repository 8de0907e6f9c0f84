"""The laws of `cases.py` drawn in another way: the general process of law 7.

Dense Gaussian conditioning, products of matrix exponentials, a sum over 121 images on a grid, and
the heat kernel's series with proposals from one end.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from bridges import Draws, Process
from bridges._draw import as_draws


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


@dataclass(frozen=True)
class SeriesRotation(Process):
    """Brownian motion on SO(3) by inversion of the angle's distribution, an 80-term series.

    The bridge proposes from the kernel about x_0 and keeps in proportion to the kernel about x_t.
    """

    point_ndim: ClassVar[int] = 2

    rate: float
    order: np.ndarray = field(default_factory=lambda: np.arange(1, 81)[:, None], compare=False)

    def kernel(self, angle, v):
        wave = np.sin((self.order + 0.5) * angle) / np.sin(angle / 2)
        return 1 + ((2 * self.order + 1) * self.decay(v) * wave).sum(0)

    def decay(self, v):
        return np.exp(-self.order * (self.order + 1) * v / 2)

    def angles(self, v):
        """Return angles and the share of the kernel about the identity below them."""
        w, k = np.linspace(0, math.pi, 4001), self.order
        waves = (2 * k + 1) * self.decay(v) * (np.sin(k * w) / k - np.sin((k + 1) * w) / (k + 1))
        return (w - np.sin(w) + waves.sum(0)) / math.pi, w

    def steps(self, count, angles, draws):
        """Draw rotations with the angles of a kernel and any axis."""
        cpu = torch.device("cpu")
        u = draws.uniform((count,), torch.float64, cpu).numpy()
        axis = draws.normal((count, 3), torch.float64, cpu).numpy()
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        return Rotation.from_rotvec(np.interp(u, *angles)[:, None] * axis)

    def _forward(self, x, s, t, draws):
        step = self.steps(len(x), self.angles(self.rate * (t - s).item()), draws)
        return x @ torch.from_numpy(step.as_matrix()).to(x)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        a, b = self.rate * s.item(), self.rate * (t - s).item()
        target = Rotation.from_matrix((x_0.mT @ x_t).cpu().double().numpy())
        angles, top = self.angles(a), self.kernel(np.full(1, 1e-6), b)
        found, waiting = np.zeros((len(x_0), 3, 3)), np.arange(len(x_0))
        while len(waiting):
            proposal = self.steps(len(waiting), angles, draws)
            angle = np.maximum((proposal.inv() * target[waiting]).magnitude(), 1e-6)
            u = draws.uniform((len(waiting),), torch.float64, torch.device("cpu")).numpy()
            kept = u < self.kernel(angle, b) / top
            found[waiting[kept]] = proposal.as_matrix()[kept]
            waiting = waiting[~kept]
        return x_0 @ torch.from_numpy(found).to(x_0)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


class Few(Draws):
    """Draws that are soon used up: a row that waits for ever asks for ten thousand rounds."""

    def __init__(self, seed):
        self.draws, self.left = as_draws(torch.Generator().manual_seed(seed)), 500

    def normal(self, shape, dtype, device):
        self.left -= 1
        assert self.left > 0
        return self.draws.normal(shape, dtype, device)

    def uniform(self, shape, dtype, device):
        self.left -= 1
        assert self.left > 0
        return self.draws.uniform(shape, dtype, device)

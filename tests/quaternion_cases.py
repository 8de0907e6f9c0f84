"""The row of unit quaternions for `cases.py`, and their laws drawn in another way: by series."""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from scipy.integrate import cumulative_simpson

from bridges import Process
from bridges.quaternion import UnitQuaternionDiffusion

CPU = torch.device("cpu")
FULL = 2 * math.pi
TURNS = 4 * math.pi * np.arange(-3, 4)[:, None]


def quaternions(n=10_000):
    points = torch.tensor([[0.1, -0.7, 0.5, 0.5], [-0.8, 0.4, 0.4, 0.2]], dtype=torch.float64)
    return lambda dtype: points.to(dtype).repeat(n // 2, 1)


def coordinates(q):
    return q.double()


# ---------------------------------------------------------------- quaternions in NumPy


def times(p, q):
    """Hamilton's product, written out."""
    a, b, c, d = np.moveaxis(np.asarray(p), -1, 0)
    e, f, g, h = np.moveaxis(np.asarray(q), -1, 0)
    return np.stack(
        (
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ),
        -1,
    )


def inverse(q):
    return np.asarray(q) * np.array([1.0, -1.0, -1.0, -1.0])


def about(axis, angle):
    """The quaternion of a turn in [0, 2π] about an axis."""
    axis = np.asarray(axis) / np.linalg.norm(axis, axis=-1, keepdims=True)
    half = np.asarray(angle)[..., None] / 2
    return np.concatenate((np.cos(half) * np.ones_like(axis[..., :1]), np.sin(half) * axis), -1)


def angle(q):
    q = np.asarray(q, dtype=float)
    return 2 * np.arctan2(np.linalg.norm(q[..., 1:], axis=-1), q[..., 0])


def angle_between(p, q):
    return angle(times(inverse(p), q))


# ---------------------------------------------------------------- the kernel in NumPy


def relative_images(theta, v):
    """Σ_j (θ + 4πj) exp(−((θ + 4πj)² − θ²)/2v) for angles (N,)."""
    y = theta + TURNS
    return (y * np.exp(-(y**2 - theta**2) / (2 * v))).sum(0)


def kernel(theta, v):
    """The kernel h against the normalised measure, at angles (N,) between the ends of [0, 2π]."""
    theta = np.clip(np.asarray(theta, dtype=np.longdouble), 1e-9, FULL - 1e-9)
    if v < 2:
        front = np.exp(v / 8 - theta**2 / (2 * v)) * np.sqrt(8 * np.pi) * v**-1.5
        return front * relative_images(theta, v) / np.sin(theta / 2)
    n = np.arange(1, 16)[:, None]
    waves = n * np.exp(-(n**2 - 1) * v / 8) * np.sin(n * theta / 2)
    return waves.sum(0) / np.sin(theta / 2)


@cache
def angle_law(v):
    """Return angles and the share of the kernel below them: its series, or an integral."""
    grid = np.linspace(0, min(FULL, 14 * math.sqrt(v)), 20_001)
    if v < 0.3:
        density = np.sin(grid / 2) ** 2 / np.pi * kernel(grid, v)
        share = cumulative_simpson(density.astype(float), x=grid, initial=0)
        assert abs(share[-1] - 1) < 1e-6
        return grid, share
    share = (grid - np.sin(grid)) / FULL
    for n in range(2, 60):
        wave = np.sin((n - 1) * grid / 2) / (n - 1) - np.sin((n + 1) * grid / 2) / (n + 1)
        share = share + n * math.exp(-(n**2 - 1) * v / 8) * wave / np.pi
    return grid, share


def angle_cdf(v):
    grid, share = angle_law(v)
    return lambda theta: np.interp(theta, grid, share)


# ---------------------------------------------------------------- the bridge between fixed ends


def reach(x, v, base):
    """T(x) = Σ_j exp(−(x + 4πj)²/2v) for numbers (N,), over exp(−base²/2v)."""
    y = np.asarray(x, dtype=np.longdouble) + TURNS
    return np.exp((base**2 - y**2) / (2 * v)).sum(0)


@cache
def side_cdf(theta, a, b):
    """The law of the angle r between x_0 and x_s, with ends at the angle Θ: p(r) by quadrature.

    p(r) ∝ Σ_j (r + 4πj) e^{−(r+4πj)²/2a} · [T(r − Θ) − T(r + Θ)]; at Θ = 2π and at 0, where the
    difference vanishes, its slope in Θ.
    """
    m, sigma = theta * a / (a + b), math.sqrt(a * b / (a + b))
    low, high = max(0.0, m - 14 * sigma), min(FULL, m + 14 * sigma)
    grid = np.linspace(low, high, 6001)
    r = grid.astype(np.longdouble)
    near, far = r - theta + TURNS, r + theta + TURNS
    scale = (r - theta) ** 2
    if theta in (0, FULL):
        room = (near * np.exp(-(near**2 - scale) / (2 * b))).sum(0) * (1 if theta == 0 else -1)
    else:
        room = np.exp(-(near**2 - scale) / (2 * b)) - np.exp(-(far**2 - scale) / (2 * b))
        room = room.sum(0)
    density = np.exp(-((r - m) ** 2) / (2 * sigma**2)) * relative_images(r, a) * room
    share = cumulative_simpson((density / density.max()).astype(float), x=grid, initial=0)
    return lambda x: np.interp(x, grid, share / share[-1])


def other_side_share(r, rho, theta, b):
    """The share of the law of ρ given r below ρ: a difference of T's, uniform if all is right."""
    low, high = np.abs(r - theta), np.minimum(r + theta, 2 * FULL - r - theta)
    first, here, last = (reach(x, b, low) for x in (low, rho, high))
    return ((first - here) / (first - last)).astype(float)


@dataclass(frozen=True)
class SeriesQuaternion(Process):
    """Brownian motion on S³ by inversion of the angle's distribution, a series.

    The bridge proposes from the kernel about x_0 and keeps in proportion to the kernel about x_t.
    """

    point_ndim: ClassVar[int] = 1

    rate: float

    def steps(self, count, law, draws):
        """Draw quaternions with the angles of a kernel and any axis."""
        u = draws.uniform((count,), torch.float64, CPU).numpy()
        axis = draws.normal((count, 3), torch.float64, CPU).numpy()
        return about(axis, np.interp(u, law[1], law[0]))

    def _forward(self, x, s, t, draws):
        step = self.steps(len(x), angle_law(self.rate * (t - s).item()), draws)
        return torch.from_numpy(times(x.cpu().double().numpy(), step)).to(x)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        a, b = self.rate * s.item(), self.rate * (t - s).item()
        start, end = (x.cpu().double().numpy() for x in (x_0, x_t))
        law, top = angle_law(a), kernel(np.zeros(1), b)
        found, waiting = np.zeros_like(start), np.arange(len(start))
        while len(waiting):
            there = times(start[waiting], self.steps(len(waiting), law, draws))
            u = draws.uniform((len(waiting),), torch.float64, CPU).numpy()
            kept = u < kernel(angle_between(there, end[waiting]), b) / top
            found[waiting[kept]] = there[kept]
            waiting = waiting[~kept]
        return torch.from_numpy(found).to(x_0)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


RATE = 1.3
QUATERNION = UnitQuaternionDiffusion(RATE)
GENERAL = SeriesQuaternion(RATE)
WIDE = (2.9, 6.1)
"""Times after which quaternions have gone around: the other times of `cases.py`."""

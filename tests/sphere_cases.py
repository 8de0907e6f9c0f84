"""The row of the sphere for `cases.py`, and its laws drawn in another way: by Legendre series."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy import stats

from bridges import Process
from bridges.sphere import SphereDiffusion

CPU = torch.device("cpu")
ANGLES = np.linspace(0, math.pi, 4001)


def vectors(n=10_000):
    points = torch.tensor([[0.6, -0.64, 0.48], [-2 / 7, 3 / 7, 6 / 7]], dtype=torch.float64)
    return lambda dtype: points.to(dtype).repeat(n // 2, 1)


def coordinates(x):
    return x.double()


def legendre(cos, count):
    """P_0, P_1, … of numbers (N,) by their recurrence, shape (count, N)."""
    rows = [np.ones_like(cos), cos]
    for order in range(1, count - 1):
        rows.append(((2 * order + 1) * cos * rows[-1] - order * rows[-2]) / (order + 1))
    return np.array(rows)


def orders(v):
    """l = 1, 2, …, as a column, up to where e^{−l(l+1)v/2} is below e^−80."""
    return np.arange(1, 3 + math.ceil(math.sqrt(160 / v)))[:, None]


def series(cos, v):
    """The kernel of variance v at angles of these cosines (N,), against the normalised area."""
    order = orders(v)
    waves = (2 * order + 1) * np.exp(-order * (order + 1) * v / 2)
    return 1 + (waves * legendre(cos, len(order) + 1)[1:]).sum(0)


def share_within(angle, v):
    """The probability that Brownian motion of variance v ends within angles (N,) of its start."""
    order = orders(v)
    waves = legendre(np.cos(angle), len(order) + 2)
    decay = np.exp(-order * (order + 1) * v / 2)
    return np.sin(angle / 2) ** 2 + 0.5 * (decay * (waves[:-2] - waves[2:])).sum(0)


def angle_cdf(v):
    """The same as a function: from a table, or the law in the plane where that is as good."""
    if v < 1e-5:
        return stats.rayleigh(scale=math.sqrt(v)).cdf
    grid = np.linspace(0, min(math.pi, 10 * math.sqrt(v)), 2001)
    values = share_within(grid, v)
    assert abs(values[-1] - 1) < 1e-9
    return lambda angle: np.interp(angle, grid, values)


def angle(x, y):
    """Angles between unit vectors, in float64."""
    x, y = x.double(), y.double()
    return torch.atan2(torch.linalg.cross(x, y).norm(dim=-1), (x * y).sum(-1))


def ks(x, y, v):
    """The probability of angles at least as far from the law of Brownian motion of variance v."""
    return stats.kstest(angle(x, y).numpy(), angle_cdf(v)).pvalue


def at_angle(x, beta, way=(1.0, -2.0, 0.4)):
    """Points at angles from a unit vector, all on one great circle; exactly −x at π."""
    beta = torch.as_tensor(beta, dtype=torch.float64).unsqueeze(-1)
    side = torch.linalg.cross(x, torch.tensor(way, dtype=x.dtype))
    y = beta.cos().to(x) * x + beta.sin().to(x) * side / side.norm()
    return torch.where(beta == math.pi, -x, y)


@dataclass(frozen=True)
class SeriesSphere(Process):
    """Brownian motion on the sphere by inversion of the series of its angle's distribution.

    The bridge proposes from the kernel about x_0 and keeps in proportion to the kernel about x_t.
    """

    point_ndim: ClassVar[int] = 1

    rate: float

    def steps(self, x, share, draws):
        """Leave points by angles with these shares, in any direction."""
        u = draws.uniform((len(x), 1), torch.float64, CPU).numpy()
        angle = np.interp(u, share, ANGLES)
        side = np.cross(x, draws.normal((len(x), 3), torch.float64, CPU).numpy())
        return np.cos(angle) * x + np.sin(angle) * side / np.linalg.norm(side, axis=1)[:, None]

    def _forward(self, x, s, t, draws):
        share = share_within(ANGLES, self.rate * (t - s).item())
        return torch.from_numpy(self.steps(x.cpu().double().numpy(), share, draws)).to(x)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        a, b = self.rate * s.item(), self.rate * (t - s).item()
        start, end = (x.cpu().double().numpy() for x in (x_0, x_t))
        share, keep = share_within(ANGLES, a), series(np.cos(ANGLES), b)
        found, waiting = np.zeros_like(start), np.arange(len(start))
        while len(waiting):
            proposal = self.steps(start[waiting], share, draws)
            angle = np.arccos((proposal * end[waiting]).sum(1).clip(-1, 1))
            u = draws.uniform((len(waiting),), torch.float64, CPU).numpy()
            kept = u < np.interp(angle, ANGLES, keep / keep[0])
            found[waiting[kept]] = proposal[kept]
            waiting = waiting[~kept]
        return torch.from_numpy(found).to(x_0)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


SPHERE = SphereDiffusion(1.1)
SPHERE_ORACLE = SeriesSphere(1.1)

ROW = {
    "name": "sphere",
    "process": SPHERE,
    "point": vectors(),
    "view": coordinates,
    "general": SPHERE_ORACLE,
}
"""What `cases.Case` takes."""

"""The row of the sphere for `cases.py`, and its laws drawn in another way: by Legendre series."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import eval_legendre

from bridges import Process
from bridges.sphere import SphereDiffusion

CPU = torch.device("cpu")
ANGLES = np.linspace(0, math.pi, 4001)


def vectors(n=10_000):
    points = torch.tensor([[0.6, -0.64, 0.48], [-2 / 7, 3 / 7, 6 / 7]], dtype=torch.float64)
    return lambda dtype: points.to(dtype).repeat(n // 2, 1)


def coordinates(x):
    return x.double()


def orders(v):
    """Return l = 1, 2, …, as a column, up to where e^{−l(l+1)v/2} is below e^−80."""
    return np.arange(1, 3 + math.ceil(math.sqrt(160 / v)))[:, None]


def series(cos, v):
    """The kernel of variance v at angles of these cosines, against the normalised area."""
    cos, order = np.asarray(cos, dtype=float), orders(v)
    waves = (2 * order + 1) * np.exp(-order * (order + 1) * v / 2)
    return 1 + (waves * eval_legendre(order, cos.reshape(1, -1))).sum(0).reshape(cos.shape)


def share_within(angle, v):
    """The probability that Brownian motion of variance v ends within an angle of its start."""
    cos, order = np.cos(np.asarray(angle, dtype=float)), orders(v)
    waves = eval_legendre(order - 1, cos) - eval_legendre(order + 1, cos)
    return np.sin(np.asarray(angle) / 2) ** 2 + 0.5 * (
        np.exp(-order * (order + 1) * v / 2) * waves
    ).sum(0)


def angle_cdf(v):
    """The same as a function, from a table."""
    grid = np.linspace(0, min(math.pi, 10 * math.sqrt(v)), 2001)
    values = share_within(grid, v)
    assert abs(values[-1] - 1) < 1e-9
    return lambda angle: np.interp(angle, grid, values)


@dataclass(frozen=True)
class SeriesSphere(Process):
    """Brownian motion on the sphere by inversion of the series of its angle's distribution.

    The bridge proposes from the kernel about x_0 and keeps in proportion to the kernel about x_t.
    """

    point_ndim: ClassVar[int] = 1

    rate: float

    def steps(self, x, v, draws):
        """Leave points by the angle of a kernel, in any direction."""
        u = draws.uniform((len(x), 1), torch.float64, CPU).numpy()
        angle = np.interp(u, share_within(ANGLES, v), ANGLES)
        side = np.cross(x, draws.normal((len(x), 3), torch.float64, CPU).numpy())
        return np.cos(angle) * x + np.sin(angle) * side / np.linalg.norm(side, axis=1)[:, None]

    def _forward(self, x, s, t, draws):
        step = self.steps(x.cpu().double().numpy(), self.rate * (t - s).item(), draws)
        return torch.from_numpy(step).to(x)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        a, b = self.rate * s.item(), self.rate * (t - s).item()
        start, end = (x.cpu().double().numpy() for x in (x_0, x_t))
        keep = series(np.cos(ANGLES), b) / series(1.0, b)
        found, waiting = np.zeros_like(start), np.arange(len(start))
        while len(waiting):
            proposal = self.steps(start[waiting], a, draws)
            angle = np.arccos((proposal * end[waiting]).sum(1).clip(-1, 1))
            u = draws.uniform((len(waiting),), torch.float64, CPU).numpy()
            kept = u < np.interp(angle, ANGLES, keep)
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

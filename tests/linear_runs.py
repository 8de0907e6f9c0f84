"""Runs on normal data: every linear sampler is then one affine map of its start and its noise.

The map is a matrix (2, 1 + 2 + 2K): its columns belong to the number 1, to the two elements of the
start and to those of K draws. `columns` finds that of a solver, by a run on unit vectors, and a
`Walk` has what it takes to write the same map by hand.
"""

import numpy as np
import torch

from bridges import GivenDraws, OrnsteinUhlenbeckDiffusion, sample_backward
from bridges.gaussian import GaussianDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.vp_schedule import CosineSchedule

MEAN = np.array([0.7, -0.4])
COV = np.array([[0.5, 0.2], [0.2, 0.3]])
RUNS = {
    "rectified": (GaussianDiffusion(RectifiedSchedule()), [0.05, 0.3, 0.55, 0.62, 0.9, 0.98]),
    "cosine": (GaussianDiffusion(CosineSchedule()), [0.1, 0.2, 0.6, 0.85, 0.97]),
    "about a mean": (OrnsteinUhlenbeckDiffusion(0.5, 1.2, 0.8), [0.1, 0.4, 0.6, 1.0, 2.5]),
}


class Walk:
    """A process and a grid in NumPy; all states are about the process's mean."""

    def __init__(self, process, grid, draws=0):
        self.process, self.grid, self.draws = process, grid, draws
        self.mean, self.width = getattr(process, "mean", 0.0), 3 + 2 * draws

    def scales(self, t):
        alpha, sigma = self.process._scales(torch.tensor(t, dtype=torch.float64))
        return alpha.item(), sigma.item()

    def denoiser(self, t):
        """Return D and d of the posterior mean D y + d, about the mean."""
        alpha, sigma = self.scales(t)
        gain = alpha * COV @ np.linalg.inv(alpha**2 * COV + sigma**2 * np.eye(2))
        m = MEAN - self.mean
        return gain, m - gain @ (alpha * m)

    def guess(self, y, t):
        gain, shift = self.denoiser(t)
        return gain @ y + np.outer(shift, np.eye(self.width)[0])

    def noise(self, y, t):
        """Return the ε that the guess says."""
        alpha, sigma = self.scales(t)
        return (y - alpha * self.guess(y, t)) / sigma

    def start(self):
        y = np.zeros((2, self.width))
        y[:, 0], y[:, 1:3] = -self.mean, np.eye(2)
        return y

    def draw(self, k):
        """Return the map of draw k, which is the draw itself."""
        e = np.zeros((2, self.width))
        e[:, 3 + 2 * k : 5 + 2 * k] = np.eye(2)
        return e

    def steps(self):
        """List (t, s) in the order of the walk."""
        return list(zip(self.grid[:0:-1], self.grid[-2::-1], strict=True))

    def done(self, y):
        y = y.copy()
        y[:, 0] += self.mean
        return y


def columns(process, grid, solver, draws=0):
    """Return the affine map of a solver; with None and a number of draws, of the own step."""
    walk = Walk(process, grid, draws)
    width = walk.width

    def guess(x_t, t):
        gain, shift = map(torch.from_numpy, walk.denoiser(t[0].item()))
        return walk.mean + (x_t - walk.mean) @ gain.T + shift

    x = torch.zeros(width, 2, dtype=torch.float64)
    x[1:3] = torch.eye(2)
    normals = torch.zeros(draws, width, 2, dtype=torch.float64)
    for k in range(draws):
        normals[k, 3 + 2 * k : 5 + 2 * k] = torch.eye(2)
    noise = GivenDraws(normals=list(normals))
    end = sample_backward(guess, process, grid, x, solver=solver, generator=noise)
    found = (end - end[:1]).T
    found[:, 0] = end[0]
    return found.numpy()


def law(found, sigma):
    """Return the mean and the covariance of the end, from a start N(0, σ²)."""
    linear = np.concatenate((sigma * found[:, 1:3], found[:, 3:]), 1)
    return found[:, 0], linear @ linear.T

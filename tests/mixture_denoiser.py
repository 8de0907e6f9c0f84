"""The exact posterior mean of x_0 under a mixture of normals, for any Gaussian process."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bridges import Process
from bridges.schedule import Schedule

DOUBLE = torch.float64


@dataclass(frozen=True)
class MixtureDenoiser:
    """E[x_0 | x_t] for data with density Σ w_k N(m_k, C_k) in D dimensions.

    States are `(B, D)`; a process noises their elements alike. Shapes: w (K,), m (K, D) and
    C (K, D, D), all in float64.
    """

    process: Process
    weight: Tensor
    centre: Tensor
    covariance: Tensor

    @property
    def schedule(self) -> Schedule:
        return self.process.schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (scale[:, None, None] for scale in self.process._scales(t.double()))
        mean = getattr(self.process, "mean", 0.0)
        values, vectors = torch.linalg.eigh(self.covariance)
        m, y = self.centre - mean, x_t.double() - mean
        gap = torch.einsum("kdi,bkd->bki", vectors, y[:, None] - alpha * m)
        v = alpha**2 * values + sigma**2
        log_w = self.weight.log() - 0.5 * (gap**2 / v + v.log()).sum(-1)
        shift = torch.einsum("kdi,bki->bkd", vectors, alpha * values / v * gap)
        means = mean + m + shift
        return (log_w.softmax(-1)[..., None] * means).sum(1).to(x_t.dtype)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n data."""
        k = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        root = torch.linalg.cholesky(self.covariance)[k]
        noise = torch.randn(n, self.centre.shape[1], dtype=DOUBLE, generator=generator)
        return self.centre[k] + torch.einsum("bij,bj->bi", root, noise)


def on_a_line(process: Process) -> MixtureDenoiser:
    """Return a lopsided mixture of three normals in one dimension."""
    return MixtureDenoiser(
        process,
        torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE),
        torch.tensor([[-1.2], [0.4], [1.7]], dtype=DOUBLE),
        torch.tensor([0.3, 0.15, 0.4], dtype=DOUBLE).square().reshape(3, 1, 1),
    )


def in_a_plane(process: Process) -> MixtureDenoiser:
    """Return a lopsided mixture of two normals in two dimensions, none along an axis."""
    return MixtureDenoiser(
        process,
        torch.tensor([0.65, 0.35], dtype=DOUBLE),
        torch.tensor([[-1.0, 0.5], [1.3, -0.4]], dtype=DOUBLE),
        torch.tensor([[[0.2, 0.1], [0.1, 0.3]], [[0.15, -0.05], [-0.05, 0.1]]], dtype=DOUBLE),
    )

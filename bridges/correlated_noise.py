"""Structured noise on symmetric matrices and along chains; see `linear_noise`."""

import math
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from bridges._device import host
from bridges._precision import exact
from bridges._shapes import Constant, as_count, as_number, describe
from bridges.linear_noise import LinearNoise


@final
@dataclass(frozen=True)
class SymmetricNoise(LinearNoise):
    r"""Noise on symmetric matrices: one normal number for each pair, and one for each diagonal.

    .. math:: A z = (z + z^T)/\sqrt2 \quad \text{off the diagonal}, \qquad
        (A z)_{ii} = s\,z_{ii}

    Entries off the diagonal have variance 1. A density is with respect to the lengths of the space
    of all matrices, where a pair that moves by δ moves the matrix by :math:`\sqrt2\,\delta`.

    References:
        Jo, Lee & Hwang, Score-based generative modeling of graphs via the system of stochastic
        differential equations, 2022 (hollow matrices: the adjacency of graphs).

    Args:
        n: the number of rows.
        diagonal: s, the standard deviation on the diagonal, at least 0: :math:`\sqrt2` gives the
            Gaussian orthogonal ensemble, 0 hollow matrices.

    Raises:
        TypeError, ValueError: if n is not a positive integer or diagonal not a number from 0.

    >>> SymmetricNoise(2, diagonal=0.0)(torch.tensor([[5.0, 1.0], [3.0, 7.0]]))
    tensor([[0.0000, 2.8284],
            [2.8284, 0.0000]])
    """

    n: int
    diagonal: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", as_count(self.n, "n"))
        if as_number(self.diagonal, "diagonal") < 0:
            raise ValueError(f"Expected diagonal to be at least 0; got {self.diagonal!r}.")

    @property
    def point_shape(self) -> tuple[int, ...]:
        return self.n, self.n

    @property
    def condition(self) -> str:
        return "be symmetric" + ("" if self.diagonal else " with a diagonal of 0")

    def _sum(self, x: Tensor, off: float, diagonal: float) -> Tensor:
        """Return (x + xᵀ)/2 times one factor off the diagonal and another on it."""
        factor = torch.full((self.n, self.n), off / 2, dtype=x.dtype, device=x.device)
        return (x + x.mT) * factor.fill_diagonal_(diagonal / 2)

    def __call__(self, z: Tensor) -> Tensor:
        return self._sum(z, math.sqrt(2), self.diagonal)

    def project(self, x: Tensor) -> Tensor:
        return self._sum(x, 1.0, 1.0 if self.diagonal else 0.0)

    def covariance(self, y: Tensor) -> Tensor:
        return self._sum(y, 2.0, self.diagonal**2)

    def precision(self, y: Tensor) -> Tensor:
        return self._sum(y, 0.5, self.diagonal**-2 if self.diagonal else 0.0)

    @property
    def _pairs(self) -> int:
        return self.n * (self.n - 1) // 2

    def rank(self, device: torch.device) -> Tensor:
        return _number(self._pairs + (self.n if self.diagonal else 0))

    def trace(self, device: torch.device) -> Tensor:
        return _number(2 * self._pairs + self.n * self.diagonal**2)

    def log_det(self, device: torch.device) -> Tensor:
        log_diagonal = 2 * self.n * math.log(self.diagonal) if self.diagonal else 0.0
        return _number(self._pairs * math.log(2) + log_diagonal)


@final
@dataclass(frozen=True, eq=False)
class CovarianceFactor(LinearNoise):
    r"""Noise that is correlated along a chain of n points, with a given factor of its covariance.

    .. math:: A z = L z, \qquad A A^T = L L^T \quad \text{for each coordinate}

    Args:
        factor: L, invertible, shape `(n, n)`.
        d: the number of coordinates of a point.

    Raises:
        TypeError, ValueError: if the factor is not an invertible matrix.

    >>> noise = CovarianceFactor(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), 1)
    >>> noise(torch.tensor([[1.0], [2.0]])).T
    tensor([[1.0000, 2.2000]])
    """

    factor: Tensor
    d: int = 3
    _factors: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "d", as_count(self.d, "d"))
        if not isinstance(self.factor, Tensor) or not self.factor.is_floating_point():
            raise TypeError(f"Expected factor to be floating; got {describe(self.factor)}.")
        n = len(self.factor) if self.factor.ndim else 0
        if n == 0 or self.factor.shape != (n, n):
            raise ValueError(
                f"Expected factor to be a square matrix; got {describe(self.factor)}."
            )
        factor = self.factor.detach().double()
        rank = int(torch.linalg.matrix_rank(factor)) if bool(factor.isfinite().all()) else 0
        if rank < n:
            raise ValueError(f"Expected factor to be invertible; got rank {rank} of {n}.")
        pair = torch.stack((factor, torch.linalg.inv(factor)))
        object.__setattr__(self, "_factors", Constant(pair))

    @classmethod
    def chain(cls, n: int, correlation: float, d: int = 3) -> "CovarianceFactor":
        r"""Return noise of variance 1 whose neighbours along a chain are correlated.

        .. math:: (L L^T)_{ij} = \rho^{|i - j|}

        A chain then moves as a polymer does, more together than apart.

        References:
            Ingraham et al., Illuminating protein space with a programmable generative model, 2023
            (Chroma; the idea, with a covariance of its own).

        Args:
            n: the number of points.
            correlation: ρ between neighbours, between −1 and 1.
            d: the number of coordinates of a point.

        >>> CovarianceFactor.chain(3, 0.5).covariance(torch.eye(3))[0]
        tensor([1.0000, 0.5000, 0.2500])
        """
        n = as_count(n, "n")
        if not -1 < as_number(correlation, "correlation") < 1:
            raise ValueError(f"Expected correlation to lie in (−1, 1); got {correlation!r}.")
        i = torch.arange(n, dtype=torch.float64, device="cpu")
        factor = torch.tril(correlation ** (i[:, None] - i).clamp(min=0))
        factor[:, 1:] *= math.sqrt(1 - correlation**2)
        return cls(factor, d)

    @property
    def point_shape(self) -> tuple[int, ...]:
        return len(self.factor), self.d

    @property
    def condition(self) -> str:
        return "be any point"

    def __call__(self, z: Tensor) -> Tensor:
        return _along(self._factors.on(z.device)[0], z)

    def project(self, x: Tensor) -> Tensor:
        return x

    def covariance(self, y: Tensor) -> Tensor:
        factor = self._factors.on(y.device)[0]
        return _along(factor, _along(factor.mT, y))

    def precision(self, y: Tensor) -> Tensor:
        inverse = self._factors.on(y.device)[1]
        return _along(inverse.mT, _along(inverse, y))

    def rank(self, device: torch.device) -> Tensor:
        return _number(len(self.factor) * self.d)

    def trace(self, device: torch.device) -> Tensor:
        return self.d * self._factors.on(device)[0].square().sum()

    def log_det(self, device: torch.device) -> Tensor:
        log_det: Tensor = torch.linalg.slogdet(self._factors.on(device)[0]).logabsdet
        return 2 * self.d * log_det


def _number(value: float) -> Tensor:
    return host(value)


@exact
def _along(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply a matrix along the chain: as one product, six times faster than one per example."""
    y: Tensor = torch.einsum("ij,...jd->...id", matrix.to(x.dtype), x)
    return y

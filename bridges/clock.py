r"""Clocks: time changes that any process can run on, and time grids.

A clock is an increasing function :math:`\tau(t)` with :math:`\tau(0) = 0` exactly. A process on a
clock has the law of the process at the times :math:`\tau(s), \tau(t)`; nothing else about it
changes. A formula with a positive value at zero (a geometric one) holds for t > 0 and jumps to 0
at t = 0, so that t = 0 is data.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bridges._shapes import describe, positive


class Clock(ABC):
    """An increasing time change τ(t) with τ(0) = 0, its inverse and its derivative.

    All three take and return float64 tensors of any shape.
    """

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """Return the clock time τ(t)."""

    @abstractmethod
    def inverse(self, tau: Tensor) -> Tensor:
        """Return the t with τ(t) = `tau`."""

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """Return dτ/dt, for t > 0."""


@final
@dataclass(frozen=True)
class LinearClock(Clock):
    r"""The clock :math:`\tau(t) = c\,t`.

    Args:
        factor: c, positive.

    >>> LinearClock(3.0)(torch.tensor(2.0))
    tensor(6.)
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        positive(self.factor, "factor")

    def __call__(self, t: Tensor) -> Tensor:
        return self.factor * t

    def inverse(self, tau: Tensor) -> Tensor:
        return tau / self.factor

    def derivative(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.factor)


@final
@dataclass(frozen=True)
class PowerClock(Clock):
    r"""The clock :math:`\tau(t) = c\,t^p`.

    Args:
        power: p, positive.
        factor: c, positive.

    >>> PowerClock(2.0)(torch.tensor(3.0))
    tensor(9.)
    """

    power: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        positive(self.power, "power")
        positive(self.factor, "factor")

    def __call__(self, t: Tensor) -> Tensor:
        return self.factor * t**self.power

    def inverse(self, tau: Tensor) -> Tensor:
        return (tau / self.factor) ** (1 / self.power)

    def derivative(self, t: Tensor) -> Tensor:
        return self.factor * self.power * t ** (self.power - 1)


@final
@dataclass(frozen=True)
class GeometricClock(Clock):
    r"""The clock :math:`\tau(t) = \tau_0 (\tau_1/\tau_0)^t` for t > 0, and :math:`\tau(0) = 0`.

    Times drawn uniformly then spend equal shares on every order of magnitude of the noise, as in
    the variance-exploding SDE.

    References:
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021.

    Args:
        low: τ₀, the value just above t = 0; positive.
        high: τ₁, the value at t = 1; above `low`.

    >>> GeometricClock(0.01, 4.0)(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.2000, 4.0000])
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if positive(self.high, "high") <= positive(self.low, "low"):
            raise ValueError(f"Expected high to exceed low ({self.low}); got {self.high}.")

    def __call__(self, t: Tensor) -> Tensor:
        tau = self.low * torch.exp(t * math.log(self.high / self.low))
        return torch.where(t > 0, tau, torch.zeros_like(tau))

    def inverse(self, tau: Tensor) -> Tensor:
        t = torch.log(tau / self.low) / math.log(self.high / self.low)
        return torch.where(tau > 0, t, torch.zeros_like(t))

    def derivative(self, t: Tensor) -> Tensor:
        return math.log(self.high / self.low) * self(t)


def timeschedule(
    f: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    lb: float,
    ub: float,
    n: int,
) -> Tensor:
    """Return a grid of n times from lb to ub, evenly spaced in `inverse` and mapped back by `f`.

    Args:
        f: an increasing function of float64 tensors.
        inverse: its inverse.
        lb: the first time.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    Returns:
        A float64 tensor of shape (n,), increasing; both ends exact.

    Raises:
        ValueError: if n is below 2 or the times do not increase.

    >>> timeschedule(lambda u: 10**u, torch.log10, 0.01, 100.0, 5)
    tensor([1.0000e-02, 1.0000e-01, 1.0000e+00, 1.0000e+01, 1.0000e+02],
           dtype=torch.float64)
    """
    if type(n) is not int or n < 2:
        raise ValueError(f"Expected n to be an integer of at least 2; got {describe(n)}.")
    ends = inverse(torch.tensor([lb, ub], dtype=torch.float64))
    u = torch.linspace(ends[0].item(), ends[1].item(), n, dtype=torch.float64)
    grid = f(u)
    grid[0], grid[-1] = lb, ub
    if not bool((grid[1:] > grid[:-1]).all()):
        raise ValueError("Expected the times to increase from lb to ub; got a grid that does not.")
    return grid

r"""Clocks: time changes that any process can run on.

A clock is an increasing function :math:`\tau(t)` with :math:`\tau(0) = 0` exactly. A process on a
clock has the law of the process at the times :math:`\tau(s), \tau(t)`; nothing else about it
changes. A formula with a positive value at zero (a geometric one) holds for t > 0 and jumps to 0
at t = 0, so that t = 0 is data; its inverse is 0 up to that value.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bridges._shapes import positive


def check_range(low: float, high: float) -> None:
    """Raise unless 0 < low < high."""
    if positive(high, "high") <= positive(low, "low"):
        raise ValueError(f"Expected high to exceed low ({low}); got {high}.")


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
class LinearRateClock(Clock):
    r"""The clock whose rate grows linearly: :math:`\tau(t) = a\,t + \tfrac12 (b - a)\,t^2`.

    The Ornstein–Uhlenbeck process with its default volatility and reversion becomes the
    variance-preserving SDE with :math:`\beta(t) = a + (b - a)\,t`: :math:`\alpha_t = e^{-\tau/2}`,
    :math:`\sigma_t^2 = 1 - e^{-\tau}`.

    References:
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021; low 0.1 and high 20 there (β_min, β_max).

    Args:
        low: a, the rate at t = 0; positive.
        high: b, the rate at t = 1; above `low`.

    >>> LinearRateClock(1.0, 3.0)(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.7500, 2.0000])
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    def __call__(self, t: Tensor) -> Tensor:
        return t * (self.low + (self.high - self.low) / 2 * t)

    def inverse(self, tau: Tensor) -> Tensor:
        root = torch.sqrt(self.low**2 + 2 * (self.high - self.low) * tau)
        return 2 * tau / (self.low + root)

    def derivative(self, t: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * t


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
        check_range(self.low, self.high)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.high / self.low)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self.low * torch.exp(t * self._log_ratio), 0.0)

    def inverse(self, tau: Tensor) -> Tensor:
        return torch.log((tau / self.low).clamp(min=1)) / self._log_ratio

    def derivative(self, t: Tensor) -> Tensor:
        return self._log_ratio * self(t)


@final
@dataclass(frozen=True)
class LogarithmicClock(Clock):
    r"""The clock :math:`\tau = \sigma(t)^2` with a logarithmic σ for t > 0, and τ(0) = 0.

    .. math:: \sigma(t) = \log\big(t\,e^{b} + (1 - t)\,e^{a}\big)
        = a + \log\big(1 + t\,(e^{b-a} - 1)\big)

    With rate 1, σ is then the standard deviation per axis of FrameDiff's rotations.

    References:
        Yim et al., SE(3) diffusion model with application to protein backbone generation, 2023;
        low 0.1 and high 1.5 there.

    Args:
        low: a, the σ just above t = 0; positive.
        high: b, the σ at t = 1; above `low`.

    >>> LogarithmicClock(0.1, 1.5)(torch.tensor([0.0, 1e-9, 1.0]))
    tensor([0.0000, 0.0100, 2.2500])
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        check_range(self.low, self.high)

    @property
    def _growth(self) -> float:
        return math.expm1(self.high - self.low)

    def _sigma(self, t: Tensor) -> Tensor:
        return self.low + torch.log1p(self._growth * t)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self._sigma(t).square(), 0.0)

    def inverse(self, tau: Tensor) -> Tensor:
        sigma = tau.clamp(min=self.low**2).sqrt()
        return torch.expm1(sigma - self.low) / self._growth

    def derivative(self, t: Tensor) -> Tensor:
        return 2 * self._sigma(t) * self._growth / (1 + self._growth * t)

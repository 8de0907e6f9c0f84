r"""Curves: the variables in which a solver of the probability flow takes its straight steps.

With the mean taken off, :math:`y_t = \alpha_t y_0 + \sigma_t \varepsilon`, and along the flow
a denoiser changes :math:`y_0` and :math:`\varepsilon` slowly. Divided by a size S, as a function
of a place θ, the flow of any schedule is

.. math:: \frac{d}{d\theta}\,\frac{y}{S} = g, \qquad
    \frac{y}{S} = A\,y_0 + B\,\varepsilon, \qquad g = A'\,y_0 + B'\,\varepsilon,

and S and θ are free. A solver is as good as g is smooth, so it depends on the curve
:math:`(A, B)` that the solver follows, and not on that of the schedule:

=============  ==========================  ==========================  =====================
curve          S                           θ                           g
=============  ==========================  ==========================  =====================
`NoiseCurve`   α                           u = σ/α                     ε
`DataCurve`    σ                           α/σ                         y_0
`LineCurve`    α + σ                       σ/(α + σ)                   ε − y_0
`CircleCurve`  √(α² + σ²)                  the angle φ = atan(σ/α)     cos φ ε − sin φ y_0
=============  ==========================  ==========================  =====================
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import describe
from bridges.process import Process


class Scales(NamedTuple):
    """α and σ of one time or of many, in float64."""

    alpha: Tensor
    sigma: Tensor

    def shares(self, of_y_0: Tensor, of_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Turn factors of y_0 and ε into those of y_t and y_0; where σ = 0, ε counts as 0.

        >>> Scales(torch.tensor(0.6), torch.tensor(0.5)).shares(torch.tensor(1.0), torch.tensor(2))
        (tensor(4.), tensor(-1.4000))
        """
        noisy = self.sigma > 0
        of_y_t = torch.where(noisy, of_noise / torch.where(noisy, self.sigma, 1.0), 0.0)
        return of_y_t, of_y_0 - of_y_t * self.alpha

    @property
    def log_ratio(self) -> Tensor:
        """The logarithm of σ/α: −∞ at the data, ∞ where nothing is left of them."""
        return self.sigma.log() - self.alpha.log()


class Curve(ABC):
    """A size S and a place θ; all hooks take and return float64 tensors."""

    @abstractmethod
    def size(self, at: Scales) -> Tensor:
        """Return S."""

    @abstractmethod
    def place(self, at: Scales) -> Tensor:
        """Return θ."""

    @abstractmethod
    def speed(self, log_ratio: Tensor) -> Tensor:
        """Return dθ/dl, where l is the logarithm of σ/α."""

    @abstractmethod
    def slopes(self, at: Scales) -> tuple[Tensor, Tensor]:
        """Return A' and B', the factors of y_0 and ε in g."""

    def ahead(self, t: Scales, s: Scales) -> tuple[Tensor, Tensor]:
        """Return the factors of y_0 and ε in y_s after a straight step from t.

        On a curve that is straight they are α_s and σ_s, whichever curve it is.
        """
        return s.alpha, s.sigma

    def slope(
        self, process: Process, x_t: Tensor, x_0: Tensor, shares: tuple[Any, Any], draws: Draws
    ) -> Tensor:
        """Return g about the process's mean, from the shares of y_t and y_0 in it."""
        found: Tensor = process._combine(x_t, shares[0], ((shares[1], x_0),), 0.0, draws)
        return found


@final
@dataclass(frozen=True)
class NoiseCurve(Curve):
    """The curve on which data stand still and noise is added: g = ε.

    Where α = 0 its place is at infinity, and nothing is extrapolated from there.
    """

    def size(self, at: Scales) -> Tensor:
        return at.alpha

    def place(self, at: Scales) -> Tensor:
        return at.sigma / at.alpha

    def speed(self, log_ratio: Tensor) -> Tensor:
        return log_ratio.exp()

    def slopes(self, at: Scales) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(at.alpha), torch.ones_like(at.alpha)


@final
@dataclass(frozen=True)
class DataCurve(Curve):
    """The curve on which noise stands still and data are added: g = y_0."""

    def size(self, at: Scales) -> Tensor:
        return at.sigma

    def place(self, at: Scales) -> Tensor:
        return at.alpha / at.sigma

    def speed(self, log_ratio: Tensor) -> Tensor:
        return -torch.exp(-log_ratio)

    def slopes(self, at: Scales) -> tuple[Tensor, Tensor]:
        return torch.ones_like(at.alpha), torch.zeros_like(at.alpha)

    def slope(
        self, process: Process, x_t: Tensor, x_0: Tensor, shares: tuple[Any, Any], draws: Draws
    ) -> Tensor:
        return x_0


@final
@dataclass(frozen=True)
class LineCurve(Curve):
    """The line from data to noise, that of `RectifiedSchedule`: g = ε − y_0."""

    def size(self, at: Scales) -> Tensor:
        return at.alpha + at.sigma

    def place(self, at: Scales) -> Tensor:
        return at.sigma / (at.alpha + at.sigma)

    def speed(self, log_ratio: Tensor) -> Tensor:
        return torch.sigmoid(log_ratio) * torch.sigmoid(-log_ratio)

    def slopes(self, at: Scales) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(at.alpha), torch.ones_like(at.alpha)


@final
@dataclass(frozen=True)
class CircleCurve(Curve):
    """The quarter circle of the variance-preserving schedules: g is tangent to it.

    It is not straight: a step along the tangent leaves it, and is not DDIM's.
    """

    def size(self, at: Scales) -> Tensor:
        return torch.hypot(at.alpha, at.sigma)

    def place(self, at: Scales) -> Tensor:
        return torch.atan2(at.sigma, at.alpha)

    def speed(self, log_ratio: Tensor) -> Tensor:
        return 0.5 / torch.cosh(log_ratio)

    def slopes(self, at: Scales) -> tuple[Tensor, Tensor]:
        return -at.sigma / self.size(at), at.alpha / self.size(at)

    def ahead(self, t: Scales, s: Scales) -> tuple[Tensor, Tensor]:
        turn, (a, b) = self.place(s) - self.place(t), self.slopes(t)
        return self.size(s) * (b + turn * a), self.size(s) * (turn * b - a)


def check_curve(curve: object) -> None:
    """Raise a TypeError unless this is a curve."""
    if not isinstance(curve, Curve):
        raise TypeError(f"Expected curve to be a Curve; got {describe(curve)}.")

r"""Clocks that say what is left of x_0 at t.

A process forgets x_0 by a factor such as :math:`e^{-\tau}` or :math:`e^{-\tau/2}`; on these clocks
the factor is a chosen function of t. Where nothing is left τ is ∞, and it stays so.
"""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from bridges._shapes import as_number, describe
from bridges.clock import Clock


@final
@dataclass(frozen=True)
class LogLinearClock(Clock):
    r"""The clock :math:`\tau(t) = -\log(1 - (1 - \varepsilon)\,t)`, on which e^{−τ} is linear.

    A token with jump rate 1 has forgotten x_0 by t with probability :math:`(1 - \varepsilon)\,t`.

    References:
        Lou et al., Discrete diffusion modeling by estimating the ratios of the data distribution,
        2024 (SEDD's log-linear noise; ε 10⁻³ there).
        Sahoo et al., Simple and effective masked diffusion language models, 2024.

    Args:
        epsilon: ε, the share that is left at t = 1, 0 ≤ ε < 1; at 0, τ(1) = ∞.

    >>> torch.exp(-LogLinearClock(0.0)(torch.tensor([0.0, 0.25, 1.0])))
    tensor([1.0000, 0.7500, 0.0000])
    """

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 <= as_number(self.epsilon, "epsilon") < 1:
            raise ValueError(f"Expected epsilon to lie in [0, 1); got {self.epsilon!r}.")

    def __call__(self, t: Tensor) -> Tensor:
        return -torch.log1p(-((1 - self.epsilon) * t).clamp(max=1))

    def inverse(self, tau: Tensor) -> Tensor:
        return -torch.expm1(-tau) / (1 - self.epsilon)

    def derivative(self, t: Tensor) -> Tensor:
        return (1 - self.epsilon) / (1 - (1 - self.epsilon) * t)


@final
@dataclass(frozen=True)
class CosineClock(Clock):
    r"""The clock on which :math:`e^{-\tau/2}` is a cosine, with :math:`\tau(1) = \infty`.

    .. math:: \tau(t) = -2 \log \frac{\cos\varphi(t)}{\cos\varphi(0)}
        = \log\Big(1 + \frac{\sin(\varphi(t) - \varphi(0))\,\sin(\varphi(t) + \varphi(0))}
        {\cos^2\varphi(t)}\Big), \qquad \varphi(t) = \frac\pi2\,\frac{t + o}{1 + o}

    The second form keeps its digits at both ends. The Ornstein–Uhlenbeck process with its default
    volatility and reversion gets :math:`\alpha_t = \cos\varphi(t)/\cos\varphi(0)`.

    References:
        Nichol & Dhariwal, Improved denoising diffusion probabilistic models, 2021.

    Args:
        offset: o, at least 0; 0.008 in the paper, and 0 gives :math:`\alpha_t = \cos(\pi t/2)`.

    >>> torch.exp(-CosineClock()(torch.tensor([0.0, 0.5, 2 / 3, 1.0])) / 2)
    tensor([1.0000, 0.7071, 0.5000, 0.0000])
    """

    offset: float = 0.0

    def __post_init__(self) -> None:
        if as_number(self.offset, "offset") < 0:
            raise ValueError(f"Expected offset to be at least 0; got {self.offset!r}.")

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    @property
    def _start(self) -> float:
        return self._speed * self.offset

    def _turn_and_cos(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return φ(t) − φ(0) and cos φ(t), which is the sine of the angle that is left."""
        t = t.clamp(max=1)
        return self._speed * t, torch.sin(self._speed * (1 - t))

    def __call__(self, t: Tensor) -> Tensor:
        turn, cos = self._turn_and_cos(t)
        return torch.log1p(turn.sin() * torch.sin(turn + 2 * self._start) / cos.square())

    def inverse(self, tau: Tensor) -> Tensor:
        cos_0, sin_0 = math.cos(self._start), math.sin(self._start)
        lost, kept = -torch.expm1(-tau), torch.exp(-tau / 2)
        sin = torch.sqrt(sin_0**2 + cos_0**2 * lost)
        # sin (φ - φ(0)) = cos_0 · lost / (sin + sin_0 · kept), free of differences
        across = cos_0 * lost
        along = (sin + sin_0 * kept) * (cos_0**2 * kept + sin_0 * sin)
        return torch.atan2(across, along) / self._speed

    def derivative(self, t: Tensor) -> Tensor:
        turn, cos = self._turn_and_cos(t)
        return 2 * self._speed * torch.sin(turn + self._start) / cos


@final
@dataclass(frozen=True)
class CDFClock(Clock):
    r"""The clock :math:`\tau(t) = -\log(1 - F(t))` of a distribution function F.

    A token with jump rate 1 has forgotten x_0 by t with probability F(t). Near t = 0 the clock has
    the digits of `distribution.cdf`: most lose some there, where the closed forms do not.

    References:
        Flowfusion.jl, whose `DistInterpolatingDiscreteFlow` is this schedule read from t = 1.

    Args:
        distribution: a scalar distribution with F(0) = 0, and with `cdf`, `icdf` and `log_prob`.
            Parameters that are numbers are float32 in torch; float64 tensors keep all digits.

    >>> clock = CDFClock(torch.distributions.Weibull(1.0, 2.0))
    >>> clock(torch.tensor([0.0, 0.5, 2.0]))  # Weibull's hazard is that of a PowerClock
    tensor([0.0000, 0.2500, 4.0000])
    """

    distribution: Distribution
    _law: Distribution = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.distribution, Distribution):
            raise TypeError(
                "Expected distribution to be a torch.distributions.Distribution; "
                f"got {describe(self.distribution)}."
            )
        object.__setattr__(self, "_law", unchecked(self.distribution))
        self._check()

    def _check(self) -> None:
        start, half = torch.tensor([0.0, 0.5], dtype=torch.float64)
        if self._law.batch_shape or self._law.event_shape:
            raise ValueError(f"Expected distribution to be scalar; got {self.distribution}.")
        try:
            self._law.log_prob(self._law.icdf(half))
            mass = self._law.cdf(start).item()
        except NotImplementedError as error:
            raise TypeError(
                "Expected distribution to have cdf, icdf and log_prob; "
                f"got {describe(self.distribution)}."
            ) from error
        if mass != 0:
            raise ValueError(f"Expected distribution to have F(0) = 0; got {mass}.")

    def __call__(self, t: Tensor) -> Tensor:
        return -torch.log1p(-self._law.cdf(t))

    def inverse(self, tau: Tensor) -> Tensor:
        return self._law.icdf(-torch.expm1(-tau))

    def derivative(self, t: Tensor) -> Tensor:
        return torch.exp(self._law.log_prob(t) + self(t))


def unchecked(distribution: Distribution) -> Distribution:
    """Return a copy that takes any argument: to check one is to wait for its device."""
    law = copy(distribution)
    law._validate_args = False
    if isinstance(law, TransformedDistribution):
        law.base_dist = unchecked(law.base_dist)
    return law

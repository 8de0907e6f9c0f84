r"""Clocks that say what is left of x_0 at t.

A process forgets x_0 by a factor such as :math:`e^{-\tau}` or :math:`e^{-\tau/2}`; on these clocks
the factor is a chosen function of t. Where nothing is left τ is ∞, and it stays so.
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from bridges._device import host
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


@runtime_checkable
class FrozenDistribution(Protocol):
    """A scalar law with its parameters, as SciPy's `scipy.stats.weibull_min(2.0)`."""

    def cdf(self, x: Any) -> Any:
        """Return F(x)."""

    def ppf(self, q: Any) -> Any:
        """Return the x with F(x) = q."""

    def isf(self, q: Any) -> Any:
        """Return the x with 1 − F(x) = q."""

    def logsf(self, x: Any) -> Any:
        """Return log(1 − F(x))."""

    def logpdf(self, x: Any) -> Any:
        """Return log F'(x)."""


@final
@dataclass(frozen=True)
class CDFClock(Clock):
    r"""The clock :math:`\tau(t) = -\log(1 - F(t))` of a distribution function F.

    A token with jump rate 1 has forgotten x_0 by t with probability F(t). Of a law of torch, the
    clock has the digits of `distribution.cdf` near t = 0: most lose some there, where the closed
    forms do not. A law of SciPy keeps them, and is for times on the CPU: others are copied there
    and back, and have no gradient.

    References:
        Flowfusion.jl, whose `DistInterpolatingDiscreteFlow` is this schedule read from t = 1.

    Args:
        distribution: a scalar distribution with F(0) = 0: of `torch.distributions`, with `cdf`,
            `icdf` and `log_prob`, or a frozen continuous one of `scipy.stats`. Parameters that
            are numbers are float32 in torch; float64 tensors keep all digits.

    Raises:
        TypeError: if it is neither, or has no `icdf`.
        ValueError: if it is not scalar, or F(0) not 0.

    >>> clock = CDFClock(torch.distributions.Weibull(1.0, 2.0))
    >>> clock(torch.tensor([0.0, 0.5, 2.0]))  # Weibull's hazard is that of a PowerClock
    tensor([0.0000, 0.2500, 4.0000])
    """

    distribution: Distribution | FrozenDistribution
    _law: "_TorchLaw | _SciPyLaw" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.distribution
        if isinstance(given, Distribution):
            law: _TorchLaw | _SciPyLaw = _TorchLaw(unchecked(given))
        elif isinstance(given, FrozenDistribution) and not callable(given):
            law = _SciPyLaw(given)
        else:
            raise TypeError(
                "Expected distribution to be a torch.distributions.Distribution or a frozen one "
                f"of scipy.stats; got {describe(given)}."
            )
        object.__setattr__(self, "_law", law)
        if not law.is_scalar():
            raise ValueError(f"Expected distribution to be scalar; got {given}.")
        try:
            half = self.inverse(host(0.5))
            self.derivative(half)
            tau = self(host(0.0)).item()
        except NotImplementedError as error:
            raise TypeError(
                f"Expected distribution to have cdf, icdf and log_prob; got {describe(given)}."
            ) from error
        if tau != 0:
            raise ValueError(
                f"Expected distribution to have F(0) = 0; got {-math.expm1(-tau):.9g}."
            )

    def __call__(self, t: Tensor) -> Tensor:
        return self._law.tau(t)

    def inverse(self, tau: Tensor) -> Tensor:
        return self._law.inverse(tau)

    def derivative(self, t: Tensor) -> Tensor:
        return torch.exp(self._law.log_density(t) + self(t))


@final
@dataclass(frozen=True)
class _TorchLaw:
    law: Distribution

    def is_scalar(self) -> bool:
        return not self.law.batch_shape and not self.law.event_shape

    def tau(self, t: Tensor) -> Tensor:
        return -torch.log1p(-self.law.cdf(t))

    def inverse(self, tau: Tensor) -> Tensor:
        t: Tensor = self.law.icdf(-torch.expm1(-tau))
        return t

    def log_density(self, t: Tensor) -> Tensor:
        log_prob: Tensor = self.law.log_prob(t)
        return log_prob


@final
@dataclass(frozen=True)
class _SciPyLaw:
    law: FrozenDistribution

    def is_scalar(self) -> bool:
        return np.ndim(self.law.cdf(0.5)) == 0

    def tau(self, t: Tensor) -> Tensor:
        return 0.0 - _by_numpy(self.law.logsf, t)

    def inverse(self, tau: Tensor) -> Tensor:
        early = _by_numpy(lambda x: self.law.ppf(-np.expm1(-x)), tau)
        return torch.where(tau < 0.5, early, _by_numpy(lambda x: self.law.isf(np.exp(-x)), tau))

    def log_density(self, t: Tensor) -> Tensor:
        return _by_numpy(self.law.logpdf, t)


class _ByNumPy(torch.autograd.Function):
    """A function of NumPy, number by number, that the transforms of `torch.func` take."""

    @staticmethod
    def forward(x: Tensor, f: Callable[[Any], Any]) -> Tensor:
        value = np.asarray(f(x.detach().cpu().numpy()))
        return torch.as_tensor(value, dtype=x.dtype, device=x.device).reshape(x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, f: Callable[[Any], Any]) -> Any:
        return _ByNumPy.apply(x, f), in_dims[0]  # type: ignore[no-untyped-call]


def _by_numpy(f: Callable[[Any], Any], x: Tensor) -> Tensor:
    value: Tensor = _ByNumPy.apply(x, f)  # type: ignore[no-untyped-call]
    return value


def unchecked(distribution: Distribution) -> Distribution:
    """Return a copy that takes any argument: to check one is to wait for its device."""
    law = copy(distribution)
    law._validate_args = False
    if isinstance(law, TransformedDistribution):
        law.base_dist = unchecked(law.base_dist)
    return law

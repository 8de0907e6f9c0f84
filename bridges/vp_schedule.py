r"""Variance-preserving schedules: data of variance 1 keep it at every t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from bridges._device import host
from bridges._shapes import Constant, as_integer, as_number, describe, positive
from bridges.schedule import VariancePreservingSchedule, complementary


@final
@dataclass(frozen=True)
class VPSchedule(VariancePreservingSchedule):
    r"""The variance-preserving schedule, whose rate :math:`\beta` grows linearly.

    .. math:: \alpha_t = e^{-B_t/2}, \qquad \sigma_t^2 = 1 - e^{-B_t}, \qquad
        B_t = \beta_{\min} t + \tfrac12 (\beta_{\max} - \beta_{\min})\, t^2

    References:
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021; 0.1 and 20 there.

    Args:
        beta_min: the rate at t = 0, at least 0.
        beta_max: the rate at t = 1, positive and at least `beta_min`.

    >>> VPSchedule().alpha(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000, 0.2812, 0.0066])
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if as_number(self.beta_min, "beta_min") < 0:
            raise ValueError(f"Expected beta_min to be at least 0; got {self.beta_min!r}.")
        if positive(self.beta_max, "beta_max") < self.beta_min:
            raise ValueError(
                f"Expected beta_max to be at least beta_min ({self.beta_min}); "
                f"got {self.beta_max!r}."
            )

    @classmethod
    def from_alpha_min(cls, alpha_min: float) -> "VPSchedule":
        r"""Return the schedule :math:`\alpha_t = \alpha_{\min}^{t^2}`, which starts at rate 0.

        Args:
            alpha_min: α at t = 1, between 0 and 1.

        >>> VPSchedule.from_alpha_min(0.01).alpha(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.3162, 0.0100])
        """
        if not positive(alpha_min, "alpha_min") < 1:
            raise ValueError(f"Expected alpha_min to be below 1; got {alpha_min!r}.")
        return cls(0.0, -4 * math.log(alpha_min))

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        beta = self.beta_min + (self.beta_max - self.beta_min) * t
        return -beta / 2 * self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        integral = torch.logaddexp(torch.zeros_like(log_snr), -log_snr)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root).clamp(min=torch.finfo(root.dtype).tiny)


@final
@dataclass(frozen=True)
class CosineSchedule(VariancePreservingSchedule):
    r"""The schedule on a quarter circle, :math:`\alpha_t = \cos(\pi t/2)`.

    .. math:: \alpha_t = \cos(\pi t/2), \qquad \sigma_t = \sin(\pi t/2)

    References:
        Salimans & Ho, Progressive distillation for fast sampling of diffusion models, 2022.

    >>> CosineSchedule().alpha(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000, 0.7071, 0.0000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(-log_snr / 2)) * (2 / math.pi)


@final
@dataclass(frozen=True)
class OffsetCosineSchedule(VariancePreservingSchedule):
    r"""The cosine schedule of improved DDPM, which starts a little way round the circle.

    .. math:: \alpha_t^2 = \frac{\cos^2\varphi(t)}{\cos^2\varphi(0)}, \qquad
        \sigma_t^2 = \frac{\sin(\varphi(t) - \varphi(0))\,\sin(\varphi(t) + \varphi(0))}
        {\cos^2\varphi(0)}, \qquad \varphi(t) = \frac\pi2\,\frac{t + o}{1 + o}

    Its σ then grows as √t, where that of `CosineSchedule` grows as t and wastes time near 0.

    References:
        Nichol & Dhariwal, Improved denoising diffusion probabilistic models, 2021; they then clip
        their discrete β at 0.999, which this does not.

    Args:
        offset: o, positive.

    >>> OffsetCosineSchedule().alpha(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000, 0.7027, 0.0000])
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        positive(self.offset, "offset")

    @property
    def _speed(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    @property
    def _start(self) -> tuple[float, float]:
        return math.cos(self._speed * self.offset), math.sin(self._speed * self.offset)

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return α² and σ²."""
        cos_0, _ = self._start
        turn = self._speed * t
        kept = (torch.sin(self._speed * (1 - t)) / cos_0) ** 2
        lost = turn.sin() * torch.sin(turn + 2 * self._speed * self.offset) / cos_0**2
        return complementary(kept, lost)

    def alpha(self, t: Tensor) -> Tensor:
        return self._shares(t)[0].sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return self._shares(t)[1].sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._speed / self._start[0] * torch.cos(self._speed * (1 - t))

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the angle from φ(0), from its sine and cosine without a difference."""
        cos_0, sin_0 = self._start
        alpha, lost = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr)
        sin = torch.sqrt(sin_0**2 + cos_0**2 * lost)
        along = (sin + sin_0 * alpha) * (cos_0**2 * alpha + sin_0 * sin)
        return torch.atan2(cos_0 * lost, along) / self._speed


@final
@dataclass(frozen=True)
class TableSchedule(VariancePreservingSchedule):
    r"""The schedule of a discrete process with T steps, from its table of β.

    .. math:: \alpha_{k/T}^2 = \bar\alpha_k = \prod_{i=1}^k (1 - \beta_i)

    At t = k/T this is exact. In between the log-SNR is linear in t, and below 1/T, where it comes
    from ∞, it is that of :math:`\sigma^2/\alpha^2 \propto t`. At a point of the table the
    derivatives are those of the line to its right.

    References:
        Ho, Jain & Abbeel, Denoising diffusion probabilistic models, 2020.

    Args:
        betas: the share of the variance that each step replaces by noise: T ≥ 2 numbers between 0
            and 1. The last may be 1: then nothing is left of x_0 at t = 1, and in the last
            interval α/σ is linear in t. Noise or a score say nothing about x_0 there, and raise.

    Raises:
        ValueError: if there are too few, or one is not between 0 and 1.

    >>> TableSchedule([0.19, 0.36]).alpha(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    tensor([1.0000, 0.9000, 0.7200], dtype=torch.float64)
    """

    betas: Sequence[float] | Tensor = field(repr=False)
    _points: Constant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        betas = as_betas(self.betas, "betas")
        log_kept = torch.log1p(-host(betas)).cumsum(0)
        points = log_kept - torch.log(-torch.expm1(log_kept))
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "_points", Constant(points))

    @classmethod
    def linear(
        cls, n_steps: int, beta_min: float = 1e-4, beta_max: float = 0.02
    ) -> "TableSchedule":
        """Return the schedule whose β grows linearly: that of DDPM, with n_steps 1 000 there.

        >>> TableSchedule.linear(1000).alpha(torch.tensor([1.0], dtype=torch.float64)).square()
        tensor([4.0358e-05], dtype=torch.float64)
        """
        n = as_integer(n_steps, "n_steps", 2)
        return cls(torch.linspace(beta_min, beta_max, n, dtype=torch.float64, device="cpu"))

    def _line(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-SNR and its derivative."""
        points, n = self._points.on(t.device), len(self.betas)
        place = t * n
        i = place.detach().long().clamp(1, n - 1)
        start = points.take(i - 1)
        slope = points.take(i) - start
        early, late = place < 1, slope == -math.inf
        first = torch.where(early, place, 1.0)
        left = torch.where(late, n - place, 1.0).clamp(min=0)
        slope = torch.where(late, 0.0, slope)
        line = start + (place - i) * slope + 2 * left.log()
        log_snr = torch.where(early, start - first.log(), line)
        steepness = torch.where(late, -2 / left, torch.where(early, -1 / first, slope))
        return log_snr, n * steepness

    @property
    def forgets_in_a_step(self) -> bool:
        """Whether the last β is 1."""
        return bool(self.betas[-1] == 1)

    def log_snr(self, t: Tensor) -> Tensor:
        return self._line(t)[0]

    def log_snr_dot(self, t: Tensor) -> Tensor:
        return self._line(t)[1]

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(self.log_snr(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-self.log_snr(t)).sqrt()

    def alpha_dot(self, t: Tensor) -> Tensor:
        log_snr, slope = self._line(t)
        kept, lost = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        if not self.forgets_in_a_step:
            return 0.5 * slope * kept.sqrt() * lost
        n = len(self.betas)
        late = t * n >= n - 1
        alpha_dot = 0.5 * torch.where(late, 0.0, slope) * kept.sqrt() * lost
        steepest = -n * torch.exp(0.5 * self._points.on(t.device)[n - 2]) * lost**1.5
        return torch.where(late, steepest, alpha_dot)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        points, n = self._points.on(log_snr.device), len(self.betas)
        i = torch.bucketize(-log_snr.detach(), -points[1:-1], right=True) + 1
        start = points.take(i - 1)
        early = log_snr > points[0]
        inside = i + (log_snr - start) / (points.take(i) - start)
        if self.forgets_in_a_step:
            late = log_snr <= points[n - 2]
            inside = torch.where(late, n - torch.exp(0.5 * (log_snr - points[n - 2])), inside)
        return torch.where(early, torch.exp(points[0] - log_snr), inside) / n


def as_betas(betas: Any, name: str) -> tuple[float, ...]:
    """Return a table of shares as numbers, or raise.

    Args:
        betas: T ≥ 2 numbers between 0 and 1, of which the last may be 1.
        name: what the argument is called.

    >>> as_betas(torch.tensor([0.25, 1.0]), "betas")
    (0.25, 1.0)
    """
    values = betas.tolist() if isinstance(betas, Tensor | np.ndarray) else betas
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < 2:
        raise ValueError(f"Expected {name} to hold at least 2 numbers; got {describe(betas)}.")
    table = tuple(as_number(beta, f"{name}[{i}]") for i, beta in enumerate(values))
    wrong = [beta for beta in table if not 0 < beta < 1]
    if wrong and not (len(wrong) == 1 and table[-1] == 1):
        raise ValueError(f"Expected {name} to lie between 0 and 1; got {wrong[0]!r}.")
    return table

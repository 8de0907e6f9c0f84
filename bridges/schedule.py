r"""Schedules: how much of x_0 and how much noise x_t holds, for `GaussianDiffusion`.

.. math:: x_t \mid x_0 \sim N(\alpha_t x_0,\; \sigma_t^2)

on t from 0 (data) to 1 (noise). What matters is the signal-to-noise ratio, which falls with t;
here always as its logarithm :math:`\log(\alpha_t^2/\sigma_t^2) = 2\log(\alpha_t/\sigma_t)`. The
scale of x_t is a choice beside it, and each schedule keeps to one of three curves: variance
preserving (:math:`\alpha^2 + \sigma^2 = 1`), straight (:math:`\alpha + \sigma = 1`) and exploding
(:math:`\alpha = 1`).

Many implementations stop short of :math:`\sigma_0 = 0` and :math:`\alpha_1 = 0`, since they divide
by both. Here nothing does: where the formula reaches an end, the end is exact, and both scales
keep their relative digits on the way to it. A schedule keeps its own formula at t = 0 (σ_min of an
exploding one); the process pins t = 0 to the data.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bridges._device import host, widest
from bridges._shapes import as_number, describe, positive


class Schedule(ABC):
    """The scales α and σ on t in [0, 1], with α/σ falling.

    A schedule is called as `schedule(t)`, on a number or a tensor. All its other methods take and
    return float64 tensors of any shape. Derive from the class of the curve that the scales keep
    to.
    """

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return α_t and σ_t.

        Args:
            t: the time, a number or a real tensor of any shape.

        Returns:
            Both in the shape of t, computed in float64; in the dtype of t if that is floating.

        Raises:
            TypeError: if t is neither a number nor a real tensor.

        >>> RectifiedSchedule()(torch.tensor([0.0, 0.3, 1.0]))
        (tensor([1.0000, 0.7000, 0.0000]), tensor([0.0000, 0.3000, 1.0000]))
        """
        if not isinstance(t, Tensor):
            t = host(as_number(t, "the time t"))
        if t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"Expected the time t to be real; got {describe(t)}.")
        time = t.to(widest(t.device))
        dtype = t.dtype if t.is_floating_point() else time.dtype
        return self.alpha(time).to(dtype), self.sigma(time).to(dtype)

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return α_t, the factor of x_0 in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return σ_t, the standard deviation of the noise in x_t."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """Return dα/dt, for t > 0."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """Return dσ/dt, for t > 0."""

    @abstractmethod
    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the t at which log(α²/σ²) is `log_snr`."""

    @abstractmethod
    def _size_slopes(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slopes in α and σ of the size that is 1 on the curve.

        The size grows with the pair (α, σ): it is α times the one slope plus σ times the other.
        """

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(α²/σ²), which is ∞ where σ = 0 and −∞ where α = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def log_snr_dot(self, t: Tensor) -> Tensor:
        """Return its derivative in t, which is negative, for t > 0."""
        return 2 * (self.alpha_dot(t) / self.alpha(t) - self.sigma_dot(t) / self.sigma(t))

    @property
    def forgets_in_a_step(self) -> bool:
        """Whether a last step replaces all of x_t by noise, as a table with β = 1 does.

        Then x_1 is no limit of the times before, and noise or a score at 1 say nothing about x_0.
        """
        return False

    def shifted(self, factor: float) -> "Schedule":
        """Return the schedule with α/σ divided by `factor`; see `ShiftedSchedule`."""
        return ShiftedSchedule(self, factor)


class VariancePreservingSchedule(Schedule):
    r"""A schedule with :math:`\alpha^2 + \sigma^2 = 1`: data of variance 1 keep it."""

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_dot(t) / self.sigma(t)

    def _size_slopes(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.hypot(alpha, sigma)
        return alpha / size, sigma / size


class StraightSchedule(Schedule):
    r"""A schedule with :math:`\alpha + \sigma = 1`: x_t lies on the line from x_0 to the noise."""

    def sigma_dot(self, t: Tensor) -> Tensor:
        return -self.alpha_dot(t)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._time(torch.sigmoid(-log_snr / 2), torch.sigmoid(log_snr / 2))

    @abstractmethod
    def _time(self, sigma: Tensor, alpha: Tensor) -> Tensor:
        """Return the t with these σ and α."""

    def _size_slopes(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.ones_like(sigma)


class ExplodingSchedule(Schedule):
    r"""A schedule with :math:`\alpha = 1`: noise is added and x_0 stays as it is."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _size_slopes(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), torch.zeros_like(sigma)


@final
@dataclass(frozen=True)
class RectifiedSchedule(StraightSchedule):
    r"""The schedule of rectified flows, :math:`\alpha_t = 1 - t`, :math:`\sigma_t = t`.

    Papers on flow matching often have noise at time 0 and data at time 1: here data are at 0. The
    velocity is then :math:`\varepsilon - x_0`.

    References:
        Liu, Gong & Liu, Flow straight and fast: learning to generate and transfer data with
        rectified flow, 2023.
        Lipman et al., Flow matching for generative modeling, 2023.

    >>> RectifiedSchedule().alpha(torch.tensor([0.0, 0.3, 1.0]))
    tensor([1.0000, 0.7000, 0.0000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def _time(self, sigma: Tensor, alpha: Tensor) -> Tensor:
        return sigma


@final
@dataclass(frozen=True)
class DecaySchedule(StraightSchedule):
    r"""The rectified schedule with more of its time at high noise.

    .. math:: \alpha_t = \frac{\gamma^t - \gamma}{1 - \gamma}, \qquad
        \sigma_t = \frac{1 - \gamma^t}{1 - \gamma}

    Near γ = 1 it is `RectifiedSchedule`, and a small γ hurries through low noise: σ rises with the
    slope :math:`-\log\gamma/(1 - \gamma)` at t = 0.

    References:
        azula, whose schedule of this name is this one with α_min and σ_min beside it.

    Args:
        gamma: γ, between 0 and 1.

    >>> DecaySchedule(0.25).sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.6667, 1.0000])
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not positive(self.gamma, "gamma") < 1:
            raise ValueError(f"Expected gamma to be below 1; got {self.gamma!r}.")

    @property
    def _log_gamma(self) -> float:
        return math.log(self.gamma)

    def _shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.gamma * torch.expm1((t - 1) * self._log_gamma)
        lost = -torch.expm1(t * self._log_gamma)
        return complementary(kept / (1 - self.gamma), lost / (1 - self.gamma))

    def alpha(self, t: Tensor) -> Tensor:
        return self._shares(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self._shares(t)[1]

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._log_gamma / (1 - self.gamma) * torch.exp(t * self._log_gamma)

    def _time(self, sigma: Tensor, alpha: Tensor) -> Tensor:
        """Return log(γ^t)/log γ, with the digits of the smaller scale."""
        low = torch.log1p(-(1 - self.gamma) * sigma)
        high = torch.log(self.gamma + (1 - self.gamma) * alpha)
        return torch.where(sigma < alpha, low, high) / self._log_gamma


@final
@dataclass(frozen=True)
class ShiftedSchedule(Schedule):
    r"""A schedule with α/σ divided by a factor m at every t, on the same curve.

    .. math:: \log(\alpha'^2/\sigma'^2) = \log(\alpha^2/\sigma^2) - 2\log m

    Neighbours in a large image or a long chain tell of one another, so the same noise hides less
    of it, and large states want more. Both papers take m in proportion to the resolution, which is
    the square root of the number of pixels: d/64 for images of d × d. For `RectifiedSchedule` this
    is a shift of time, :math:`t' = m t/(1 + (m - 1)\,t)`.

    References:
        Hoogeboom, Heek & Salimans, Simple diffusion: end-to-end diffusion for high resolution
        images, 2023.
        Esser et al., Scaling rectified flow transformers for high-resolution image synthesis,
        2024.

    Args:
        schedule: the schedule to shift.
        factor: m, positive; above 1 there is more noise.

    >>> RectifiedSchedule().shifted(3.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([0.0000, 0.7500, 1.0000])
    """

    schedule: Schedule
    factor: float

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"Expected schedule to be a Schedule; got {describe(self.schedule)}.")
        positive(self.factor, "factor")

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return α and mσ, and the slopes of the size there."""
        alpha, sigma = self.schedule.alpha(t), self.factor * self.schedule.sigma(t)
        return alpha, sigma, *self._size_slopes(alpha, sigma)

    def alpha(self, t: Tensor) -> Tensor:
        alpha, sigma, along_alpha, along_sigma = self._scales(t)
        return alpha / (alpha * along_alpha + sigma * along_sigma)

    def sigma(self, t: Tensor) -> Tensor:
        alpha, sigma, along_alpha, along_sigma = self._scales(t)
        return sigma / (alpha * along_alpha + sigma * along_sigma)

    def _turn(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return how fast (α, mσ) turns from α to σ, per size², and the slopes of the size."""
        alpha, sigma, along_alpha, along_sigma = self._scales(t)
        sigma_dot = self.factor * self.schedule.sigma_dot(t)
        turn = alpha * sigma_dot - self.schedule.alpha_dot(t) * sigma
        return turn / (alpha * along_alpha + sigma * along_sigma) ** 2, along_alpha, along_sigma

    def alpha_dot(self, t: Tensor) -> Tensor:
        turn, _, along_sigma = self._turn(t)
        return -along_sigma * turn

    def sigma_dot(self, t: Tensor) -> Tensor:
        turn, along_alpha, _ = self._turn(t)
        return along_alpha * turn

    @property
    def forgets_in_a_step(self) -> bool:
        """Whether the schedule that is shifted does."""
        return self.schedule.forgets_in_a_step

    def log_snr(self, t: Tensor) -> Tensor:
        return self.schedule.log_snr(t) - 2 * math.log(self.factor)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.schedule.inverse_log_snr(log_snr + 2 * math.log(self.factor))

    def _size_slopes(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule._size_slopes(alpha, sigma)


def complementary(kept: Tensor, lost: Tensor) -> tuple[Tensor, Tensor]:
    """Return two shares that sum to 1, each from the smaller: both ends are then exact.

    >>> complementary(torch.tensor([1.0001, 0.2]), torch.tensor([0.0, 0.8001]))
    (tensor([1.0000, 0.2000]), tensor([0.0000, 0.8000]))
    """
    low = lost < 0.5
    return torch.where(low, 1 - lost, kept), torch.where(low, lost, 1 - kept)

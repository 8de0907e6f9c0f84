r"""Times to train at: `sampler(n)` draws one for each example of a batch.

`UniformTimes`, `StratifiedTimes` and `LowDiscrepancyTimes` are uniform, and differ in how evenly a
batch covers the range; with the last two its loss varies less and stays unbiased. The others
stretch numbers from 0 to 1 to another law, and take one of the three as `base`. All draw in
float64 and round once, and never draw 0.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bridges._device import host, widest
from bridges._draw import Draws, Generator, as_draws
from bridges._shapes import as_integer, as_number, describe, positive
from bridges.schedule import Schedule


class TimeSampler(ABC):
    """Draws times for a batch."""

    @abstractmethod
    def _times(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """Draw n times in float64."""

    @final
    def __call__(
        self,
        n: int,
        *,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw n times.

        Args:
            n: how many.
            generator: the source of randomness.
            dtype: floating dtype; None for torch's default.
            device: None for the CPU.

        Returns:
            A tensor of shape (n,).

        Raises:
            ValueError: if n is not an integer of at least 0.
        """
        n = as_integer(n, "n", 0)
        device = torch.device("cpu" if device is None else device)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return self._times(n, as_draws(generator), device).to(dtype)


@dataclass(frozen=True)
class _Range(TimeSampler):
    """Uniform times from `lb` to `ub`."""

    lb: float = 0.0
    ub: float = 1.0

    def __post_init__(self) -> None:
        lb, ub = as_number(self.lb, "lb"), as_number(self.ub, "ub")
        if not 0 <= lb < ub:
            raise ValueError(f"Expected 0 ≤ lb < ub; got lb {lb} and ub {ub}.")

    @abstractmethod
    def _shares(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        """Draw n numbers in [0, 1)."""

    def _times(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        share = self._shares(n, draws, device)
        share = share + torch.finfo(share.dtype).eps / 4
        return (self.lb + (self.ub - self.lb) * share).clamp(max=self.ub)


@final
@dataclass(frozen=True)
class UniformTimes(_Range):
    """Independent times, uniform from `lb` to `ub`.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.

    Raises:
        ValueError: if they are not so.

    >>> UniformTimes(0.1, 0.9)(4).shape
    torch.Size([4])
    """

    def _shares(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        return draws.uniform((n,), widest(device), device)


@final
@dataclass(frozen=True)
class StratifiedTimes(_Range):
    """One uniform time in each of n equal parts of the range, in their order.

    Times rise along the batch, so examples must come in random order. For `lb` and `ub` see
    `UniformTimes`.

    >>> (4 * StratifiedTimes()(4)).floor()
    tensor([0., 1., 2., 3.])
    """

    def _shares(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        inside = draws.uniform((n,), widest(device), device)
        return (torch.arange(n, device=device) + inside) / n


@final
@dataclass(frozen=True)
class LowDiscrepancyTimes(_Range):
    r"""Equally spaced times with one random offset, :math:`(u + i/n) \bmod 1` of the range.

    For `lb` and `ub` see `UniformTimes`.

    References:
        Kingma et al., Variational diffusion models, 2021.

    >>> t = LowDiscrepancyTimes()(4)
    >>> (4 * (t - t[0])).round().remainder(4)
    tensor([0., 1., 2., 3.])
    """

    def _shares(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        offset = draws.uniform((1,), widest(device), device)
        steps = torch.arange(n, dtype=widest(device), device=device)
        return (offset + steps / max(n, 1)).remainder(1.0)


class _Stretched(TimeSampler):
    """Times that a function makes of numbers that are uniform on [0, 1]."""

    base: TimeSampler

    @abstractmethod
    def _stretch(self, share: Tensor) -> Tensor:
        """Return the times below which these shares of all times lie."""

    def _times(self, n: int, draws: Draws, device: torch.device) -> Tensor:
        share = self.base._times(n, draws, device)
        eps = torch.finfo(share.dtype).eps
        return self._stretch(share.clamp(eps / 4, 1 - eps / 2))

    def _check(self) -> None:
        if not isinstance(self.base, _Range) or self.base.ub > 1:
            raise ValueError(f"Expected base to be uniform in [0, 1]; got {describe(self.base)}.")


@final
@dataclass(frozen=True)
class LogNormalTimes(_Stretched):
    r"""Times that are standard deviations, :math:`\log t \sim N(m, s^2)`.

    Those of EDM, for a process whose σ_t is t, such as `recipes.edm()`; see `NormalLogSNRTimes`
    for any schedule.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Args:
        mean: m, −1.2 there.
        std: s, 1.2 there; positive.
        base: how evenly a batch covers it; one from 0.01 to 0.99 leaves out the tails.

    Raises:
        ValueError: if std is not positive or the base not uniform in [0, 1].

    >>> bool((LogNormalTimes()(8) > 0).all())
    True
    """

    mean: float = -1.2
    std: float = 1.2
    base: TimeSampler = UniformTimes()

    def __post_init__(self) -> None:
        as_number(self.mean, "mean")
        positive(self.std, "std")
        self._check()

    def _stretch(self, share: Tensor) -> Tensor:
        return torch.exp(self.mean + self.std * torch.special.ndtri(share))


@final
@dataclass(frozen=True)
class NormalLogSNRTimes(_Stretched):
    r"""Times of a schedule at which :math:`\log(\sigma_t/\alpha_t) \sim N(m, s^2)`.

    Of that law, the part that the schedule reaches on [0, 1]: EDM's noise on any schedule. On
    `RectifiedSchedule` times are logit-normal, as in Stable Diffusion 3 with m = 0, s = 1.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.
        Esser et al., Scaling rectified flow transformers for high-resolution image synthesis,
        2024.

    Args:
        schedule: α and σ.
        mean: m.
        std: s, positive.
        base: how evenly a batch covers it.

    Raises:
        TypeError, ValueError: if an argument is not as expected, or the schedule reaches none of
            the law.

    >>> from bridges.schedule import RectifiedSchedule
    >>> t = NormalLogSNRTimes(RectifiedSchedule(), 0.0, 1.0)(8)
    >>> bool(((t > 0) & (t < 1)).all())
    True
    """

    schedule: Schedule
    mean: float = -1.2
    std: float = 1.2
    base: TimeSampler = UniformTimes()

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"Expected schedule to be a Schedule; got {describe(self.schedule)}.")
        as_number(self.mean, "mean")
        positive(self.std, "std")
        self._check()
        first, last = self._reached
        if not first < last:
            raise ValueError(
                f"Expected the schedule to reach noise of log σ/α about {self.mean}; got "
                f"{self.schedule}, which does not."
            )

    @property
    def _reached(self) -> tuple[float, float]:
        """The shares of the law that lie below the noise of times 0 and 1."""
        log_noise = -0.5 * _ends(self.schedule, 0.0, 1.0)
        first, last = torch.special.ndtr((log_noise - self.mean) / self.std).tolist()
        return first, last

    def _stretch(self, share: Tensor) -> Tensor:
        first, last = self._reached
        log_noise = self.mean + self.std * torch.special.ndtri(first + (last - first) * share)
        return self.schedule.inverse_log_snr(-2 * log_noise).clamp(
            torch.finfo(share.dtype).eps / 4, 1
        )


@final
@dataclass(frozen=True)
class UniformLogSNRTimes(_Stretched):
    """Times of a schedule that are uniform in its log-SNR.

    On `VESchedule` this is uniform, and where σ_t is t it is uniform in log t.

    References:
        Kingma et al., Variational diffusion models, 2021.

    Args:
        schedule: α and σ.
        lb: the first time, at least 0, where the log-SNR is finite.
        ub: the last time, above `lb` and at most 1, likewise.
        base: how evenly a batch covers it.

    Raises:
        TypeError, ValueError: if an argument is not as expected.

    >>> from bridges.vp_schedule import CosineSchedule
    >>> t = UniformLogSNRTimes(CosineSchedule(), 0.01, 0.99, LowDiscrepancyTimes())(8)
    >>> bool(((t > 0) & (t < 1)).all())
    True
    """

    schedule: Schedule
    lb: float
    ub: float
    base: TimeSampler = UniformTimes()

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(f"Expected schedule to be a Schedule; got {describe(self.schedule)}.")
        if not 0 <= as_number(self.lb, "lb") < as_number(self.ub, "ub") <= 1:
            raise ValueError(f"Expected 0 ≤ lb < ub ≤ 1; got lb {self.lb} and ub {self.ub}.")
        if not bool(_ends(self.schedule, self.lb, self.ub).isfinite().all()):
            raise ValueError("Expected a finite log-SNR at lb and ub; got an infinite one.")
        self._check()

    def _stretch(self, share: Tensor) -> Tensor:
        first, last = _ends(self.schedule, self.lb, self.ub).tolist()
        return self.schedule.inverse_log_snr(first + (last - first) * share).clamp(
            self.lb, self.ub
        )


def _ends(schedule: Schedule, lb: float, ub: float) -> Tensor:
    """Return the log-SNR at two times."""
    return schedule.log_snr(host([lb, ub]))

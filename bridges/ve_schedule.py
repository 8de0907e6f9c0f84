"""Exploding schedules: x_0 stays as it is, and σ grows from a small value to a large one."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from bridges._shapes import positive
from bridges.schedule import ExplodingSchedule


@final
@dataclass(frozen=True)
class VESchedule(ExplodingSchedule):
    r"""The variance-exploding schedule, with σ geometric.

    .. math:: \alpha_t = 1, \qquad \sigma_t = \sigma_{\min}^{1-t}\, \sigma_{\max}^t

    References:
        Song & Ermon, Generative modeling by estimating gradients of the data distribution, 2019.
        Song et al., Score-based generative modeling through stochastic differential equations,
        2021; 0.01 and 50 there.
        azula, whose defaults these are.

    Args:
        sigma_min: σ at t = 0, positive.
        sigma_max: σ at t = 1, above `sigma_min`.

    >>> VESchedule(0.01, 100.0).sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([1.0000e-02, 1.0000e+00, 1.0000e+02])
    """

    sigma_min: float = 1e-3
    sigma_max: float = 1e3

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self._log_ratio)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self._log_ratio * self.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t * self._log_ratio)

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        return -(log_snr / 2 + math.log(self.sigma_min)) / self._log_ratio


@final
@dataclass(frozen=True)
class EDMSchedule(ExplodingSchedule):
    r"""The schedule of EDM, with σ linear in its ρ-th root.

    .. math:: \alpha_t = 1, \qquad \sigma_t = \big((1 - t)\,\sigma_{\min}^{1/\rho}
        + t\,\sigma_{\max}^{1/\rho}\big)^\rho

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Args:
        sigma_min: σ at t = 0, positive.
        sigma_max: σ at t = 1, above `sigma_min`.
        rho: ρ, positive; 1 is linear, and a large one nears `VESchedule`.

    >>> EDMSchedule().sigma(torch.tensor([0.0, 0.5, 1.0]))
    tensor([2.0000e-03, 2.5152e+00, 8.0000e+01])
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_sigmas(self.sigma_min, self.sigma_max)
        positive(self.rho, "rho")

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _root(self, t: Tensor) -> Tensor:
        low, high = self._roots
        return (1 - t) * low + t * high

    def sigma(self, t: Tensor) -> Tensor:
        return self._root(t) ** self.rho

    def sigma_dot(self, t: Tensor) -> Tensor:
        low, high = self._roots
        return self.rho * (high - low) * self._root(t) ** (self.rho - 1)

    def log_snr(self, t: Tensor) -> Tensor:
        return -2 * self.rho * torch.log(self._root(t))

    def inverse_log_snr(self, log_snr: Tensor) -> Tensor:
        low, high = self._roots
        return (torch.exp(-log_snr / (2 * self.rho)) - low) / (high - low)


def _check_sigmas(low: float, high: float) -> None:
    if positive(high, "sigma_max") <= positive(low, "sigma_min"):
        raise ValueError(f"Expected sigma_max to exceed sigma_min ({low}); got {high}.")

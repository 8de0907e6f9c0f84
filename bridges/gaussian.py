r"""Numbers: Gaussian processes on ℝ, element by element; see `gaussian_process` for their laws."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import as_number, positive
from bridges.gaussian_process import GaussianProcess


@final
@dataclass(frozen=True)
class OrnsteinUhlenbeckDiffusion(GaussianProcess):
    r"""Ornstein–Uhlenbeck process, :math:`dx = -\theta(x - \mu)\,dt + v\,dW`. Exact.

    .. math::
        \alpha_t = e^{-\theta t}, \qquad
        \sigma_t^2 = \frac{v^2}{2\theta}\left(1 - e^{-2\theta t}\right)

    The prior is :math:`N(\mu, v^2/2\theta)`: standard normal for the defaults.

    References:
        Uhlenbeck & Ornstein, On the theory of the Brownian motion, 1930.

    Args:
        mean: μ, where the process settles.
        volatility: v, positive.
        reversion: θ, positive.

    Raises:
        ValueError: if volatility or reversion is not positive.

    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> x_t = process.sample_forward(torch.zeros(4, 3), torch.rand(4))
    >>> process.sample_bridge(torch.zeros(4, 3), x_t, s=0.0, t=1.0).abs().max()
    tensor(0.)
    """

    mean: float = 0.0
    volatility: float = 1.0
    reversion: float = 0.5

    def __post_init__(self) -> None:
        as_number(self.mean, "mean")
        positive(self.volatility, "volatility")
        positive(self.reversion, "reversion")

    def _decay(self, s: Tensor, t: Tensor) -> Tensor:
        return torch.exp(-self.reversion * (t - s))

    def _variance(self, s: Tensor, t: Tensor) -> Tensor:
        return -self._stationary * torch.expm1(-2 * self.reversion * (t - s))

    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self._variance(torch.zeros_like(t), t).sqrt()
        alpha_dot = -self.reversion * torch.exp(-self.reversion * t)
        return alpha_dot, 0.5 * self.volatility**2 * torch.exp(-2 * self.reversion * t) / sigma

    @property
    def _stationary(self) -> float:
        return self.volatility**2 / (2 * self.reversion)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.mean + math.sqrt(self._stationary) * draws.normal(shape, dtype, device)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return √(1 − e^{−θt}), Diffusions.jl's scaler.

        The squared error of a good prediction grows as the variance does, from 0 to about 1.
        Dividing by its square root, not by itself, leaves the loss larger at high noise, where
        whole samples take shape.
        """
        return (-torch.expm1(-self.reversion * t)).sqrt()

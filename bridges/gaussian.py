r"""Numbers: Gaussian processes on ℝ, element by element.

Every process here is Markov with a linear Gaussian transition. On :math:`y = x - \mu`,

.. math::
    y_t \mid y_s \sim N(a\,y_s,\; w), \qquad
    a = \alpha_t/\alpha_s, \quad w = \sigma_t^2 - a^2\sigma_s^2,

where :math:`\alpha_t, \sigma_t^2` are those of :math:`s = 0`. The bridge is exact:

.. math::
    y_s \mid y_0, y_t \sim N\!\left(\alpha_s y_0 + \sigma_s r\,z,\; \sigma_s^2(1 - r^2)\right),
    \quad z = (y_t - \alpha_t y_0)/\sigma_t, \quad r = a\,\sigma_s/\sigma_t .

With stochasticity :math:`\eta`, r becomes :math:`r^{\eta^2}`: the exact solution of the reverse
SDE with x_0 held fixed. It keeps the marginal variance for every η ≥ 0; η = 1 is the bridge
(DDPM), η = 0 draws nothing (DDIM). The variances are written with `expm1`, since 1 − α² loses its
digits in float32 near t = 0.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import as_number, cast, positive
from bridges.process import Process


class GaussianProcess(Process):
    """A process with linear Gaussian transitions on numbers.

    Predictions are points x̂_0; the error is the squared difference.
    """

    mean: float

    @abstractmethod
    def _decay(self, s: Tensor, t: Tensor) -> Tensor:
        """Return a, the factor of the mean from time s to t."""

    @abstractmethod
    def _variance(self, s: Tensor, t: Tensor) -> Tensor:
        """Return w, the variance gained from time s to t."""

    def _moments(self, x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self._decay(s, t)
        return cast(a, x) * x + cast((1 - a) * self.mean, x), self._variance(s, t)

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        mean, variance = self._moments(x, s, t)
        noise = draws.normal(x.shape, x.dtype, x.device)
        return mean + cast(variance.sqrt(), x) * noise

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        zero = torch.zeros_like(t)
        alpha_s, alpha_t, a = self._decay(zero, s), self._decay(zero, t), self._decay(s, t)
        v_s, v_t, w = self._variance(zero, s), self._variance(zero, t), self._variance(s, t)
        log_r = -0.5 * torch.log1p(w / (a**2 * v_s))
        log_r_eta = eta**2 * log_r if eta > 0 else torch.zeros_like(log_r)
        to_t = (v_s / v_t).sqrt() * torch.exp(log_r_eta)
        to_0 = alpha_s - to_t * alpha_t
        x_s = cast(to_0, x_t) * x_0 + cast(to_t, x_t) * x_t
        if self.mean != 0:
            x_s = x_s + cast((1 - to_0 - to_t) * self.mean, x_t)
        if eta == 0:
            return x_s
        sigma = (-v_s * torch.expm1(2 * log_r_eta)).sqrt()
        return x_s + cast(sigma, x_t) * draws.normal(x_t.shape, x_t.dtype, x_t.device)

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        return (self._point(prediction, x_0) - x_0) ** 2

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        mean, variance = self._moments(x_0, s, t)
        log_norm = cast(0.5 * torch.log(2 * math.pi * variance), x_t)
        return -0.5 * ((x_t - mean) * cast(variance.rsqrt(), x_t)) ** 2 - log_norm

    def _score(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        mean, variance = self._moments(x_0, torch.zeros_like(t), t)
        return (mean - x_t) / cast(variance, x_t)

    def _eta(self, eta: Any) -> float:
        number = as_number(eta, "eta")
        if number < 0:
            raise ValueError(f"Expected eta to be at least 0; got {eta!r}.")
        return number


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

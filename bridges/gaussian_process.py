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
from typing import Any

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import as_number, cast
from bridges.prediction import Mixture, Noise, Score, Tangent, Velocity, known
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

    @abstractmethod
    def _slopes(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return dα/dt and dσ/dt, for t > 0."""

    # ---------------------------------------------------------------- predictions

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if isinstance(prediction, Mixture):
            centre, v = prediction.drawn(x_t, self.point_ndim, draws)
            return centre + cast(v.sqrt(), x_t) * draws.normal(x_t.shape, x_t.dtype, x_t.device)
        return self._mean_point(prediction, x_t, t)

    def _mean_point(self, prediction: Any, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x̂_0 of a point or of a tangent vector."""
        if not isinstance(prediction, Tangent):
            return self._point(prediction, x_t)
        to_x, to_value = self._shares(type(prediction), x_t, t)
        y = to_x * (x_t - self.mean) + to_value * self._point(prediction.value, x_t)
        return y + self.mean

    def _shares(self, kind: type, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of x_t and of a tangent vector in x̂_0, both about μ."""
        still, t = t == 0, torch.where(t > 0, t, 1.0)
        zero = torch.zeros_like(t)
        alpha, sigma = self._decay(zero, t), self._variance(zero, t).sqrt()
        if kind is Score:
            to_x, to_value = 1 / alpha, sigma**2 / alpha
        elif kind is Noise:
            to_x, to_value = 1 / alpha, -sigma / alpha
        elif kind is Velocity:
            alpha_dot, sigma_dot = self._slopes(t)
            scale = alpha * sigma_dot - alpha_dot * sigma
            to_x, to_value = sigma_dot / scale, -sigma / scale
        else:
            raise TypeError(f"Expected Score, Noise or Velocity; got {kind.__name__}.")
        return (
            cast(torch.where(still, 1.0, to_x), x_t, self.point_ndim),
            cast(torch.where(still, 0.0, to_value), x_t, self.point_ndim),
        )

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Tensor) -> Any:
        x_0 = self._mean_point(prediction, x_t, t)
        to_x, to_value = self._shares(to, x_t, t)
        return to((x_0 - self.mean - to_x * (x_t - self.mean)) / to_value)

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        if isinstance(prediction, Mixture):
            return prediction.negative_log_prob(self._log_normals(prediction, x_0))
        if isinstance(prediction, Tangent):
            prediction = self._mean_point(prediction, *known(x_t, t))
        return (self._point(prediction, x_0) - x_0) ** 2

    def _log_normals(self, mixture: Mixture, x_0: Tensor) -> Tensor:
        mixture.check(x_0, self.point_ndim)
        gap, v = x_0.unsqueeze(-1) - mixture.centre, mixture.variance
        return -0.5 * (gap**2 / v + torch.log(2 * math.pi * v))

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

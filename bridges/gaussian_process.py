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
(DDPM), η = 0 draws nothing (DDIM).

No digits are lost where little happens: since :math:`\sigma_t^2 = a^2\sigma_s^2 + w`, the ratio is
:math:`r^{-2} = 1 + w/(a\,\sigma_s)^2`, and every share is an `expm1` of log r. Nor is anything
divided by :math:`\alpha_t`, which may be 0: then r = 0 and x_s forgets x_t.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import as_number, cast
from bridges.preconditioning import NumberPreconditioning, variance
from bridges.prediction import Gaussian, Mixture, Noise, Score, Tangent, Velocity, known
from bridges.process import Process

Pair: TypeAlias = tuple[Tensor, Tensor]


class GaussianProcess(Process):
    r"""A process with linear Gaussian transitions on numbers.

    Predictions are points x̂_0, tangent vectors, a `Gaussian`, whose point is its mean, or
    mixtures of normals; the error of all but the last is the squared difference. A `Noise` is the
    ε in :math:`y_t = \alpha_t y_0 + \sigma_t \varepsilon`. Where :math:`\alpha_t = 0` a score or a
    noise says nothing about x_0, and its point is μ; a velocity still does.
    """

    mean: float = 0.0

    # ---------------------------------------------------------------- what a process writes

    @abstractmethod
    def _transition(self, s: Tensor, t: Tensor) -> Pair:
        """Return a and w: the factor of the mean and the variance gained from time s to t."""

    @abstractmethod
    def _slopes(self, t: Tensor) -> Pair:
        """Return dα/dt and dσ/dt, for t > 0."""

    def _marginal(self, t: Tensor) -> Pair:
        """Return α_t and σ_t²: the transition from time 0."""
        return self._transition(torch.zeros_like(t), t)

    # ---------------------------------------------------------------- laws

    def _moments(self, x: Tensor, s: Tensor, t: Tensor) -> Pair:
        a, w = self._transition(s, t)
        return self._around_mean(cast(a, x) * x, 1 - a), w

    def _around_mean(self, x: Tensor, share: Tensor) -> Tensor:
        return x + cast(share * self.mean, x) if self.mean != 0 else x

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        mean, w = self._moments(x, s, t)
        return torch.addcmul(mean, cast(w.sqrt(), x), draws.normal(x.shape, x.dtype, x.device))

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        (alpha_s, v_s), (a, w) = self._marginal(s), self._transition(s, t)
        from_s = a**2 * v_s
        log_r = -0.5 * torch.log1p(w / from_s)
        log_r_eta = eta**2 * log_r if eta > 0 else torch.zeros_like(log_r)
        to_0 = -alpha_s * torch.expm1(log_r + log_r_eta)
        to_t = torch.sqrt(v_s / (from_s + w)) * torch.exp(log_r_eta)
        sigma = torch.sqrt(-v_s * torch.expm1(2 * log_r_eta)) if eta > 0 else 0.0
        return self._combine(x_t, to_t, ((to_0, x_0),), sigma, draws)

    def _scales(self, t: Tensor) -> Pair:
        alpha, v = self._marginal(t)
        return alpha, v.sqrt()

    def _combine(
        self,
        x_t: Tensor,
        share: Any,
        terms: Iterable[tuple[Any, Tensor]],
        sigma: Any,
        draws: Draws,
    ) -> Tensor:
        x_s: Tensor = x_t * _factor(share, x_t)
        rest = 1 - share
        for factor, term in terms:
            _add(x_s, factor, term)
            rest = rest - factor
        if self.mean != 0:
            x_s += _factor(rest * self.mean, x_t)
        if not isinstance(sigma, Tensor) and sigma == 0:
            return x_s
        _add(x_s, sigma, draws.normal(x_t.shape, x_t.dtype, x_t.device))
        return x_s

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha, v = self._marginal(t)
        return 2 * torch.log(alpha) - torch.log(v)

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        mean, w = self._moments(x_0, s, t)
        log_norm = cast(0.5 * torch.log(2 * math.pi * w), x_t)
        return -0.5 * ((x_t - mean) * cast(w.rsqrt(), x_t)) ** 2 - log_norm

    def _score(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        mean, v_t = self._moments(x_0, torch.zeros_like(t), t)
        return (mean - x_t) / cast(v_t, x_t)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return :math:`\sigma_t/\sqrt{\alpha_t^2 + \sigma_t^2}`.

        The root of the share of noise in the variance of x_t, if data have variance 1: it grows
        from 0 as σ does and levels off at 1.
        """
        alpha, v = self._marginal(t)
        return torch.sqrt(v / (alpha**2 + v))

    # ---------------------------------------------------------------- predictions

    def _preconditioning(self, t: Tensor, var_x: Tensor | None) -> NumberPreconditioning:
        return NumberPreconditioning(*self._scales(t), variance(var_x, 1.0), self.mean)

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if isinstance(prediction, Mixture):
            centre, v = prediction.drawn(x_t, self.point_ndim, draws)
            return centre + cast(v.sqrt(), x_t) * draws.normal(x_t.shape, x_t.dtype, x_t.device)
        return self._mean_point(prediction, x_t, t)

    def _point(self, prediction: Any, x_t: Tensor) -> Tensor:
        return super()._point(
            prediction.mean if isinstance(prediction, Gaussian) else prediction, x_t
        )

    def _mean_point(self, prediction: Any, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x̂_0 of a point or of a tangent vector."""
        if not isinstance(prediction, Tangent):
            return self._point(prediction, x_t)
        (to_x, to_value), _ = self._solution(type(prediction), x_t, t)
        value = self._point(prediction.value, x_t)
        return self._around_mean(to_x * x_t + to_value * value, 1 - to_x)

    def _noise(self, prediction: Any, x_t: Tensor, t: Tensor) -> Tensor:
        """Return ε of a point or of a tangent vector; 0 at t = 0, where there is none."""
        if isinstance(prediction, Tangent):
            _, (to_x, to_value) = self._solution(type(prediction), x_t, t)
            return to_x * (x_t - self.mean) + to_value * self._point(prediction.value, x_t)
        moving, (alpha, sigma) = t > 0, self._moving_scales(t)
        y_0, y_t = self._point(prediction, x_t) - self.mean, x_t - self.mean
        return cast(torch.where(moving, 1 / sigma, 0.0), x_t) * (y_t - cast(alpha, x_t) * y_0)

    def _moving_scales(self, t: Tensor) -> Pair:
        """Return α and σ; at t = 0, where σ is 0, those of another time."""
        alpha, v = self._marginal(torch.where(t > 0, t, 0.5))
        return alpha, v.sqrt()

    def _weights(self, kind: type, t: Tensor) -> Pair:
        """Return the factors of y_0 and of ε in a tangent vector; at t = 0 those of another."""
        _, sigma = self._moving_scales(t)
        if kind is Noise:
            return torch.zeros_like(sigma), torch.ones_like(sigma)
        if kind is Score:
            return torch.zeros_like(sigma), -1 / sigma
        if kind is Velocity:
            return self._slopes(torch.where(t > 0, t, 0.5))
        raise TypeError(f"Expected Score, Noise or Velocity; got {kind.__name__}.")

    def _solution(self, kind: type, x_t: Tensor, t: Tensor) -> tuple[Pair, Pair]:
        """Solve y_t = α y_0 + σ ε and value = p y_0 + q ε.

        Returns:
            The factors of y_t and of the value in y_0, and those in ε.
        """
        (alpha, sigma), (p, q) = self._moving_scales(t), self._weights(kind, t)
        det, still = alpha * q - sigma * p, t == 0
        # Where a factor would be near the end of the dtype's range, nothing is known of y_0.
        most = math.sqrt(torch.finfo(x_t.dtype).max)
        blind = det.abs() * most <= torch.maximum(q.abs(), sigma / torch.clamp(sigma**2, min=1))
        det = torch.where(blind, 1.0, det)

        def factor(share: Tensor, at_blind: Tensor | float, at_zero: float) -> Tensor:
            return cast(
                torch.where(still, at_zero, torch.where(blind, at_blind, share / det)), x_t
            )

        to_y_0 = factor(q, 0.0, 1.0), factor(-sigma, 0.0, 0.0)
        return to_y_0, (factor(-p, 1 / sigma, 0.0), factor(alpha, 0.0, 0.0))

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Tensor) -> Any:
        y_0, noise = (
            self._mean_point(prediction, x_t, t) - self.mean,
            self._noise(prediction, x_t, t),
        )
        p, q = self._weights(to, t)
        return to(cast(torch.where(t > 0, p, 0.0), x_t) * y_0 + cast(q, x_t) * noise)

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

    def _eta(self, eta: Any) -> float:
        number = as_number(eta, "eta")
        if number < 0:
            raise ValueError(f"Expected eta to be at least 0; got {eta!r}.")
        return number


def _factor(factor: Any, x: Tensor) -> Any:
    return cast(factor, x) if isinstance(factor, Tensor) else factor


def _add(x: Tensor, factor: Any, term: Tensor) -> None:
    """Add factor · term to x in place: a new tensor costs as much as the product."""
    if isinstance(factor, Tensor):
        x.addcmul_(cast(factor, x), term)
    else:
        x.add_(term, alpha=factor)

r"""Brownian motion on a curved space: what all such spaces share.

The variance is :math:`v_t = r\,t` per tangent direction. A space writes its maps (`_exp`, `_log`),
its draws (`_diffuse`, `_bridge_along`) and its density; everything else follows from them.

With stochasticity η < 1, x_t is first moved along the geodesic towards x_0 by the factor :math:`c
= (s/t)^{(1-\eta^2)/2}`, which is the state at the variance :math:`v' = c^2 v_t`, and bridged from
there: η = 1 is exact, η = 0 the geodesic point at :math:`\sqrt{s/t}`. Below 1 the shorter geodesic
is used, so the marginal is kept only while √v is small against the size of the space.

A tangent prediction says :math:`w = v_t\, s(x_t)`, the vector from x_t to its endpoint. The same
step from x_t along w, in the tangent space, is

.. math:: x_s = \exp_{x_t}\!\Big(\big(1 - (s/t)^{(1+\eta^2)/2}\big)\,w
    + \sqrt{v_s\,(1 - (s/t)^{\eta^2})}\;z\Big),

exact as the steps shrink, if s is the mean of the score given x_t: the endpoint is not wrapped
around the space, so nothing is lost of its width.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws
from bridges._shapes import cast, positive
from bridges.preconditioning import TangentPreconditioning, variance
from bridges.prediction import Mixture, Noise, Score, Tangent, Velocity, known
from bridges.process import Process

FORGOTTEN: Final = 1e4
"""The variance that a tangent vector is read at where there is more: x_0 is long forgotten."""


class BrownianMotion(Process):
    """Brownian motion of variance `rate` per tangent direction and unit of time."""

    tangent_ndim: ClassVar[int] = 0

    rate: float

    def __post_init__(self) -> None:
        positive(self.rate, "rate")

    @property
    def _spread_of_uniform(self) -> float:
        """The variance of the uniform law, per direction: how far a network ever has to point."""
        return 1.0

    # ---------------------------------------------------------------- what a space writes

    @abstractmethod
    def _exp(self, x: Tensor, w: Tensor) -> Tensor:
        """Follow the geodesic from x along the tangent vector w."""

    @abstractmethod
    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the tangent vector at x whose geodesic is the shorter way to y."""

    @abstractmethod
    def _tangent(self, x: Tensor, w: Tensor) -> Tensor:
        """Return the part of w that is tangent at x, or raise if it has not the right shape."""

    @abstractmethod
    def _diffuse(self, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
        """Draw from the heat kernel of variance v about x."""

    @abstractmethod
    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        """Draw the bridge from x_0 to exp(w), of variance a before and b after."""

    @abstractmethod
    def _project(self, point: Tensor) -> Tensor:
        """Return the point of the space nearest to a predicted one."""

    @abstractmethod
    def _log_kernel(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """Return the log-density of y under the heat kernel of variance v about x."""

    @abstractmethod
    def _kernel_score(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """Return its gradient in y, a tangent vector at y."""

    # ---------------------------------------------------------------- laws

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        return self._diffuse(x, self.rate * (t - s), draws)

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        a, b = self.rate * s, self.rate * (t - s)
        w = self._log(x_0, x_t)
        if eta < 1:
            keep = (s / t) ** (0.5 * (1 - eta**2))
            w, b = cast(keep, w, self.tangent_ndim) * w, a * torch.expm1(eta**2 * torch.log(t / s))
        return self._exp(x_0, w) if eta == 0 else self._bridge_along(x_0, w, a, b, draws)

    def _log_snr(self, t: Tensor) -> Tensor:
        return -torch.log(self.rate * t)

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self._log_kernel(x_t, x_0, self.rate * (t - s))

    def _score(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        return self._kernel_score(x_t, x_0, self.rate * t)

    # ---------------------------------------------------------------- predictions

    def _preconditioning(self, t: Tensor, var_x: Tensor | None) -> TangentPreconditioning:
        var_x = variance(var_x, self._spread_of_uniform)
        return TangentPreconditioning(self.rate * t, var_x, self.tangent_ndim)

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if isinstance(prediction, Tangent):
            return self._exp(x_t, self._towards(prediction, x_t, t))
        if isinstance(prediction, Mixture):
            centre, v = prediction.drawn(x_t, self.point_ndim, draws)
            return self._diffuse(self._project(centre), v, draws)
        return self._project(self._point(prediction, x_t))

    def _step(
        self, prediction: Any, x_t: Tensor, s: Any, t: Any, eta: float, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(prediction, Tangent):
            return super()._step(prediction, x_t, s, t, eta, draws)
        w = self._towards(prediction, x_t, t)
        x_0_hat = self._exp(x_t, w)

        def inside(s: Tensor, t: Tensor) -> Tensor:
            return self._exp(x_t, self._move(w, x_t, s, t, eta, draws))

        return self._pinned(x_0_hat, x_t, s, t, inside), x_0_hat

    def _move(
        self, w: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        """Return the tangent vector of a step from t to s towards the end of w."""
        log_ratio = torch.log(s / t)
        share = -torch.expm1(0.5 * (1 + eta**2) * log_ratio)
        mean = cast(share, w, self.tangent_ndim) * w
        if eta == 0:
            return mean
        sigma = (-self.rate * s * torch.expm1(eta**2 * log_ratio)).sqrt()
        noise = self._tangent(x_t, draws.normal(w.shape, w.dtype, w.device))
        return mean + cast(sigma, w, self.tangent_ndim) * noise

    def _towards(self, prediction: Tangent, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the tangent vector from x_t to the endpoint, v_t times the score."""
        value = self._tangent(x_t, prediction.value.to(x_t.dtype))
        return cast(self._unit(type(prediction), t), value, self.tangent_ndim) * value

    def _vector(self, w: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return w if it has the shape of tangent vectors, or raise."""
        if w.shape != shape:
            raise ValueError(
                f"Expected a tangent vector of shape {tuple(shape)}; got {tuple(w.shape)}."
            )
        return w

    def _unit(self, kind: type, t: Tensor) -> Tensor:
        """Return w for a prediction of one."""
        t = torch.clamp(t, max=FORGOTTEN / self.rate)
        if kind is Score:
            return self.rate * t
        if kind is Noise:
            return -((self.rate * t).sqrt())
        if kind is Velocity:
            return -2 * t
        raise TypeError(f"Expected Score, Noise or Velocity; got {kind.__name__}.")

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Tensor) -> Any:
        if isinstance(prediction, Tangent):
            w = self._towards(prediction, x_t, t)
        else:
            w = self._log(x_t, self._project(self._point(prediction, x_t)))
        return to(w / cast(self._unit(to, t), w, self.tangent_ndim))

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        if isinstance(prediction, Tangent):
            return self._score_error(prediction, x_0, *known(x_t, t))
        if isinstance(prediction, Mixture):
            return prediction.negative_log_prob(self._log_kernels(prediction, x_0))
        return self._square(self._log(x_0, self._project(self._point(prediction, x_0))))

    def _score_error(self, prediction: Tangent, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return ‖v_t (s − ∇ log p(x_t | x_0))‖², the distance between the ends of two vectors."""
        score = self._kernel_score(x_t, x_0, self.rate * torch.where(t > 0, t, 1.0))
        target = cast(self._unit(Score, t), score, self.tangent_ndim) * score
        return self._square(self._towards(prediction, x_t, t) - target)

    def _log_kernels(self, mixture: Mixture, x_0: Tensor) -> Tensor:
        """Return the log-density of x_0 under each component of a mixture."""
        mixture.check(x_0, self.point_ndim)
        centre = self._project(mixture.centre.to(x_0.dtype))
        at = x_0.unsqueeze(x_0.ndim - self.point_ndim).expand_as(centre)
        return self._log_kernel(at, centre, mixture.variance.to(widest(x_0.device)))

    def _square(self, w: Tensor) -> Tensor:
        return (w * w).sum(-1) if self.tangent_ndim else w * w

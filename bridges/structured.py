r"""Gaussian processes whose noise passes through a linear map.

.. math:: x_t = \alpha_t x_0 + \sigma_t A\,\varepsilon, \qquad \varepsilon \sim N(0, I)

Points lie on the range of A (see `linear_noise`), so whatever A leaves alone, such as the centre
of mass of a molecule or the symmetry of a matrix, is kept by every draw. Since A does not depend
on t, all laws are those of the process inside: its transitions, its bridge and its η with
:math:`A\,\varepsilon` in place of :math:`\varepsilon`. They are exact.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws, as_draws
from bridges._hooks import Hooks
from bridges._precision import widened
from bridges._shapes import CoupledTimeError, as_shape, cast, describe, expand_leading, is_leading
from bridges._space import Space, expand_mask
from bridges.clocked import Clocked
from bridges.gaussian_process import GaussianProcess
from bridges.linear_noise import LinearNoise, of_rank
from bridges.prediction import Gaussian, Mixture, Score, Tangent, known
from bridges.process import Process
from bridges.wrapper import Tempered, Wrapper


@final
class StructuredDraws(Draws):
    """Draws whose normal numbers are points, and pass through a linear map."""

    def __init__(self, draws: Draws, noise: LinearNoise) -> None:
        self.draws = draws
        self.noise = noise

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.noise(self.draws.normal(shape, dtype, device))

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.draws.uniform(shape, dtype, device)


@final
@dataclass(frozen=True)
class StructuredDiffusion(Wrapper):
    r"""A Gaussian process of mean 0 with structured noise. Exact.

    .. math::
        \log p(x_t \mid x_s) = -\tfrac12\, y^T (A A^T)^+ y / w - \tfrac12 \log\det\nolimits_+ A A^T
        - \tfrac12 \operatorname{rank}(A) \log 2\pi w, \qquad y = x_t - a\,x_s

    is a density with respect to Lebesgue measure on the range of A, as it lies in the space of all
    points; a and w are those of the process inside.

    A prediction of x_0 is brought onto the range by `endpoint`. `Noise` is the structured noise
    :math:`A\,\varepsilon`, and `Velocity` is :math:`\dot\alpha_t x_0 + \dot\sigma_t
    A\,\varepsilon`; a `Score` is a gradient along the range, so that :math:`\alpha_t \hat x_0 =
    x_t + \sigma_t^2 A A^T s`. A `Mixture` has normals of covariance :math:`v\,A A^T`. The error of
    a point is the squared distance divided by the trace of :math:`A A^T`: guessing 0 about data
    that are noise of σ = 1 costs 1 for each example.

    A mask may be over examples, and with `ZeroCentreOfMass` over atoms too, `(*B, n)`: the held
    ones say where an example is, so the others get plain noise there; an example that holds
    nothing, or only padding, keeps its centre. Errors and losses are then by atom, and their mean
    over an example is as it was. Times are one for all of a point, whose noise couples it.

    Args:
        process: a Gaussian process on numbers whose mean is 0; it may be on a clock.
        noise: A, which also sets the shape of a point.

    Raises:
        TypeError: if they are not a Gaussian process and a linear noise.
        ValueError: if the mean of the process is not 0, which A may not keep.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> from bridges.linear_noise import ZeroCentreOfMass
    >>> process = StructuredDiffusion(OrnsteinUhlenbeckDiffusion(0.0), ZeroCentreOfMass(5))
    >>> bool(process.sample_prior((4,)).mean(-2).abs().max() < 1e-6)
    True
    """

    process: Process
    noise: LinearNoise

    def __post_init__(self) -> None:
        process = self.process
        while isinstance(process, Clocked | Tempered):
            process = process.process
        if not isinstance(process, GaussianProcess):
            raise TypeError(
                f"Expected process to be a Gaussian process, with its mask put around the "
                f"result; got {describe(self.process)}."
            )
        if not isinstance(self.noise, LinearNoise):
            raise TypeError(f"Expected noise to be a LinearNoise; got {describe(self.noise)}.")
        if process.mean != 0:
            raise ValueError(f"Expected process to have mean 0; got {process.mean!r}.")

    # ---------------------------------------------------------------- states and times

    @property
    def point_ndim(self) -> int:  # type: ignore[override]
        """The dimensions of one point, as the noise has them."""
        return len(self.noise.point_shape)

    def _check_shape(self, x: Tensor, name: str) -> None:
        Space._check_shape(self, x, name)
        point, lead = self.noise.point_shape, self.noise.batch_shape
        if x.shape[x.ndim - len(point) :] != point:
            raise ValueError(
                f"Expected {name} to have points of shape {point}; got {describe(x)}."
            )
        if not is_leading(lead, self._batch_shape(x)):
            raise ValueError(
                f"Expected {name} to have a batch shape that begins with that of the noise, "
                f"{lead}; got {describe(x)}."
            )

    def _shape(self, shape: Any) -> Any:
        shape = as_shape(shape)
        if not is_leading(self.noise.batch_shape, shape):
            raise ValueError(
                f"Expected shape to begin with that of the noise, {self.noise.batch_shape}; "
                f"got {shape}."
            )
        return shape

    def _check_values(self, x: Tensor, name: str) -> None:
        dims, eps, x = tuple(range(-self.point_ndim, 0)), torch.finfo(x.dtype).eps, widened(x)
        miss, size = (y.detach().abs().amax(dims) for y in (x - self.noise.project(x), x))
        wrong = miss > max(1e-3, 4 * eps) * size
        if bool(wrong.any()):
            raise ValueError(
                f"Expected {name} to {self.noise.condition}; got one that is off by "
                f"{miss[wrong].max().item():.2g}, at a size of {size[wrong].max().item():.2g}."
            )

    @property
    def _element_ndim(self) -> int:
        return self.noise.element_ndim

    def _holding(self, mask: Tensor, batch_shape: tuple[int, ...]) -> Process:
        if is_leading(mask.shape, batch_shape):
            return self
        if not is_leading(batch_shape, mask.shape):
            raise ValueError(
                f"Expected mask to have a leading part of the batch shape {batch_shape}, or to "
                f"begin with it; got shape {tuple(mask.shape)}."
            )
        return replace(self, noise=self.noise.holding(~mask))

    def _expand(self, t: Any, x: Tensor, name: str = "t") -> Any:
        too_long = isinstance(t, Tensor) and t.ndim > len(self._batch_shape(x))
        if too_long and is_leading(t.shape, tuple(x.shape)):
            raise CoupledTimeError(name, tuple(t.shape))
        return Space._expand(self, t, x, name)

    def _on_values(
        self, x: Tensor, mask: Tensor | None, check: Callable[[Space, Tensor], None]
    ) -> None:
        """Run a check; off the mask stands 0, which every noise can reach."""
        if mask is not None:
            ndim = self.point_ndim - max(0, mask.ndim - len(self._batch_shape(x)))
            x = torch.where(expand_mask(mask, x, ndim), x, 0.0)
        check(self, x)

    def _counted(self, x: Tensor, t: Any) -> Any:
        counted = Space._counted(self, x, t)
        if self.noise.element_ndim == 0:
            return counted
        rank = counted.ndim + 1
        return expand_leading(counted, rank) & of_rank(self.noise.moving(x.device), rank)

    def _over(self, t: Any) -> Any:
        """Bring a time or a factor over the batch to one over the numbers of the points."""
        return cast(t, t, self.point_ndim) if isinstance(t, Tensor) else t

    def _draws(self, draws: Draws) -> Draws:
        return StructuredDraws(draws, self.noise)

    # ---------------------------------------------------------------- laws

    def _forward(self, x: Tensor, s: Any, t: Any, draws: Draws) -> Tensor:
        x_t: Tensor = self.process._forward(x, self._over(s), self._over(t), self._draws(draws))
        return x_t

    def _bridge(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws) -> Tensor:
        s, t = self._over(s), self._over(t)
        x_s: Tensor = self.process._between(x_0, x_t, s, t, eta, self._draws(draws))
        return x_s

    def _combine(
        self,
        x_t: Tensor,
        share: Any,
        terms: Iterable[tuple[Any, Tensor]],
        sigma: Any,
        draws: Draws,
    ) -> Tensor:
        over = self._over
        inner = [(over(factor), term) for factor, term in terms]
        x_s: Tensor = self.process._combine(
            x_t, over(share), inner, over(sigma), self._draws(draws)
        )
        return x_s

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        shape = (*shape, *self.noise.point_shape)
        x: Tensor = self.process._prior(shape, self._draws(draws), dtype, device)
        return x

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Any, t: Any) -> Tensor:
        a, w = self.process._transition(s, t)
        return self._log_normal(x_t - cast(a, x_t, self.point_ndim) * x_0, w)

    def _log_normal(self, y: Tensor, v: Tensor) -> Tensor:
        """Return the log-density of y under N(0, v A Aᵀ), with v over the batch."""
        dims = tuple(range(-self.point_ndim, 0))
        square = (y * self.noise.precision(y)).sum(dims)
        rank, log_det = (
            expand_leading(value(y.device), square.ndim)
            for value in (self.noise.rank, self.noise.log_det)
        )
        log_norm = rank * torch.log(2 * math.pi * v) + log_det
        return -0.5 * (square / cast(v, y) + cast(log_norm, y))

    def _score(self, x_t: Tensor, x_0: Tensor, t: Any) -> Tensor:
        return self.noise.precision(self.process._score(x_t, x_0, self._over(t)))

    # ---------------------------------------------------------------- predictions

    def _mean_point(self, prediction: Any, x_t: Tensor, t: Any) -> Tensor:
        """Return x̂_0 of a point or of a tangent vector, on the range."""
        inner, draws = self._inner(prediction, x_t), as_draws(None)
        return self.noise.project(self.process._endpoint(inner, x_t, self._over(t), draws))

    def _inner(self, prediction: Any, x_t: Tensor) -> Any:
        """Turn a score along the range into that of numbers with the structured noise."""
        if not isinstance(prediction, Score):
            return prediction
        return Score(self.noise.covariance(self._point(prediction.value, x_t)))

    def _preconditioning(self, t: Any, var_x: Any) -> Any:
        return replace(self.process._preconditioning(t, var_x), point_ndim=self.point_ndim)

    def _point(self, prediction: Any, x_t: Tensor) -> Tensor:
        return super()._point(
            prediction.mean if isinstance(prediction, Gaussian) else prediction, x_t
        )

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if not isinstance(prediction, Mixture):
            return self._mean_point(prediction, x_t, t)
        centre, v = prediction.drawn(x_t, self.point_ndim, draws)
        noise = self.noise(draws.normal(x_t.shape, x_t.dtype, x_t.device))
        return self.noise.project(centre) + cast(v.sqrt(), x_t, self.point_ndim) * noise

    def _step(
        self, prediction: Any, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        return Hooks._step(self, prediction, x_t, s, t, eta, draws)

    def _convert(self, prediction: Any, to: Any, x_t: Tensor, t: Any) -> Any:
        inner = self._inner(prediction, x_t)
        value = self.process._convert(inner, to, x_t, self._over(t)).value
        return to(self.noise.precision(value) if to is Score else self.noise.project(value))

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        if isinstance(prediction, Mixture):
            error = prediction.negative_log_prob(self._log_normals(prediction, x_0))
            by_atom = self.noise.element_ndim > 0  # each has that of the whole point
            return error.unsqueeze(-1).expand(x_0.shape[: error.ndim + 1]) if by_atom else error
        if isinstance(prediction, Tangent):
            point = self._mean_point(prediction, *known(x_t, t))
        else:
            point = self.noise.project(self._point(prediction, x_0))
        trace, square = self.noise.trace(x_0.device), (point - x_0).square()
        unit = expand_leading(torch.where(trace > 0, trace, 1.0), x_0.ndim - self.point_ndim)
        if self.noise.element_ndim == 0:
            return square.flatten(-self.point_ndim).sum(-1) / cast(unit, x_0)
        moving = self.noise.moving(x_0.device).sum(-1).clamp(min=1)
        unit = unit / expand_leading(moving, unit.ndim)
        return square.flatten(1 - self.point_ndim).sum(-1) / cast(unit, x_0).unsqueeze(-1)

    def _log_normals(self, mixture: Mixture, x_0: Tensor) -> Tensor:
        mixture.check(x_0, self.point_ndim)
        centre = self.noise.project(mixture.centre.to(x_0.dtype))
        y = x_0.unsqueeze(x_0.ndim - self.point_ndim) - centre
        return self._log_normal(y, mixture.variance.to(widest(y.device)))

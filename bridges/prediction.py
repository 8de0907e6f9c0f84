r"""What a network may say about x_0, other than a point of the space.

A bare tensor is a point (for tokens: integers are points, floats are logits). On a curved space a
point cannot say how wide the posterior of x_0 is, so steps towards it are biased. Two kinds of
prediction are not:

- a tangent vector at x_t: the posterior mean of the score, exact as the steps shrink;
- a distribution over x_0, drawn from and then bridged to: exact at any step.

With the variance v_t of a Brownian motion, all tangent vectors say the same thing in other units:
the vector :math:`w = v_t\,s` from x_t to the endpoint (Tweedie), where s is the score, :math:`s =
-\varepsilon/\sqrt{v_t}`, and the velocity of the probability flow is :math:`-\tfrac12 \dot v_t s`.
"""

import math
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from bridges._device import may_look, widest
from bridges._draw import Draws, Generator, as_draws
from bridges._precision import HALF, exact, widened
from bridges._shapes import Bundle


class Prediction(Bundle, ABC):
    """What a network says about x_0, in other words than a point."""

    def filled(self, keep: Callable[[Tensor, float], Tensor]) -> Self:
        """Return the same with `keep(tensor, harmless)` in place of each tensor.

        A mask puts the harmless number where the network may have said anything.
        """
        return type(self)(*(keep(part, 0.0) for part in self.parts()))


class Tangent(Prediction):
    """A tangent vector at x_t: `Score`, `Noise` or `Velocity`.

    On numbers and angles it has the shape of the state; on rotations and unit quaternions it is a
    rotation vector (…, 3) in the frame of x_t; on the sphere a vector (…, 3), of which the part
    perpendicular to x_t is used. With structured noise A a score lies along the range of A, and
    the noise is A ε.
    """

    value: Tensor


@final
@dataclass(frozen=True, eq=False)
class Score(Tangent):
    r"""The score: the mean of :math:`\nabla_{x_t} \log p(x_t \mid x_0)` given x_t.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> process, x_t = OrnsteinUhlenbeckDiffusion(0.0), torch.tensor([0.3])
    >>> process.endpoint(Score(process.score(x_t, torch.tensor([2.0]), 0.7)), x_t, 0.7)
    tensor([2.])
    """

    value: Tensor


@final
@dataclass(frozen=True, eq=False)
class Noise(Tangent):
    r"""The standard normal noise ε in x_t: :math:`-\sigma_t` times the score."""

    value: Tensor


@final
@dataclass(frozen=True, eq=False)
class Velocity(Tangent):
    r"""The velocity :math:`\dot x_t` of the probability flow, per unit of the process's own time.

    On numbers with :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon` it is :math:`\dot\alpha_t
    x_0 + \dot\sigma_t \varepsilon`; for the rectified schedule that is ε − x_0, the velocity of
    flow matching with time 0 at the data.
    """

    value: Tensor


def known(x_t: Tensor | None, t: Any) -> tuple[Tensor, Any]:
    """Return x_t and t, without which a tangent vector has no error.

    Raises:
        ValueError: if either is None.
    """
    if x_t is None or t is None:
        raise ValueError("Expected x_t and t beside a tangent vector; got None.")
    return x_t, t


def _named(*batch: int, point: Sequence[int] = ()) -> str:
    return f"({', '.join(map(str, (*batch, 'M', *point)))})"


@final
@dataclass(frozen=True, eq=False)
class Mixture(Prediction):
    r"""A mixture of heat kernels over x_0, with density :math:`\sum_m w_m\, k(x_0; c_m, v_m)`.

    The weights are softmax(l). Normals on numbers, wrapped normals on angles, heat kernels on
    rotations and spheres. Its error is the negative log-likelihood of x_0 in nats.

    Args:
        logits: l, shape `(*B, M)`.
        centre: c, points of the space, shape `(*B, M, *P)`; they are brought onto it as a point
            prediction is.
        variance: v, shape `(*B, M)`, positive, in the space's own unit.

    >>> from bridges import WrappedBrownianDiffusion
    >>> mixture = Mixture(torch.zeros(4, 2), torch.tensor([-1.0, 1.0]).expand(4, 2),
    ...                   torch.full((4, 2), 1e-6))
    >>> x_0 = WrappedBrownianDiffusion(1.0).endpoint(mixture, torch.zeros(4), 1.0)
    >>> bool(((x_0.abs() - 1).abs() < 0.01).all())
    True
    """

    logits: Tensor
    centre: Tensor
    variance: Tensor

    def filled(self, keep: Callable[[Tensor, float], Tensor]) -> Self:
        return type(self)(keep(self.logits, 0.0), keep(self.centre, 0.0), keep(self.variance, 1.0))

    def drawn(self, x: Tensor, point_ndim: int, draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw a component for every element of a state; return its centre and its variance."""
        self.check(x, point_ndim)
        index = draws.categorical(self.logits)
        dim, drawn = index.ndim, index >= 0
        index = index.clamp(min=0).unsqueeze(-1)
        at = index.reshape(*index.shape, *[1] * point_ndim)
        at = at.expand(*index.shape, *x.shape[x.ndim - point_ndim :])
        centre = self.centre.gather(dim, at).squeeze(dim).to(x.dtype)
        if not may_look(x):  # where there is no law, there is no point
            drawn = drawn.reshape((*drawn.shape, *[1] * point_ndim))
            centre = torch.where(drawn, centre, math.nan)
        return centre, self.variance.to(widest(x.device)).gather(-1, index).squeeze(-1)

    def negative_log_prob(self, log_kernels: Tensor) -> Tensor:
        """Return −log Σ softmax(l) k from the log-kernels `(*B, M)` of the components."""
        logits = self.logits.to(torch.promote_types(self.logits.dtype, log_kernels.dtype))
        return -torch.logsumexp(torch.log_softmax(logits, -1) + log_kernels, -1)

    def check(self, x: Tensor, point_ndim: int) -> None:
        """Raise a ValueError unless it fits a state of points with that many dimensions."""
        batch, point = x.shape[: x.ndim - point_ndim], x.shape[x.ndim - point_ndim :]
        shape = (*batch, *self.logits.shape[-1:])
        given = self.logits.shape, self.centre.shape, self.variance.shape
        if given != (shape, (*shape, *point), shape):
            raise ValueError(
                f"Expected a mixture with logits and variances of shape {_named(*batch)} and "
                f"centres of shape {_named(*batch, point=point)}; got logits {tuple(given[0])}, "
                f"centres {tuple(given[1])} and variances {tuple(given[2])}."
            )


@final
@dataclass(frozen=True, eq=False)
class Gaussian(Prediction):
    r"""A normal law of x_0, :math:`N(\mu, \sigma^2)` for each number; what denoisers return.

    Its point is the mean, and its error the squared distance from that, as of any point. To draw
    x_0 and bridge to the draw, say it as a `Mixture` of one component.

    Args:
        mean: μ, in the shape of the state.
        var: σ², broadcasting with the mean; 0 where x_0 is known.

    >>> gaussian = Gaussian(torch.tensor([0.0, 1.0]), torch.tensor(4.0))
    >>> gaussian.log_prob(torch.zeros(2))
    tensor([-1.6121, -1.7371])
    """

    mean: Tensor
    var: Tensor

    def filled(self, keep: Callable[[Tensor, float], Tensor]) -> Self:
        return type(self)(keep(self.mean, 0.0), keep(self.var, 1.0))

    @exact
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of each number of x, where the variance is positive."""
        wide, mean, var = widened((x, self.mean, self.var))
        log_prob = -0.5 * ((wide - mean) ** 2 / var + torch.log(2 * math.pi * var))
        return log_prob.to(x.dtype) if x.dtype in HALF else log_prob

    @exact
    def sample(self, *, generator: Generator = None) -> Tensor:
        """Draw x_0, like the mean."""
        mean, var = widened((self.mean, self.var))
        noise = as_draws(generator).normal(mean.shape, mean.dtype, mean.device)
        return (mean + var.sqrt() * noise).to(self.mean.dtype)


@final
@dataclass(frozen=True, eq=False)
class PlugIn(Prediction):
    r"""Logits of the leave-one-out law of a token, for the plug-in reading.

    The plug-in reading puts probabilities in place of x_0 in :math:`p(x_s \mid x_t) \propto p(x_s)
    \, p(x_t \mid x_s)`. It wants what the *other* tokens say about x_0, not the posterior that
    cross-entropy learns, which knows x_t too. Read this way it has the law of the posterior
    reading; see `leave_one_out` for the conversion.

    Args:
        logits: shape `(*B, K)`.
    """

    logits: Tensor

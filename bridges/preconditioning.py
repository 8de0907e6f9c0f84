r"""Preconditioning: what a network is shown of x_t, and what its numbers say about x_0.

A network learns best from inputs and for targets of size 1, at every noise level. On numbers with
data of variance :math:`\sigma_x^2`,

.. math::
    \mu = c_\mathrm{skip}\,x_t + c_\mathrm{out}\,F(c_\mathrm{in}\,x_t,\, c_\mathrm{noise}), \qquad
    c_\mathrm{in} = D^{-1/2}, \quad c_\mathrm{skip} = \alpha_t\sigma_x^2/D, \quad
    c_\mathrm{out} = \sigma_t\sigma_x D^{-1/2}, \quad D = \alpha_t^2\sigma_x^2 + \sigma_t^2 .

If data are normal, :math:`c_\mathrm{skip}\,x_t` is the posterior mean of x_0 and
:math:`c_\mathrm{out}` its standard deviation: the network is asked for what is left, which has
size 1. On a curved space it is asked for a tangent vector at x_t,

.. math:: w = c_\mathrm{out}\,F, \qquad c_\mathrm{out} = \sqrt{v_t\,v_x/(v_t + v_x)}

which grows as :math:`\sqrt{v_t}` and levels off at the size of the data. It is meant as
:math:`v_t` times the mean of the score (Tweedie), which is not biased at any noise; x̂_0 is where
its geodesic ends. As the noise shrinks it is the vector to x_0.

The network is told the noise as :math:`c_\mathrm{noise} = \log(\sigma_t/\alpha_t)`, minus half the
log-SNR, held between −20 and 20; on curved spaces that is :math:`\tfrac12\log v_t`. Tokens have no
such ratio: theirs is half the log-odds of having been forgotten, which also grows as
:math:`\tfrac12 \log t`. A space of your own that says nothing of preconditioning is passed
through: shown as it is, and what the network says of it is the prediction.

References:
    Karras et al., Elucidating the design space of diffusion-based generative models, 2022 (for
    α = 1).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Final, final

import torch
from torch import Tensor

from bridges._device import host
from bridges._precision import widened
from bridges._shapes import cast
from bridges.prediction import Noise

LOUDEST: Final = 20.0
"""Where the noise level ends, either way: e²⁰ is 5·10⁸."""


class Preconditioning(ABC):
    """How a network is used at one time, or at the times of a batch."""

    @abstractmethod
    def noise_level(self) -> Tensor:
        """Return c_noise, in float64 and in the shape of the time."""

    @abstractmethod
    def input(self, x_t: Tensor) -> Tensor:
        """Return what the network is shown of x_t."""

    @abstractmethod
    def output(self, value: Tensor, x_t: Tensor) -> Any:
        """Return the prediction that the network's value stands for."""


@final
@dataclass(frozen=True, eq=False)
class NumberPreconditioning(Preconditioning):
    """Skip and scale; the prediction is a point.

    Args:
        alpha: α_t, float64, broadcasting over the batch.
        sigma: σ_t, likewise.
        var_x: σ_x², float64, positive; it may vary over the numbers of a state.
        mean: where the process settles; data are measured from it.
        point_ndim: the dimensions of a point.

    >>> one = torch.ones((), dtype=torch.float64)
    >>> NumberPreconditioning(one, one, one).output(torch.ones(1), torch.tensor([4.0]))
    tensor([2.7071])
    """

    alpha: Tensor
    sigma: Tensor
    var_x: Tensor
    mean: float = 0.0
    point_ndim: int = 0

    _kept: list[tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=list, init=False, repr=False
    )

    @property
    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """c_in, c_skip and c_out, float64, over the numbers of a state; computed once."""
        if not self._kept:  # a cached property, which compiled code can follow
            alpha, sigma = (cast(c, c, self.point_ndim) for c in (self.alpha, self.sigma))
            c_in = torch.rsqrt(alpha**2 * self.var_x + sigma**2)
            c_skip, c_out = alpha * self.var_x * c_in**2, sigma * self.var_x.sqrt() * c_in
            self._kept.append((c_in, c_skip, c_out))
        return self._kept[0]

    def noise_level(self) -> Tensor:
        return level(self.sigma.log() - self.alpha.log())

    def input(self, x_t: Tensor) -> Tensor:
        (c_in, _, _), wide = self.coefficients, widened(x_t)
        return (c_in.to(wide.dtype) * self._centred(wide)).to(x_t.dtype)

    def output(self, value: Tensor, x_t: Tensor) -> Tensor:
        wide = widened(x_t)
        c_skip, c_out = (c.to(wide.dtype) for c in self.coefficients[1:])
        y_0 = torch.addcmul(c_skip * self._centred(wide), c_out, value.to(wide.dtype))
        return (y_0 + self.mean if self.mean != 0 else y_0).to(x_t.dtype)

    def _centred(self, x_t: Tensor) -> Tensor:
        return x_t - self.mean if self.mean != 0 else x_t


@final
@dataclass(frozen=True, eq=False)
class TangentPreconditioning(Preconditioning):
    r"""Points as they are; the prediction is the noise :math:`-w/\sqrt{v_t}`, a tangent vector.

    Args:
        v: v_t, float64, broadcasting over the batch.
        var_x: v_x, float64, positive: the variance of the data per direction.
        tangent_ndim: the dimensions of a tangent vector.

    >>> v = torch.tensor(3.0, dtype=torch.float64)
    >>> TangentPreconditioning(v, torch.tensor(1.0), 0).output(torch.ones(1), torch.zeros(1)).value
    tensor([-0.5000])
    """

    v: Tensor
    var_x: Tensor
    tangent_ndim: int

    def noise_level(self) -> Tensor:
        return level(0.5 * self.v.log())

    def input(self, x_t: Tensor) -> Tensor:
        return x_t

    def output(self, value: Tensor, x_t: Tensor) -> Noise:
        v = cast(self.v, self.v, self.tangent_ndim)
        scale = torch.sqrt(self.var_x / (v + self.var_x))
        return Noise(-scale.to(x_t.dtype) * value.to(x_t.dtype))


@final
@dataclass(frozen=True, eq=False)
class TokenPreconditioning(Preconditioning):
    """Tokens as they are; the prediction is the network's logits.

    Args:
        log_odds: log of the odds that a token was forgotten, float64, broadcasting over the batch.
    """

    log_odds: Tensor

    def noise_level(self) -> Tensor:
        return level(0.5 * self.log_odds)

    def input(self, x_t: Tensor) -> Tensor:
        return x_t

    def output(self, value: Tensor, x_t: Tensor) -> Tensor:
        return value


@final
@dataclass(frozen=True, eq=False)
class PlainPreconditioning(Preconditioning):
    r"""A space that says nothing of preconditioning: all is passed through as it is.

    The network is told :math:`-\tfrac12 \log \mathrm{SNR}`, or :math:`\tfrac12 \log t` where
    the space has no such ratio.

    Args:
        log_snr: the log-SNR, float64, broadcasting over the batch.
    """

    log_snr: Tensor

    def noise_level(self) -> Tensor:
        return level(-0.5 * self.log_snr)

    def input(self, x_t: Tensor) -> Tensor:
        return x_t

    def output(self, value: Any, x_t: Tensor) -> Any:
        return value


def level(noise: Tensor) -> Tensor:
    """Hold a noise level between −20 and 20.

    >>> level(torch.tensor([-1e9, 0.3, 1e9]))
    tensor([-20.0000,   0.3000,  20.0000])
    """
    return noise.clamp(-LOUDEST, LOUDEST)


def variance(var_x: Tensor | None, default: float) -> Tensor:
    """Return the variance of the data, or the default as a tensor on the host."""
    return host(default) if var_x is None else var_x

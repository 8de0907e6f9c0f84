r"""Solvers that remember: each step extrapolates the slopes of the steps before.

On a curve (see `curve`) the flow is :math:`d(y/S) = g\,d\theta`. With the slopes
:math:`g_0, g_1, \dots` at the present time and at those before, and the Lagrange polynomials
:math:`L_j` through their places in a variable τ, a step is

.. math:: \frac{y_s}{S_s} = \frac{\bar y_s}{S_s} + \sum_{j \ge 1} c_j\,(g_j - g_0), \qquad
    c_j = \int_t^s L_j(\tau)\,\frac{d\theta}{d\tau}\,d\tau,

where :math:`\bar y_s` is the straight step. This is the integral of the polynomial, since
:math:`\sum_j L_j = 1`, and it needs nothing from where y/S or θ is infinite. A slope that lies at
infinity in τ, or whose time was not left, is not used: its weight and its factor in the others are
those of the limit. So the order rises from 1 over the first steps, and the step to 0 is the
straight one, which ends at :math:`\hat x_0`.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from bridges._device import host
from bridges._draw import Draws
from bridges._shapes import as_integer, lasting
from bridges.curve import CircleCurve, Curve, DataCurve, LineCurve, Scales, check_curve
from bridges.solver import Carry, GaussianSolver

MAX_ORDER: Final = 4
"""Beyond it the straight first step sets the error."""

MEMORY: Final = 2**20
"""How many numbers the integrals may hold at once."""


class MultistepSolver(GaussianSolver):
    """Adams and Bashforth's method on a curve, with polynomials in a variable τ of its own.

    Here τ is l, the logarithm of σ/α. One guess per step.
    """

    order: int

    @property
    @abstractmethod
    def curve(self) -> Curve:
        """The variables S, θ and g."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", as_integer(self.order, "order", 1, MAX_ORDER))
        check_curve(self.curve)

    def _variable(self, at: Scales) -> Tensor:
        """Return τ."""
        return at.log_ratio

    def _speed(self, variable: Tensor) -> Tensor:
        """Return dθ/dτ."""
        return self.curve.speed(variable)

    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        weights = lagrange_integrals(self._variable(t), self._variable(s), self.order, self._speed)
        old = [self.curve.size(s) * weight for weight in weights]
        of_x_t, of_x_0 = t.shares(*self.curve.ahead(t, s))
        slope = t.shares(*self.curve.slopes(t))
        for weight in old:
            of_x_t, of_x_0 = of_x_t - weight * slope[0], of_x_0 - weight * slope[1]
        return of_x_t, of_x_0, *slope, *old

    def _inside(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> Tensor:
        of_x_t, of_x_0, _, _, *old = carry.now()
        terms = ((of_x_0, x_0), *zip(old, carry.history, strict=False))
        found: Tensor = carry.process._combine(x_t, of_x_t, terms, 0.0, draws)
        return found

    def _kept(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        if self.order == 1:
            return ()
        _, _, *slope = carry.now()
        newest = self.curve.slope(carry.process, x_t, x_0, (slope[0], slope[1]), draws)
        return (newest, *carry.history)[: self.order - 1]


@final
@dataclass(frozen=True)
class AdamsBashforthSolver(MultistepSolver):
    r"""Adams and Bashforth's method: polynomials in the place θ itself. One guess per step.

    On `LineCurve` it extrapolates the velocity in :math:`\sigma/(\alpha + \sigma)`, which is the
    time of a rectified flow; on `NoiseCurve` the noise in :math:`u = \sigma/\alpha` (the linear
    multistep sampler of k-diffusion, ρAB).

    References:
        Bashforth & Adams, An attempt to test the theories of capillary action, 1883.
        Zhang & Chen, Fast sampling of diffusion models with exponential integrator, 2023.

    Args:
        order: the number of slopes that a step uses, from 1 to 4.
        curve: the variables S, θ and g; see `bridges.curve`.

    Raises:
        ValueError: if order is not such a number.
        TypeError: if curve is not a curve.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> solver = AdamsBashforthSolver(order=2)
    >>> sample_backward(guess, process, [0.1, 1.0, 2.0], torch.ones(2), solver=solver)
    tensor([0.9582, 0.9582])
    """

    order: int = 2
    curve: Curve = LineCurve()

    def _variable(self, at: Scales) -> Tensor:
        return self.curve.place(at)

    def _speed(self, variable: Tensor) -> Tensor:
        return torch.ones_like(variable)


@final
@dataclass(frozen=True)
class ExponentialSolver(MultistepSolver):
    r"""The exponential method: polynomials in :math:`l = \log(\sigma/\alpha)`. One guess per step.

    .. math:: \frac{y_s}{S_s} = \frac{y_t}{S_t}
        + \sum_j g_j \int_{l_t}^{l_s} L_j(l)\,\frac{d\theta}{dl}\,dl

    On `DataCurve`, where :math:`d\theta = -e^{-l} dl` and g is :math:`\hat x_0`, it is the
    multistep form of DPM-Solver++; on `NoiseCurve`, where :math:`d\theta = e^l dl`, that of
    DPM-Solver. On `CircleCurve` it is `RosenbrockSolver`. It wants grids that are evenly spaced in
    l.

    References:
        Lu et al., DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in
        around 10 steps, 2022.
        Lu et al., DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models,
        2022.

    Args:
        order: the number of slopes that a step uses, from 1 to 4.
        curve: the variables S, θ and g; see `bridges.curve`.

    Raises:
        ValueError: if order is not such a number.
        TypeError: if curve is not a curve.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> solver = ExponentialSolver(order=2)
    >>> sample_backward(guess, process, [0.1, 1.0, 2.0], torch.ones(2), solver=solver)
    tensor([0.9928, 0.9928])
    """

    order: int = 2
    curve: Curve = DataCurve()


@final
@dataclass(frozen=True)
class RosenbrockSolver(MultistepSolver):
    r"""The Rosenbrock-type exponential method: DPM-Solver-v3 without statistics of the model.

    .. math:: x_s = \sqrt{\frac{\alpha_s^2 + \sigma_s^2}{\alpha_t^2 + \sigma_t^2}}\; x_t
        + \sqrt{\alpha_s^2 + \sigma_s^2}\, \sum_j f_j \int_{l_t}^{l_s}
        \frac{e^l}{1 + e^{2l}}\, L_j(l)\, dl

    with :math:`f = \big((1 - a)\,x/\alpha - \hat x_0\big)/\sqrt a` and :math:`a =
    \sigma^2/(\alpha^2 + \sigma^2)`: the linear part of the flow for data of variance 1 is taken
    out. That is the exponential method on `CircleCurve`, where f is the tangent. Where it is
    printed with :math:`\sigma_t` in the last root it is of first order only. One guess per step.

    References:
        Hochbruck, Ostermann & Schweitzer, Exponential Rosenbrock-type methods, 2009.
        Zheng et al., DPM-Solver-v3: improved diffusion ODE solver with empirical model statistics,
        2023.

    Args:
        order: the number of slopes that a step uses, from 1 to 4.

    Raises:
        ValueError: if order is not such a number.

    >>> from bridges import OrnsteinUhlenbeckDiffusion, sample_backward
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> guess = lambda x_t, t: torch.exp(-t / 2) * x_t  # for data of variance 1
    >>> sample_backward(guess, process, [0.1, 2.0], torch.ones(2), solver=RosenbrockSolver())
    tensor([1., 1.])
    """

    order: int = 2

    @property
    def curve(self) -> Curve:
        """The circle."""
        return CircleCurve()


# ------------------------------------------------------------------ the integrals


def lagrange_integrals(
    here: Tensor, there: Tensor, order: int, speed: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    r"""Return :math:`\int L_j(\tau)\, v(\tau)\, d\tau` over each of n steps, for 0 < j < order.

    :math:`L_j` is 1 at the place of the step j steps before, and 0 at the other places back to
    that of order − 1 steps before. Exact for v = 1; for the curves within 1e-12 of the size of v,
    as long as a step is shorter than 3 in l.

    Args:
        here: τ before each step, shape (n, …).
        there: τ after it.
        order: how many places there are, with the present one.
        speed: v.
    """
    nodes = _nodes(here, there, order)
    start, step = nodes[0].place, torch.where(nodes[0].live, there - here, 0.0)
    integrals = [torch.zeros_like(step) for _ in nodes[1:]]
    rule = gauss_legendre().to(here).reshape(2, -1, *[1] * here.ndim)
    at_once = max(1, MEMORY // max(1, step.numel()))
    for i in range(0, rule.shape[1], at_once):
        share, weight = rule[:, i : i + at_once]
        place = start + share * step
        area = weight * step * speed(place)
        for j, integral in enumerate(integrals, 1):
            integral += (area * _polynomial(place, nodes, j)).sum(0)
    return integrals


class Node(NamedTuple):
    """Places that a polynomial goes through, and which of them count; the others are 0."""

    place: Tensor
    live: Tensor


def _nodes(here: Tensor, there: Tensor, order: int) -> list[Node]:
    """List the places of the present step and of those before it, for each of n steps."""
    lags, n = order - 1, len(here)
    padded = torch.cat((here.new_full((lags, *here.shape[1:]), torch.inf), here))
    places = [padded[lags - j :][:n] for j in range(order)]
    first = here.isfinite() & there.isfinite()
    live = [first, *(first & b.isfinite() & (a != b) for a, b in pairwise(places))]
    return [Node(torch.where(ok, p, 0.0), ok) for p, ok in zip(places, live, strict=True)]


def _polynomial(place: Tensor, nodes: Sequence[Node], j: int) -> Tensor:
    """Return L_j; a node that does not count has the factor 1, and its own L is 0."""
    value = nodes[j].live.to(place.dtype)
    for i, (other, live) in enumerate(nodes):
        if i != j:
            both = live & nodes[j].live
            gap = torch.where(both, nodes[j].place - other, 1.0)
            value = value * torch.where(both, (place - other) / gap, 1.0)
    return value


@cache
def gauss_legendre(n: int = 16) -> Tensor:
    """Return n points on [0, 1] and their weights by the rule of Gauss and Legendre, (2, n)."""
    points, weights = np.polynomial.legendre.leggauss(n)
    return lasting(host(np.stack((0.5 + 0.5 * points, 0.5 * weights))))

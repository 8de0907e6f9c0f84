r"""Angles: Brownian motion wrapped on a circle of any period.

States lie in [−P/2, P/2): radians in [−π, π) for the default period 2π. With variance :math:`v =
r\,t`,

.. math:: x_t = \mathrm{wrap}(x_0 + \sqrt{v}\,z), \qquad
    p(x_t \mid x_0) = \sum_k N(\Delta + kP;\, 0, v)
    = \frac1P\Big(1 + 2\sum_{m \ge 1} e^{-m^2 v (2\pi/P)^2/2} \cos(2\pi m\Delta/P)\Big),

:math:`\Delta = \mathrm{wrap}(x_t - x_0)`. The bridge is exact: with a = v(0→s) and b = v(s→t),
draw the winding k with weight :math:`e^{-(\Delta + kP)^2/2(a+b)}`, then

.. math::
    x_s = \mathrm{wrap}\Big(x_0 + (\Delta + kP)\tfrac{a}{a+b} + \sqrt{\tfrac{ab}{a+b}}\,z\Big) .

A variance above P² forgets the other end to 3·10⁻⁹ and is capped there, so 8
windings either way always suffice.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws
from bridges._shapes import cast, on_host, positive
from bridges.manifold import BrownianMotion

WINDINGS: Final = 8
"""The most turns either way that a bridge considers; the others weigh less than 4e-9 together."""

IMAGES: Final = 3
"""Images either way in the density for √v < P/4; the next weighs less than 1e-40."""

WAVES: Final = 6
"""Waves in the density for √v ≥ P/4; the next weighs less than 1e-26."""


def wrap(x: Tensor, period: float) -> Tensor:
    """Bring numbers into [−period/2, period/2); what lies there stays bit for bit.

    >>> wrap(torch.tensor([0.3, 0.5, -0.7, 2.25]), 1.0)
    tensor([ 0.3000, -0.5000,  0.3000,  0.2500])
    """
    half, y = period / 2, torch.fmod(x, period)
    y = torch.where(y < -half, y + period, y)
    return torch.where(y >= half, y - period, y)


class WrappedMotion(BrownianMotion):
    """Brownian motion on a circle: all but its bridge.

    States on other turns are taken too; what is drawn is wrapped. The prior is uniform. A point
    prediction may lie on any turn. The error is the squared distance around the circle.
    """

    rate: float
    period: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self.period, "period")

    @property
    def _spread_of_uniform(self) -> float:
        return self.period**2 / 12

    def _exp(self, x: Tensor, w: Tensor) -> Tensor:
        return wrap(x + w, self.period)

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        return wrap(y - x, self.period)

    def _tangent(self, x: Tensor, w: Tensor) -> Tensor:
        return self._point(w, x)

    def _project(self, point: Tensor) -> Tensor:
        return wrap(point, self.period)

    def _diffuse(self, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
        sigma = torch.clamp(v, max=self.period**2).sqrt()
        return wrap(x + cast(sigma, x) * draws.normal(x.shape, x.dtype, x.device), self.period)

    def _rounded(self, x: Tensor, given: tuple[Tensor, ...]) -> Tensor:
        # Rounding may cross the end of the range; states on other turns stay there.
        y, half = x.to(given[0].dtype), self.period / 2
        y = torch.where((y >= half) & (x < half), y - self.period, y)
        return torch.where((y < -half) & (x >= -half), y + self.period, y)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return wrap(self.period * (draws.uniform(shape, dtype, device) - 0.5), self.period)

    def _log_kernel(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return self._density(wrap(y - x, self.period), v)[0]

    def _kernel_score(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return self._density(wrap(y - x, self.period), v)[1]

    def _density(self, turn: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-density and its slope at `turn`, from the sum that converges faster."""
        narrow = v < (self.period / 4) ** 2
        if on_host(v):
            return self._images(turn, v) if narrow.item() else self._waves(turn, v)
        floor, ceiling = (self.period / 8) ** 2, (self.period / 2) ** 2
        few = self._images(turn, torch.clamp(v, max=ceiling))
        many = self._waves(turn, torch.clamp(v, min=floor))
        return torch.where(narrow, few[0], many[0]), torch.where(narrow, few[1], many[1])

    def _images(self, turn: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        offsets = self.period * torch.arange(-IMAGES, IMAGES + 1, device=turn.device).to(turn)
        lifts = turn.unsqueeze(-1) + offsets
        log_weight = -(lifts**2) / (2 * cast(v, turn, 1))
        log_norm = cast(0.5 * torch.log(2 * math.pi * v), turn)
        mean = (torch.softmax(log_weight, -1) * lifts).sum(-1)
        return torch.logsumexp(log_weight, -1) - log_norm, -mean / cast(v, turn)

    def _waves(self, turn: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        m = torch.arange(1, WAVES + 1, device=turn.device, dtype=widest(turn.device))
        wave = 2 * math.pi / self.period * m
        decay = cast(2 * torch.exp(-0.5 * v.to(wave).unsqueeze(-1) * wave**2), turn)
        phase = turn.unsqueeze(-1) * wave.to(turn.dtype)
        density = 1 + (decay * phase.cos()).sum(-1)
        slope = -(decay * wave.to(turn.dtype) * phase.sin()).sum(-1)
        return density.log() - math.log(self.period), slope / density

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return 2 (P/2π)² √(1 − e^{−v(2π/P)²/8}), Diffusions.jl's scaler, for any period.

        Its square starts as v/2, as that of an Ornstein–Uhlenbeck process does (t/2 with variance
        t), so both losses start alike; at the prior a squared angle is π²/3 = 3.3 on average, and
        2 keeps it near the others.
        """
        turn = (self.period / (2 * math.pi)) ** 2
        return 2 * turn * (-torch.expm1(-self.rate * t / (8 * turn))).sqrt()


@final
@dataclass(frozen=True)
class WrappedBrownianDiffusion(WrappedMotion):
    """Brownian motion on a circle. Exact; see the module for the laws.

    States on other turns are taken too; what is drawn is wrapped. The prior is uniform. A
    prediction is a point, on any turn, a `Score`, `Noise` or `Velocity`, or a `Mixture` of wrapped
    normals. A point is an approximation: the mean direction does not say how wide the posterior
    is. The error of a point is the squared distance around the circle. Stochasticity `eta` below 1
    follows the shorter way round, so it keeps the marginal only while √v is small against the
    period.

    References:
        Jing et al., Torsional diffusion for molecular conformer generation, 2022.

    Args:
        rate: variance per unit of time, in squared units of the angle; positive.
        period: P, positive; 2π for radians, 1 for fractional coordinates.

    Raises:
        ValueError: if rate or period is not positive.

    >>> process = WrappedBrownianDiffusion(1.0)
    >>> x_t = process.sample_forward(torch.tensor([3.1, -3.1]), 0.5)
    >>> bool((x_t.abs() <= torch.pi).all())
    True
    """

    rate: float
    period: float = 2 * math.pi

    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        a, b = (torch.clamp(v, max=self.period**2) for v in (a, b))
        turn = w + self._winding(w, a + b, draws)
        mean = x_0 + cast(a / (a + b), w) * turn
        noise = draws.normal(w.shape, w.dtype, w.device)
        return wrap(mean + cast((a * b / (a + b)).sqrt(), w) * noise, self.period)

    def _winding(self, turn: Tensor, v: Tensor, draws: Draws) -> Tensor:
        """Draw the full turns to add, as a multiple of the period."""
        period = self.period
        u = draws.uniform(turn.shape, turn.dtype, turn.device)
        if on_host(v) and v.item() < period**2 / 41:
            # Only the way round the other side has a weight above 1e-9 of the direct way's.
            other = torch.sigmoid((turn.abs() - period / 2) * (period / v.item()))
            return torch.where(
                u < other, -torch.copysign(torch.full_like(turn, period), turn), 0.0
            )
        offsets = period * torch.arange(-WINDINGS, WINDINGS + 1, device=turn.device).to(turn)
        log_weight = -((turn.unsqueeze(-1) + offsets) ** 2) / (2 * cast(v, turn, 1))
        cdf = torch.softmax(log_weight, -1).cumsum(-1)
        index = (u.unsqueeze(-1) * cdf[..., -1:] >= cdf).sum(-1)
        return period * (index.clamp(max=2 * WINDINGS) - WINDINGS).to(turn.dtype)


@final
@dataclass(frozen=True)
class WrappedInterpolatedBrownianDiffusion(WrappedMotion):
    r"""Brownian motion on a circle with Diffusions.jl's interpolated bridge. Approximate.

    Forward noising, density and score are those of `WrappedBrownianDiffusion`, exactly. The bridge
    walks forward to s and on to t, and bends the walk along the shorter arc so that it ends at
    x_t:

    .. math:: B = x_0 + \sqrt{a}\,z, \quad C = B + \sqrt{b}\,z', \quad
        x_s = \mathrm{wrap}\big(B + \tfrac{a}{a+b}\,\mathrm{wrap}(x_t - C)\big),

    which is the law only as the variance a + b becomes small against the square of the period.
    For parity and for comparison; prefer the exact one.

    Args:
        rate: variance per unit of time, in squared units of the angle; positive.
        period: P, positive; 2π for radians, 1 for fractional coordinates.

    >>> process = WrappedInterpolatedBrownianDiffusion(1.0)
    >>> process.sample_bridge(torch.zeros(3), torch.ones(3), s=0.2, t=0.5).shape
    torch.Size([3])
    """

    rate: float
    period: float = 2 * math.pi

    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        first, second = (
            cast(v.sqrt(), w) * draws.normal(w.shape, w.dtype, w.device) for v in (a, b)
        )
        miss = wrap(w - first - second, self.period)
        return wrap(x_0 + first + cast(a / (a + b), w) * miss, self.period)

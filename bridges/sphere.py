r"""The unit sphere S²: Brownian motion on unit vectors, with its exact kernel and bridge.

States are unit vectors (…, 3); tangent vectors are ambient vectors (…, 3) perpendicular to the
state. The variance is :math:`v = r\,t` per tangent direction, so a short step moves by :math:`z
\sim N(0, v I_2)` in the tangent plane, and :math:`E[x_t \cdot x_0] = e^{-v}`.

Brownian motion R on SO(3), of the same variance, carries the vector along: :math:`x_t = R_t x_0`.
So forward is one draw of R_t. For the bridge, with w the vector from x_0 to x_t and β its length,

.. math::
    R_t = \mathrm{Rot}(x_0 \times w/\beta,\, \beta)\,\mathrm{Rot}(x_0, \psi), \qquad
    p(\psi) \propto f(\omega(\psi); v_t),

f the heat kernel on SO(3) and ω the angle of R_t; then R_s is drawn from the bridge on SO(3), and
x_s = R_s x_0. Every law is drawn exactly, without tables.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws
from bridges._so3 import quat_to_rotvec, safe_norm, sinc, unit
from bridges._so3_draw import sample_between, sample_kernel
from bridges._sphere_kernel import log_sphere_kernel, sample_turn
from bridges.unit_vector import UnitVectorMotion


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner products of vectors (…, 3), as (…, 1)."""
    return (x * y).sum(-1, keepdim=True)


def across(x: Tensor, y: Tensor) -> Tensor:
    """Return the part of y perpendicular to x, from the chord to y or to −y, whichever is short.

    Nothing cancels then, for unit vectors near each other or near the antipode.
    """
    chord = y - torch.where(dot(x, y) > 0, x, -x)
    return chord - dot(x, chord) * x


def any_across(x: Tensor) -> Tensor:
    """Return some unit vector perpendicular to x.

    References:
        Duff et al., Building an orthonormal basis, revisited, 2017.
    """
    a, b, c = x.detach().unbind(-1)
    sign = torch.copysign(torch.ones_like(c), c)
    k = -1 / (sign + c)
    return torch.stack((1 + sign * a * a * k, sign * a * b * k, -sign * a), -1)


@final
@dataclass(frozen=True)
class SphereDiffusion(UnitVectorMotion):
    """Brownian motion on the unit sphere S², on unit vectors. Exact; see the module for the laws.

    The prior is uniform. A prediction is any vector, of which `endpoint` takes the direction, a
    `Score`, `Noise` or `Velocity` (…, 3), of which the part perpendicular to x_t is used, or a
    `Mixture` of heat kernels. A point is an approximation, as on any curved space. The error of a
    point is the squared angle in radians. Densities are with respect to the normalised area: the
    uniform law has log 0. Stochasticity `eta` below 1 follows the shorter geodesic, so it keeps
    the marginal only while √v is small against π.

    References:
        Roberts & Ursell, Random walk on a sphere and on a Riemannian manifold, 1960.

    Args:
        rate: variance per tangent direction and unit of time, in rad²; positive.

    Raises:
        ValueError: if the rate is not positive.

    >>> process = SphereDiffusion(1.0)
    >>> x_0 = process.sample_prior((8,))
    >>> x_t = process.sample_forward(x_0, 0.5)
    >>> process.sample_bridge(x_0, x_t, s=0.2, t=0.5).shape
    torch.Size([8, 3])
    """

    size: ClassVar[int] = 3
    pole: ClassVar[int] = 2

    rate: float

    # ---------------------------------------------------------------- maps

    @property
    def _spread_of_uniform(self) -> float:
        return (math.pi**2 / 2 - 2) / 2

    def _exp(self, x: Tensor, w: Tensor) -> Tensor:
        length = safe_norm(w).unsqueeze(-1)
        return unit(length.cos() * x + sinc(length) * w)

    def _log(self, x: Tensor, y: Tensor) -> Tensor:
        side, cos = across(x, y), dot(x, y)
        sin = safe_norm(side).unsqueeze(-1)
        angle = torch.atan2(sin, cos)
        close = (sin < 1e-7) & (cos > 0)
        # At the antipode every way is as short; what is left of `side` there is rounding.
        opposite = (sin < 4 * torch.finfo(x.dtype).eps) & (cos < 0)
        way = torch.where(opposite, any_across(x), side)
        return torch.where(close, 1.0, angle) * way / torch.where(close | opposite, 1.0, sin)

    def _tangent(self, x: Tensor, w: Tensor) -> Tensor:
        w = self._vector(w, x.shape)
        return w - dot(x, w) * x

    # ---------------------------------------------------------------- draws

    def _diffuse(self, x: Tensor, v: Tensor, draws: Draws) -> Tensor:
        return _turned(sample_kernel(v, x.shape[:-1], draws, x.dtype, x.device), x)

    def _bridge_along(self, x_0: Tensor, w: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
        beta = safe_norm(w)
        cos, sin = (part.unsqueeze(-1) for part in sample_turn(beta, a + b, draws))
        half = 0.5 * beta.unsqueeze(-1)
        # The quaternion of R_t, a product of two: w is along axis × x_0.
        way = 0.5 * sinc(half) * w
        axis = torch.linalg.cross(x_0, way)
        near = half.cos().clamp(min=0)
        q = torch.cat((near * cos, near * sin * x_0 + cos * axis + sin * way), -1)
        return _turned(sample_between(quat_to_rotvec(q), a, b, draws), x_0)

    # ---------------------------------------------------------------- densities

    def _log_kernel(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        return log_sphere_kernel(*_half_angle(y, x), v)[0].to(y.dtype)

    def _kernel_score(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        sin, cos = _half_angle(y, x)
        # The part of x across y is sin β long, and sin β / 2 cos(β/2) = sin(β/2).
        slope = log_sphere_kernel(sin, cos, v)[1] / (2 * cos.clamp(min=1e-12))
        return (-slope.unsqueeze(-1) * across(_wide(y), _wide(x))).to(y.dtype)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return 2 √(1 − e^{−v/2}).

        Its square starts as 2v, four times the v/2 of numbers: the error sums two directions, so
        the loss of small angles is that of one number. At the prior a squared angle is π²/2 − 2 =
        2.9 on average, and 2 brings it to 1.5, between the 1.3 of rotations and the 1.6 of angles.
        """
        return 2 * (-torch.expm1(-0.5 * self.rate * t)).sqrt()


def _turned(rot: Tensor, x: Tensor) -> Tensor:
    """Return rot x at unit length, so that no run of any length leaves the sphere."""
    return unit((rot * x.unsqueeze(-2)).sum(-1))


def _half_angle(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sine and cosine of half the angle between unit vectors, by chords, in float64."""
    x, y = _wide(x), _wide(y)
    return 0.5 * safe_norm(y - x), 0.5 * safe_norm(y + x)


def _wide(x: Tensor) -> Tensor:
    return x.to(widest(x.device))

r"""Exact draws on S³: the heat kernel, and the bridge between two of them.

Forward, v ≤ 4.6: z ~ N(0, v I₃) of length r is kept with probability
:math:`[r \le 2\pi]\, \operatorname{sinc}(r/2)\, \rho(r; v)`, on average :math:`e^{-v/8}`; above, a
uniform quaternion is kept with h(θ; v)/h(0; v). Both keep 0.56 of the proposals at 4.6.

The bridge, with a before it and b after, a ≤ b (else it is walked from the other end), and Θ the
angle between the ends, is R with angle r to one end and ρ to the other:

.. math:: p(r, \rho) \propto r\,e^{-r^2/2a}\,\rho(r; a)\; \rho\,e^{-\rho^2/2b}\,\rho(\rho; b),
    \qquad |r - \Theta| \le \rho \le \min(r + \Theta,\, 4\pi - r - \Theta),

and a uniform azimuth. It is proposed in one of three ways; Θ, a and b decide which, never a draw.

1. Straight: r and ρ are those of the Brownian bridge in ℝ³. By the semigroup, exactly the share
   ρ(Θ; a + b) is kept: nearly 1 unless the ends are nearly opposite, where it falls to 0.
2. Around, where less than 0.97 would be kept: with :math:`\delta = 2\pi - \Theta`, m and σ² the
   mean and the variance of the straight bridge along its line, and E = ρ² − (r − Θ)², given r an
   exponential of mean 2b cut off at 2bg,

   .. math:: p(r) \propto r\, e^{-(r-m)^2/2\sigma^2} \big(1 - e^{-g(r)}\big)\, \rho(r; a)\,
       \rho(\rho; b), \qquad g = \tfrac{2\delta}{b} \min(2\pi - r,\, r\Theta/\delta) .

   Now :math:`\rho(\rho; b) \le 1 - e^{-c}` with :math:`c = 4\pi(r + \delta)/b`, for that is the
   chance of a bridge on the line to stay below 2π. So p lies below a product of log-concave
   functions of r, which lies below its tangent :math:`e^{\lambda(r - r_0)}`: a Gaussian in r.
3. From the nearer end, where b > 5: R from the kernel of variance a, kept with h(ρ; b)/h(0; b).

Of all proposals at least 0.26 are kept, at every Θ, a and b (a search finds no less).
"""

import math
from typing import Final

import torch
from torch import Tensor

from bridges import _so3_draw
from bridges._device import may_look
from bridges._draw import Draws, first_accepted
from bridges._s3_kernel import (
    FULL,
    SWITCH,
    angles,
    conjugate,
    correction,
    exp,
    kernel_ratio,
    product,
)
from bridges._shapes import cast, expand_leading, on_host
from bridges._so3 import safe_norm, sinc, unit
from bridges._so3_kernel import kept_share

WIDE: Final = 5.0
"""Above this variance a bridge is drawn from its nearer end; up to it, two images are enough."""

STRAIGHT: Final = 0.97
"""The straight proposal serves where at least this share of it is kept."""

SURE: Final = 2.0
"""Where 2π − Θ exceeds this many a + b, all straight proposals are kept but for 1e-9."""

WORST: Final = 0.25
"""The least share of a bridge's proposals that is kept; the most lopsided keep 0.26."""


def sample_uniform(
    shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw unit quaternions `(*shape, 4)`, uniform on S³."""
    return unit(draws.normal((*shape, 4), dtype, device))


def sample_kernel(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw unit quaternions `(*shape, 4)` from the heat kernel of variance v about 1."""
    share = math.exp(-v.item() / 8) if on_host(v) and v.item() <= SWITCH else 0.55
    return _so3_draw.sample_by(_proposal, v, shape, draws, dtype, device, share)


def _proposal(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Propose quaternions for the kernel of variance v and say how likely each is to be kept."""

    def narrow(v: Tensor) -> tuple[Tensor, Tensor]:
        rotvec, keep = _so3_draw.gaussian_proposal(v, shape, draws, dtype, device, _correction)
        return exp(rotvec), keep

    return _so3_draw.by_variance(
        v, SWITCH, narrow, lambda v: _uniform_proposal(v, shape, draws, dtype, device)
    )


def _correction(r: Tensor, v: Tensor) -> Tensor:
    return correction(r, FULL - r, v)


def _uniform_proposal(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    q = sample_uniform(shape, draws, dtype, device)
    return q, kernel_ratio(*angles(q), v)


# ---------------------------------------------------------------- the bridge


def sample_between(target: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
    """Draw R on the way from 1 to D = exp(target): density ∝ h(∠R; a) h(∠(R⁻¹D); b).

    Args:
        target: rotation vectors `(*B, 3)` of angle Θ at most 2π.
        a: variance up to R, in float64, broadcasting over the batch.
        b: variance after it.
        draws: the source of randomness.

    Returns:
        Unit quaternions `(*B, 4)`.
    """
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    q = _from_smaller(target, small, large, draws)
    if on_host(a, b) and a.item() <= b.item():
        return q
    # Seen from D, the law is that of a bridge with a and b exchanged.
    from_end = product(exp(target), conjugate(q))
    if on_host(a, b):
        return from_end
    return torch.where(expand_leading((a <= b).to(q.device), q.ndim), q, from_end)


def _from_smaller(target: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
    """Draw the bridge for a ≤ b."""
    shape, rotvec = target.shape[:-1], target.reshape(-1, 3)
    if on_host(a, b):
        own: tuple[Tensor, ...] = ()
        share = _least_share(a.item(), b.item())
    else:
        own = a, b = tuple(v.expand(shape).reshape(-1).to(rotvec.device) for v in (a, b))
        share = WORST

    def propose(draws: Draws, rotvec: Tensor, *own: Tensor) -> tuple[Tensor, Tensor]:
        a_row, b_row = own or (a, b)
        return _bridge_proposal(rotvec, a_row, b_row, draws)

    rows, rounds = (rotvec, *own), _so3_draw._rounds(share)
    return first_accepted(propose, rows, draws, rounds).reshape(*shape, 4)


def _least_share(a: float, b: float) -> float:
    """Return a bound of the share of proposals that is kept, over all Θ; seen, not proved."""
    balanced = b <= WIDE and b * (a + b) < 8 * a
    return STRAIGHT - 0.03 * b * (a + b) / a if balanced else WORST


def _bridge_proposal(rotvec: Tensor, a: Tensor, b: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    if on_host(a, b):
        propose = _triangle_proposal if b.item() <= WIDE else _near_end_proposal
        return propose(rotvec, a, b, draws)
    narrow = b <= WIDE
    most = torch.where(narrow, b, WIDE)
    inner, in_triangle = _triangle_proposal(rotvec, torch.minimum(a, most), most, draws)
    outer, near_end = _near_end_proposal(rotvec, a, b.clamp(min=WIDE), draws)
    q = torch.where(narrow.unsqueeze(-1), inner, outer)
    return q, torch.where(narrow, in_triangle, near_end)


def _near_end_proposal(
    rotvec: Tensor, a: Tensor, b: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Propose R from the kernel about 1; keep by the other kernel."""
    step, keep = _proposal(a, rotvec.shape[:-1], draws, rotvec.dtype, rotvec.device)
    keep = keep * kernel_ratio(*angles(product(conjugate(step), exp(rotvec))), b)
    return step, _so3_draw._kept(keep, draws)


def _triangle_proposal(
    rotvec: Tensor, a: Tensor, b: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Propose R by the sides of its triangle with D, straight or around, by the same noise."""
    noise = draws.normal(rotvec.shape, rotvec.dtype, rotvec.device)
    length = safe_norm(rotvec).clamp(max=FULL)
    total, free = cast(a + b, length), may_look(rotvec)
    q, r, rho, fits = _so3_draw._straight(rotvec, length, a, b, noise)
    if free and bool((FULL - length > SURE * total).all()):
        return q, fits
    keep = correction(r, FULL - r, cast(a, r)) * correction(rho, FULL - rho, cast(b, rho))
    keep = torch.where(fits, keep, 0.0)
    bent = correction(length, FULL - length, total) < STRAIGHT
    if not free or bool(bent.any()):
        around, keep_around = _around(rotvec, length, a, b, noise)
        q = torch.where(bent.unsqueeze(-1), exp(around), q)
        keep = torch.where(bent, keep_around, keep)
    return q, _so3_draw._kept(keep, draws)


def _around(
    rotvec: Tensor, length: Tensor, a: Tensor, b: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Propose R near the antipode, where few straight bridges fit; say how likely it is kept."""
    axis = rotvec / torch.where(length == 0, 1.0, length).unsqueeze(-1)
    along = (noise * axis).sum(-1)
    perpendicular = noise - along.unsqueeze(-1) * axis
    r, keep = _near_side(length, a, b, along)
    delta, rise, b = FULL - length, _rise(r, length), cast(b, length)
    g = 2 * delta * rise / b
    cut = _cut_exponential(g, torch.exp(-0.5 * (perpendicular**2).sum(-1)))
    gap, square = (r - length).abs(), 4 * delta * rise * cut
    rho = torch.sqrt(gap**2 + square)
    wider = square / (rho + gap).clamp(min=1e-30)  # ρ − |r − Θ|, without cancellation
    rest = torch.where(r < length, r + delta - wider, FULL - rho)
    keep = keep * rise * kept_share(g) * correction(rho, rest, b)
    bend = sinc(0.25 * wider) * sinc(0.25 * (rho + gap)) / sinc(0.5 * delta)
    q = 0.5 * cut * rise * bend / torch.sin(0.5 * torch.minimum(r, FULL - r))
    return r.unsqueeze(-1) * _direction(q, axis, perpendicular), keep


def _direction(q: Tensor, axis: Tensor, perpendicular: Tensor) -> Tensor:
    """Return the unit vector at the angle C from an axis, with q = sin²(C/2), and its azimuth."""
    height = safe_norm(perpendicular)
    towards = perpendicular / torch.where(height == 0, 1.0, height).unsqueeze(-1)
    q = q.clamp(0, 1).unsqueeze(-1)
    half_sine = (q * (1 - q)).clamp(min=1e-30).sqrt()  # with a finite slope at both ends
    return (1 - 2 * q) * axis + 2 * half_sine * towards


def _near_side(length: Tensor, a: Tensor, b: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Propose r, and return what is known by then of how likely it is kept; 0 off (0, 2π)."""
    delta = FULL - length
    m, variance = cast(a / (a + b), length) * length, cast(a * b / (a + b), length)
    variance, a, b = variance.clamp(min=1e-30), cast(a, length), cast(b, length)
    r_0 = _tangent_point(m, variance, b, length)
    rise, c = _rise(r_0, length), 2 * FULL * (r_0 + delta) / b
    g = 2 * delta * rise / b
    turn = torch.where(r_0 < delta, 1 / r_0, -1 / (FULL - r_0))  # the slope of log g
    slope = 1 / r_0 + _logistic(c) / (r_0 + delta) + _logistic(g) * turn
    r = m + slope * variance + variance.sqrt() * noise
    inside = (r > 0) & (r < FULL)
    r = torch.where(inside, r, r_0)
    keep = r / r_0 * torch.exp(-slope * (r - r_0)) * correction(r, FULL - r, a)
    bound = rise * kept_share(g) * c * kept_share(c)
    return r, torch.where(inside, keep / bound, 0.0)


def _tangent_point(m: Tensor, variance: Tensor, b: Tensor, length: Tensor) -> Tensor:
    r"""Return about where the bound of p(r) is largest; any point in (0, 2π) would be right.

    There it is as :math:`r^n e^{-(r-m)^2/2\sigma^2}` with n from 1 to 3, so r is at most 4.8.
    """
    delta = FULL - length
    r = 0.5 * (m + (m**2 + 4 * variance).sqrt())
    power = 1 + _logistic(2 * FULL * (r + delta) / b) * r / (r + delta)
    power = power + torch.where(r < delta, _logistic(2 * length * r / b), 0.0)
    return 0.5 * (m + (m**2 + 4 * power * variance).sqrt())


def _rise(r: Tensor, length: Tensor) -> Tensor:
    """Return min(2π − r, rΘ/δ), the room for ρ over 4δ, in ρ²."""
    return torch.minimum(FULL - r, r * length / (FULL - length).clamp(min=1e-12))


def _logistic(x: Tensor) -> Tensor:
    """Return x/(eˣ − 1), the slope of log(1 − e^{−x}) times x; 1 at 0."""
    return torch.exp(-x) / kept_share(x)


def _cut_exponential(g: Tensor, u: Tensor) -> Tensor:
    """Return the share of g that a standard exponential cut off at g takes, by inversion."""
    tiny = g < 1e-30
    drawn = -torch.log1p(u * torch.expm1(-g)) / torch.where(tiny, 1.0, g)
    return torch.where(tiny, u, drawn).clamp(max=1)

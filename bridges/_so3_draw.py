r"""Exact draws on SO(3): the heat kernel, and the bridge between two of them.

Forward, v ≤ 3: :math:`\exp(z)` is kept with probability
:math:`\operatorname{sinc}(|z|/2)\,\rho(|z|; v)`, on average :math:`e^{-v/8}`; above, a uniform
rotation is kept with f(ω; v)/f(0; v). The bridge with a = v(0→s), b = v(s→t) is drawn on the
double cover, where the two sides of a spherical triangle are those of the straight Brownian bridge
in ℝ³, up to images that are tested for. Where a or b is large, or the far lift comes close to the
antipode, it is drawn from the kernel of the smaller variance about its own end and kept in
proportion to the other's. The laws agree with the kernel, so either way is exact.
"""

import math
from collections.abc import Callable
from typing import Final, TypeAlias

import torch
from torch import Tensor

from bridges import _so3
from bridges._draw import Draws, first_accepted
from bridges._shapes import cast, expand_leading, on_host
from bridges._so3_kernel import SWITCH, far_lift, images, log_heat_kernel

Pair: TypeAlias = tuple[Tensor, Tensor]

ONE_LIFT: Final = 0.65
"""A bridge of less variance, between ends within a radian, never takes the far lift (1e-9)."""

ONE_IMAGE: Final = 0.5
"""A Gaussian of less variance never comes near the antipode of the double cover (1e-13)."""

NEAR: Final = 1.0
"""Below this angle a wide bridge is drawn by its sides: the far lift comes near the antipode."""


def sample_uniform(
    shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw rotations `(*shape, 3, 3)` from the Haar measure."""
    q = draws.normal((*shape, 4), dtype, device)
    return _so3.quat_to_matrix(q / torch.linalg.vector_norm(q, dim=-1, keepdim=True))


def _correction(r: Tensor, v: Tensor) -> Tensor:
    """Return ρ(r; v), the sum over the images of the double cover; at most 1, and 0 at r = 2π."""
    return 1 + images(r.clamp(max=2 * math.pi), v, 4 * math.pi, 1)


def by_variance(
    v: Tensor, switch: float, narrow: Callable[[Tensor], Pair], wide: Callable[[Tensor], Pair]
) -> Pair:
    """Propose in the way for variances up to `switch`, or in that above; row by row for a batch.

    Returns:
        Proposals, and how likely each is to be kept.
    """
    if on_host(v):
        return (narrow if v.item() <= switch else wide)(v)
    (near, p_near), (far, p_far) = narrow(v.clamp(max=switch)), wide(v.clamp(min=switch))
    below = v <= switch
    return torch.where(expand_leading(below, near.ndim), near, far), torch.where(
        below, p_near, p_far
    )


def gaussian_proposal(
    v: Tensor,
    shape: tuple[int, ...],
    draws: Draws,
    dtype: torch.dtype,
    device: torch.device,
    correction: Callable[[Tensor, Tensor], Tensor],
) -> Pair:
    """Propose rotation vectors for the kernel on the double cover; `correction(r, v)` is ρ."""
    noise = draws.normal((*shape, 3), dtype, device)
    rotvec = cast(v.sqrt(), noise, 1) * noise
    r = _so3.safe_norm(rotvec)
    keep = torch.sinc(r / (2 * math.pi))
    if not on_host(v) or v.item() > ONE_IMAGE:
        keep = keep * correction(r, cast(v.clamp(min=1e-30), r))
    return rotvec, torch.where(r < 2 * math.pi, keep, 0.0)


def sample_by(
    proposal: Callable[..., Pair],
    v: Tensor,
    shape: tuple[int, ...],
    draws: Draws,
    dtype: torch.dtype,
    device: torch.device,
    acceptance: float,
) -> Tensor:
    """Draw points `(*shape, …)` from `proposal(v, shape, draws, dtype, device)` by rejection."""
    count = math.prod(shape)
    own = () if v.ndim == 0 else (v.expand(shape).reshape(count),)
    rows = (torch.empty(count, 0, dtype=dtype, device=device), *own)

    def propose(draws: Draws, row: Tensor, *own: Tensor) -> Pair:
        points, keep = proposal(own[0] if own else v, row.shape[:1], draws, dtype, device)
        return points, _kept(keep, draws)

    points = first_accepted(propose, rows, draws, _rounds(acceptance))
    return points.reshape(*shape, *points.shape[1:])


def _proposal(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> Pair:
    """Propose rotations for the kernel of variance v and say how likely each is to be kept."""

    def narrow(v: Tensor) -> Pair:
        rotvec, keep = gaussian_proposal(v, shape, draws, dtype, device, _correction)
        return _so3.exp(rotvec), keep

    return by_variance(
        v, SWITCH, narrow, lambda v: _uniform_proposal(v, shape, draws, dtype, device)
    )


def _uniform_proposal(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    rot = sample_uniform(shape, draws, dtype, device)
    return rot, _kernel_ratio(_so3.safe_norm(_so3.log(rot)), v)


def _kernel_ratio(angle: Tensor, v: Tensor) -> Tensor:
    """Return f(angle; v)/f(0; v), at most 1."""
    at_angle = log_heat_kernel(angle, v)[0]
    return torch.exp(at_angle - log_heat_kernel(torch.zeros_like(angle), v)[0])


def sample_kernel(
    v: Tensor, shape: tuple[int, ...], draws: Draws, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Draw rotations `(*shape, 3, 3)` from the heat kernel of variance v about the identity."""
    acceptance = math.exp(-min(v.item(), SWITCH) / 8) if on_host(v) else 0.68
    return sample_by(_proposal, v, shape, draws, dtype, device, acceptance)


def sample_between(target: Tensor, a: Tensor, b: Tensor, draws: Draws) -> Tensor:
    """Draw R on the way from the identity to D = exp(target): density ∝ f(∠R; a) f(∠(RᵀD); b).

    Args:
        target: rotation vectors `(*B, 3)` of angle at most π.
        a: variance up to R, in float64, broadcasting over the batch.
        b: variance after it.
        draws: the source of randomness.

    Returns:
        Rotation matrices `(*B, 3, 3)`.
    """
    shape, rotvec = target.shape[:-1], target.reshape(-1, 3)
    if on_host(a, b):
        easy, sides = (a + b).item() <= ONE_LIFT, max(a.item(), b.item()) > SWITCH
        acceptance = 0.999 if easy else (0.35 if sides else 0.15)
        own: tuple[Tensor, ...] = ()
    else:
        easy, sides, acceptance = False, False, 0.15
        a, b = (v.expand(shape).reshape(-1) for v in (a, b))
        own = (a, b)
    # The lift is drawn once: to draw it again with each proposal would favour the one accepted
    # more often.
    lift: tuple[Tensor, ...] = () if sides else _lift(rotvec, a + b, draws)

    def propose(draws: Draws, rotvec: Tensor, *row: Tensor) -> tuple[Tensor, Tensor]:
        a_row, b_row = row[-2:] if own else (a, b)
        if sides:
            return _by_sides(rotvec, a_row, b_row, draws)
        by_lift = _by_lift(row[0], row[1], a_row, b_row, draws)
        if easy:
            return by_lift
        by_sides = _by_sides(rotvec, a_row, b_row, draws)
        near = (_so3.safe_norm(rotvec) < NEAR) & (a_row + b_row > ONE_LIFT)
        chosen = near | (torch.maximum(a_row, b_row) > SWITCH)
        rot = torch.where(chosen[..., None, None], by_sides[0], by_lift[0])
        return rot, torch.where(chosen, by_sides[1], by_lift[1])

    rows = (rotvec, *lift, *own)
    return first_accepted(propose, rows, draws, _rounds(acceptance)).reshape(*shape, 3, 3)


def _kept(keep: Tensor, draws: Draws) -> Tensor:
    """Keep with these probabilities; NaN is kept, so that it shows instead of waiting for ever."""
    return ~(draws.uniform(keep.shape, keep.dtype, keep.device) >= keep)


def _rounds(acceptance: float) -> int:
    """How often a device proposes, so that fewer than 1e-9 still wait."""
    return 1 if acceptance == 1 else math.ceil(math.log(1e-9) / math.log1p(-acceptance))


def _by_sides(rotvec: Tensor, a: Tensor, b: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Propose R from the kernel of smaller variance about its end; keep by the other kernel."""
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    step, keep = _proposal(small, rotvec.shape[:-1], draws, rotvec.dtype, rotvec.device)
    from_end = _so3.compose(_so3.exp(rotvec), step.mT)
    first = expand_leading((a <= b).to(step.device), 3)
    rot = torch.where(first, step, from_end)
    # Seen from the far end, R is at the angle of exp(rotvec) stepᵀ, whichever end is the near one.
    keep = keep * _kernel_ratio(_so3.safe_norm(_so3.log(from_end)), large)
    return rot, _kept(keep, draws)


def _by_lift(
    target: Tensor, length: Tensor, a: Tensor, b: Tensor, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Propose R by the straight bridge to one lift of D: its side lengths and its azimuth."""
    noise = draws.normal(target.shape, target.dtype, target.device)
    q, r, rho, fits = _straight(target, length, a, b, noise)
    rot = _so3.quat_to_matrix(q)
    if on_host(a, b) and (a + b).item() <= ONE_LIFT:
        return rot, fits
    keep = _correction(r, cast(a, r)) * _correction(rho, cast(b, r))
    return rot, fits & _kept(keep, draws)


def _straight(
    target: Tensor, length: Tensor, a: Tensor, b: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Return R as a quaternion, its two sides, and whether there is such a triangle.

    With w the target, L its length, p the bridge in ℝ³ and r, ρ its distances to the ends, R has
    the sides r, ρ and the azimuth of p. By the half-angle formulas of both triangles it turns
    about

    .. math::
        u = kk'\,p + \tfrac12 F\,\big(r(k + k') + F\,p \cdot w\big)\,w, \qquad F = (k - k')/L, \\
        k^2 = \operatorname{sinc}\tfrac{r+L+\rho}4\,\operatorname{sinc}\tfrac{r+L-\rho}4, \qquad
        k'^2 = \operatorname{sinc}\tfrac{\rho+r-L}4\,\operatorname{sinc}\tfrac{\rho-r+L}4 .

    No axis of w is needed, so R is smooth in w, at 0 too: F = (cos(r/2) − sinc(r/2))/r(k + k').
    """
    step = cast((a * b / (a + b)).sqrt(), noise, 1) * noise
    p = torch.addcmul(step, cast(a / (a + b), noise, 1), target)
    r, rho = _so3.safe_norm(torch.stack((p, target - p)))
    perimeter = r + rho + length
    sides = (perimeter, rho + r - length, r + length - rho, rho - r + length)
    sinc = _so3.sinc(torch.stack((*sides, 2 * r)) / 4)
    k, k_ = (sinc[:2] * sinc[2:4]).clamp(min=1e-30).sqrt()  # with a finite slope at 0
    cos, both = torch.cos(0.5 * r), k + k_
    close = 2 * math.sqrt(torch.finfo(r.dtype).eps) * r
    limit = (cos - sinc[4]) / (both * r.clamp(min=1e-30))
    bend = (k - k_) / torch.maximum(length, close).clamp(min=1e-15)
    bend = torch.where(length <= close, limit, bend)
    inner = 0.5 * ((r - rho) * (r + rho) + length**2)  # p · w
    along = 0.5 * bend * (r * both + bend * inner)
    u = torch.addcmul((k * k_).unsqueeze(-1) * p, along.unsqueeze(-1), target)
    square = (r * r).clamp(min=1e-30) / (u * u).sum(-1).clamp(min=1e-30)
    scale = 0.5 * sinc[4] * square.sqrt()
    q = torch.cat((cos.unsqueeze(-1), scale.unsqueeze(-1) * u), -1)
    # NaN counts as fitting, so that it shows instead of waiting for ever.
    misses = (r >= 2 * math.pi) | (rho >= 2 * math.pi) | (perimeter >= 4 * math.pi)
    return q, r, rho, ~misses


def _lift(rotvec: Tensor, v: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Draw one of the two lifts of D to SU(2), as a rotation vector and its length up to 2π.

    At 0 the far lift has no direction and is never drawn: it is left to `_by_sides`.
    """
    angle = _so3.safe_norm(rotvec)
    zero = angle == 0
    p_far = torch.where(zero, 0.0, far_lift(angle, cast(v, angle)))
    far = draws.uniform(angle.shape, angle.dtype, angle.device) < p_far
    turned = torch.where(far, 1 - 2 * math.pi / torch.where(zero, 1.0, angle), 1.0)
    return turned.unsqueeze(-1) * rotvec, torch.where(far, 2 * math.pi - angle, angle)

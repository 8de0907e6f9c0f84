r"""Quaternion maps, and the heat kernel on S³, without tables.

A unit quaternion (cos θ/2, n sin θ/2), scalar first, is the end of the rotation vector θn, θ in
[0, 2π]; q and −q are two points. A variance v is that of the rotation vector, per axis, for short
times: v/4 on the unit sphere. With respect to the normalised measure, the angle has density
sin²(θ/2)/π · h(θ; v), and the kernel has two forms, a series for large v and a sum over images
(Poisson) for small v:

.. math::
    h(\theta; v) = \sum_{n \ge 1} n\, e^{-(n^2-1)v/8}\, \frac{\sin(n\theta/2)}{\sin(\theta/2)}
    = \sqrt{8\pi}\, e^{v/8}\, v^{-3/2} \sum_j (\theta + 4\pi j)\,
    \frac{e^{-(\theta + 4\pi j)^2/2v}}{\sin(\theta/2)} .

Next to the antipode the images cancel in pairs. There, with ε = 2π − θ and c = 2π, 6π, …, the sum
is

.. math::
    \sum_c 2\varepsilon\, e^{-(c^2 + \varepsilon^2)/2v}
    \Big[\frac{c^2}{v}\,\frac{\sinh y}{y} - \cosh y\Big], \qquad y = \frac{c\,\varepsilon}{v},

where nothing cancels up to v = 4.6. So ε is passed on beside θ, to its own relative accuracy.
"""

import math
from typing import Final

import torch
from torch import Tensor

from bridges._shapes import cast, on_host
from bridges._so3 import safe_norm, sinc
from bridges._so3_kernel import _inverse_sinc_slope, images, images_and_slope, kept_share

SWITCH: Final = 4.6
"""The variance where the series takes over. Proposals change there too: both ways keep 0.56."""

WAVES: Final = 8
"""Terms of the series for v ≥ 4.6; the next weighs less than 1e-18."""

FULL: Final = 2 * math.pi
"""The angle of −1, the farthest of all."""


# ---------------------------------------------------------------- maps


def product(p: Tensor, q: Tensor) -> Tensor:
    """Return Hamilton's product pq of quaternions (…, 4)."""
    a, u, b, v = p[..., :1], p[..., 1:], q[..., :1], q[..., 1:]
    scalar = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat((scalar, a * v + b * u + torch.linalg.cross(u, v)), -1)


def conjugate(q: Tensor) -> Tensor:
    """Return the inverse of unit quaternions (…, 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), -1)


def between(p: Tensor, q: Tensor) -> Tensor:
    """Return p⁻¹q, from p to q in the frame of p."""
    return product(conjugate(p), q)


def exp(rotvec: Tensor) -> Tensor:
    """Return the unit quaternions (…, 4) of rotation vectors (…, 3) of any length."""
    half = 0.5 * safe_norm(rotvec).unsqueeze(-1)
    return torch.cat((half.cos(), 0.5 * sinc(half) * rotvec), -1)


def angles(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angle θ in [0, 2π] of quaternions (…, 4), and 2π − θ; both keep their digits."""
    length, scalar = safe_norm(q[..., 1:]), q[..., 0]
    return 2 * torch.atan2(length, scalar), 2 * torch.atan2(length, -scalar)


def log(q: Tensor) -> Tensor:
    """Return the rotation vectors (…, 3) of quaternions (…, 4), of angle in [0, 2π].

    At −1, where every axis is right, the first is taken.
    """
    scalar, v = q[..., 0], q[..., 1:]
    length = safe_norm(v)
    close, antipode = (length < 1e-6) & (scalar > 0), (length == 0) & (scalar < 0)
    safe = torch.where(length == 0, 1.0, length)
    ratio = torch.where(close, 1 / scalar.clamp(min=0.5), torch.atan2(length, scalar) / safe)
    pole = FULL * torch.eye(3, dtype=q.dtype, device=q.device)[0]
    return torch.where(antipode.unsqueeze(-1), pole, (2 * ratio).unsqueeze(-1) * v)


# ---------------------------------------------------------------- the heat kernel


def log_heat_kernel(angle: Tensor, rest: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log h(θ; v) and its slope divided by the angle, (d/dθ log h)/θ, which is smooth.

    Args:
        angle: θ in [0, 2π], over the batch.
        rest: 2π − θ.
        v: the variance in float64, broadcasting over the batch, above 0.
    """
    if on_host(v):
        return _log_images(angle, rest, v) if v.item() < SWITCH else _log_series(angle, rest, v)
    few = _log_images(angle, rest, v.clamp(max=2 * SWITCH))
    many = _log_series(angle, rest, v.clamp(min=SWITCH / 2))
    narrow = v < SWITCH
    return torch.where(narrow, few[0], many[0]), torch.where(narrow, few[1], many[1])


def kernel_ratio(angle: Tensor, rest: Tensor, v: Tensor) -> Tensor:
    """Return h(θ; v)/h(0; v), at most 1."""
    zero = torch.zeros_like(angle)
    top = log_heat_kernel(zero, zero + FULL, v)[0]
    return torch.exp(log_heat_kernel(angle, rest, v)[0] - top)


def correction(angle: Tensor, rest: Tensor, v: Tensor) -> Tensor:
    """Return ρ(θ; v), the sum over the images over its first term: at most 1, and 0 at θ = 2π.

    It is the share of kept draws where the kernel in ℝ³ stands in for the kernel on S³.

    Args:
        angle: θ in [0, 2π], over the batch.
        rest: 2π − θ.
        v: the variance up to 6 in the dtype of θ; an image left out weighs less than 1e-8.
    """
    half = math.pi
    near = 1 + images(angle.clamp(max=half), v, 2 * FULL, 1)
    x = 2 * FULL * rest.clamp(max=half) / v
    pair = 2 * FULL**2 / v * kept_share(x) - (1 + torch.exp(-x))
    return torch.where(angle < half, near, rest / angle.clamp(min=half) * pair)


def _log_images(angle: Tensor, rest: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    front = cast(v / 8 + 0.5 * math.log(8 * math.pi) - 1.5 * torch.log(v), angle)
    u, half = cast(v, angle), math.pi
    near, near_slope = _about_identity(angle.clamp(max=half), u)
    far, far_slope = _about_antipode(rest.clamp(max=half), u)
    log_h = front - angle**2 / (2 * u) + torch.where(angle < half, near, far)
    far_slope = far_slope * rest / angle.clamp(min=half)
    return log_h, torch.where(angle < half, near_slope, far_slope)


def _about_identity(angle: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log of the sum over e^{−θ²/2v}, and the slope of log h over θ; for θ ≤ π."""
    total, slope = torch.ones_like(angle), torch.zeros_like(angle)
    for k in (1, 2):
        shift = 2 * FULL * k
        weight = torch.exp(-shift * (0.5 * shift - angle) / v)
        pair, change = images_and_slope(angle, v, shift)
        total, slope = total + weight * pair, slope + weight * change
    log_sum = torch.log(total) - torch.log(0.5 * sinc(0.5 * angle))
    return log_sum, slope / total - 1 / v + _inverse_sinc_slope(angle)


def _about_antipode(rest: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log of the sum over e^{−θ²/2v}, and the slope of log h over 2π − θ; for θ ≥ π."""
    total, slope = torch.zeros_like(rest), torch.zeros_like(rest)
    for k in (1, 3):
        shift = FULL * k
        weight = torch.exp(-(0.5 * (shift**2 - FULL**2) - (shift - FULL) * rest) / v)
        pair, change = images_and_slope(rest, v, shift)
        total, slope = total - weight * pair, slope - weight * change
    log_sum = torch.log(total) - torch.log(0.5 * sinc(0.5 * rest))
    return log_sum, 1 / v - _inverse_sinc_slope(rest) - slope / total


def _log_series(angle: Tensor, rest: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    cos = torch.cos(0.5 * angle)
    total, slope = torch.ones_like(angle), torch.zeros_like(angle)
    # sin(nθ/2)/sin(θ/2) = U_{n−1}(cos θ/2) and its slope, by the recurrence of Chebyshev
    wave, before = 2 * cos, torch.ones_like(angle)
    wave_slope, slope_before = torch.full_like(angle, 2.0), torch.zeros_like(angle)
    for n in range(2, WAVES + 1):
        factor = cast(n * torch.exp(-(n**2 - 1) * v / 8), angle)
        total, slope = total + factor * wave, slope + factor * wave_slope
        turned = 2 * wave + 2 * cos * wave_slope - slope_before
        wave, before = 2 * cos * wave - before, wave
        wave_slope, slope_before = turned, wave_slope
    # d cos(θ/2)/dθ over θ, with the digits of 2π − θ next to the antipode
    far = torch.sin(0.5 * rest) / (0.5 * angle.clamp(min=math.pi))
    by_angle = -0.25 * torch.where(angle < math.pi, sinc(0.5 * angle), far)
    return torch.log(total), by_angle * slope / total

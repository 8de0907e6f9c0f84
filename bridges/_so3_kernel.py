r"""The heat kernel on SO(3), without tables.

A variance v is that of the rotation vector, per axis, for short times; the generator is half the
Laplacian. Densities are with respect to the normalised Haar measure, so the angle has density
(1 − cos ω)/π · f(ω; v) on [0, π]. The kernel has two forms, a series for large v
and a sum over images (Poisson) for small v:

.. math::
    f(\omega; v) = \sum_{l \ge 0} (2l+1)\, e^{-l(l+1)v/2}\,
    \frac{\sin((l+\frac12)\omega)}{\sin(\omega/2)}
    = \sqrt{2\pi}\, e^{v/8}\, v^{-3/2} \sum_k (-1)^k\, (\omega + 2\pi k)\,
    \frac{e^{-(\omega+2\pi k)^2/2v}}{\sin(\omega/2)} .
"""

import math
from typing import Final, TypeAlias

import torch
from torch import Tensor

from bridges._shapes import cast, on_host
from bridges._so3 import sinc

Pair: TypeAlias = tuple[Tensor, Tensor]

SWITCH: Final = 3.0
"""The variance where the series takes over; both forms reach float64 there with a few terms."""

IMAGES: Final = 3
"""Pairs of images for v < 3; the next weighs less than 1e-29."""

WAVES: Final = 6
"""Terms of the series for v ≥ 3; the next weighs less than 1e-26."""


def images(r: Tensor, v: Tensor, period: float, k: int) -> Tensor:
    r"""Return the k-th pair of images.

    .. math:: \tfrac1r \sum_\pm (r \pm kP)\, e^{-((r \pm kP)^2 - r^2)/2v}

    Args:
        r: distance in [0, P/2].
        v: variance, broadcasting over r, in the dtype of r.
        period: P: 2π on SO(3), 4π on its double cover.
        k: which pair, at least 1.
    """
    shift = period * k
    y = shift * r / v
    nearer = torch.exp(-shift * (0.5 * shift - r) / v)
    return nearer * ((1 + torch.exp(-2 * y)) - (2 * shift**2 / v) * _decaying_sinhc(y))


def _decaying_sinhc(y: Tensor) -> Tensor:
    """Return e^{−y} sinh(y)/y = (1 − e^{−2y})/2y, and 1 at 0; its slope is not kept there."""
    small = y < 1e-12
    return torch.where(small, 1.0, -torch.expm1(-2 * y) / (2 * torch.where(small, 1.0, y)))


def kept_share(x: Tensor) -> Tensor:
    """Return (1 − e^{−x})/x, and 1 at 0, with a slope that keeps its digits there."""
    small = x < 0.01
    safe = torch.where(small, 1.0, x)
    low, series = torch.where(small, x, 0.0), torch.ones_like(x)
    for order in range(6, 1, -1):
        series = 1 - low * series / order
    return torch.where(small, series, -torch.expm1(-safe) / safe)


def images_and_slope(r: Tensor, v: Tensor, shift: float) -> Pair:
    r"""Return a pair of images and its slope over r, both smooth in r and times e^{−y}.

    .. math:: 2\cosh y - c\,\frac{\sinh y}y, \qquad
        \frac1r \frac{d}{dr}\Big(2\cosh y - c\,\frac{\sinh y}y\Big), \qquad
        y = \frac{\text{shift}\; r}v, \quad c = \frac{2\,\text{shift}^2}v
    """
    y, c = shift * r / v, 2 * shift**2 / v
    cosh, sinhc, small = 1 + torch.exp(-2 * y), kept_share(2 * y), y < 0.05
    safe, square = torch.where(small, 1.0, y), torch.where(small, y, 0.0) ** 2
    # the slope of sinh(y)/y over y
    exact = (cosh - 2 * sinhc) / (2 * safe**2)
    series = (1 / 3 + square * (1 / 30 + square / 840)) * torch.exp(-y)
    slope = 2 * sinhc - c * torch.where(small, series, exact)
    return cosh - c * sinhc, slope * (shift / v) ** 2


def far_lift(angle: Tensor, v: Tensor) -> Tensor:
    """Return the probability that Brownian motion with variance v took the far lift to SU(2).

    The quaternions q and −q are the same rotation; the kernel of the double cover weighs them. The
    even images of the sum over SO(3) lead to the near one, the odd images to the far one.
    """
    odd = -images(angle, v, 2 * math.pi, 1)
    return odd / (1 + odd + images(angle, v, 2 * math.pi, 2))


def log_heat_kernel(angle: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log f(ω; v) and its slope divided by the angle, (d/dω log f)/ω, which is smooth at 0.

    Args:
        angle: ω in [0, π], over the batch.
        v: the variance in float64, broadcasting over the batch, above 0.
    """
    if on_host(v):
        return _log_images(angle, v) if v.item() < SWITCH else _log_series(angle, v)
    few = _log_images(angle, v.clamp(max=2 * SWITCH))
    many = _log_series(angle, v.clamp(min=SWITCH / 2))
    narrow = v < SWITCH
    return torch.where(narrow, few[0], many[0]), torch.where(narrow, few[1], many[1])


def _log_images(angle: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    front = cast(v / 8 + 0.5 * math.log(2 * math.pi) - 1.5 * torch.log(v), angle)
    u, angle = cast(v, angle), angle.clamp(max=math.pi)  # rounding past π would overflow
    total, slope = torch.ones_like(angle), torch.zeros_like(angle)
    for k in range(1, IMAGES + 1):
        shift = 2 * math.pi * k
        weight = (-1) ** k * torch.exp(-shift * (0.5 * shift - angle) / u)
        pair, change = images_and_slope(angle, u, shift)
        total, slope = total + weight * pair, slope + weight * change
    by_angle = slope / total - 1 / u + _inverse_sinc_slope(angle)
    log_f = front - angle**2 / (2 * u) - torch.log(0.5 * sinc(0.5 * angle)) + torch.log(total)
    return log_f, by_angle


def _inverse_sinc_slope(angle: Tensor) -> Tensor:
    """Return (1/ω)(1/ω − ½ cot(ω/2)), the slope of log(ω/sin(ω/2)) over ω; 1/12 at 0."""
    small = angle < 0.3
    safe = torch.where(small, 1.0, angle)
    exact = (1 / safe - 0.5 / torch.tan(0.5 * safe)) / safe
    square = angle**2
    series = 1 / 12 + square * (1 / 720 + square * (1 / 30240 + square / 1209600))
    return torch.where(small, series, exact)


def _log_series(angle: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    cos = torch.cos(angle)
    total, slope = torch.ones_like(angle), torch.zeros_like(angle)
    # sin((l+½)ω)/sin(ω/2) and its slope in cos ω, by the recurrence of Chebyshev
    wave, before = 1 + 2 * cos, torch.ones_like(angle)
    wave_slope, slope_before = torch.full_like(angle, 2.0), torch.zeros_like(angle)
    for order in range(1, WAVES + 1):
        factor = cast((2 * order + 1) * torch.exp(-0.5 * order * (order + 1) * v), angle)
        total, slope = total + factor * wave, slope + factor * wave_slope
        turned = 2 * (wave + cos * wave_slope) - slope_before
        wave, before = 2 * cos * wave - before, wave
        wave_slope, slope_before = turned, wave_slope
    return torch.log(total), -sinc(angle) * slope / total

r"""The heat kernel on the unit sphere, without tables, and the turn hidden behind a point.

Brownian motion on SO(3), applied to a unit vector, is Brownian motion on the sphere. A rotation of
angle ω that takes x to a point at distance β is fixed up to a turn ψ about x, with

.. math:: \cos\tfrac\omega2 = \cos\tfrac\beta2 \cos\tfrac\psi2, \qquad
    \sin^2\tfrac\omega2 = \sin^2\tfrac\beta2 + \cos^2\tfrac\beta2 \sin^2\tfrac\psi2 ,

so the kernel is a mean of the kernel f on SO(3). With respect to the normalised area,

.. math:: p(\beta; v) = \frac1{2\pi} \int_{-\pi}^{\pi} f(\omega; v)\,d\psi
    = \sum_{l \ge 0} (2l+1)\, e^{-l(l+1)v/2}\, P_l(\cos\beta) .

Given the point, ψ has density ∝ f(ω; v). Here log f is concave in sin²(ω/2) at every v (seen
numerically), so its tangent at ψ = 0 bounds it: :math:`f(\omega) \le f(\beta)\, e^{\kappa (\cos
\psi - 1)}` with :math:`\kappa = -\tfrac12 \cos^2\tfrac\beta2\, \frac{d \log f}{d \sin^2(\omega/2)}
(\beta)`, a von Mises law. It is proposed from its wrapped Cauchy envelope, and tested against f at
once; f itself says how often to keep, so nothing is approximated.

All this is in float64: log f is about −ω²/2v, and its differences are needed.

References:
    Roberts & Ursell, Random walk on a sphere and on a Riemannian manifold, 1960; Best & Fisher,
    Efficient simulation of the von Mises distribution, 1979.
"""

import math
from typing import Final

import torch
from torch import Tensor

from bridges import _so3_draw
from bridges._device import widest
from bridges._draw import Draws, first_accepted
from bridges._shapes import cast, on_host
from bridges._so3 import sinc
from bridges._so3_kernel import log_heat_kernel

NODES: Final = 12
"""Nodes of the integral over half a turn; 12 leave a relative error of 2e-12 at every β and v."""

DECAY: Final = 40.0
"""The integral stops where its integrand is below e^−40 of its largest value."""

ACCEPTANCE: Final = 0.65
"""The least share of proposed turns that is kept: 0.658 as v → 0, 1 as v → ∞."""


def _angle(sin: Tensor, cos: Tensor, turn_sin: Tensor, turn_cos: Tensor) -> Tensor:
    """Return ω from the sines and cosines of β/2 and ψ/2; nothing cancels at 0 or π."""
    return 2 * torch.atan2(torch.hypot(sin, cos * turn_sin), cos * turn_cos)


def log_sphere_kernel(sin: Tensor, cos: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p(β; v) and its slope over a sine, (d/dβ log p)/sin(β/2), which is smooth at 0.

    The integral is taken by midpoints over the turns that matter, where they converge as fast as
    on a whole period.

    Args:
        sin: sin(β/2) ≥ 0 in float64, over the batch.
        cos: cos(β/2) ≥ 0, likewise.
        v: the variance in float64, broadcasting over the batch, above 0.
    """
    half_turn = _widest(sin.detach(), cos.detach(), v.detach())
    node = (torch.arange(NODES, dtype=sin.dtype, device=sin.device) + 0.5) / NODES
    half = half_turn.unsqueeze(-1) * node
    turn_sin, turn_cos = half.sin(), half.cos()
    angle = _angle(sin.unsqueeze(-1), cos.unsqueeze(-1), turn_sin, turn_cos)
    log_f, by_angle = log_heat_kernel(angle, cast(v, sin, 1))
    log_mean = torch.logsumexp(log_f, -1) - math.log(NODES)
    # dω/dβ = sin(β/2) cos(ψ/2) / sin(ω/2)
    slope = torch.softmax(log_f, -1) * by_angle * 2 * turn_cos / sinc(0.5 * angle)
    return log_mean + torch.log(2 / math.pi * half_turn), slope.sum(-1)


def _widest(sin: Tensor, cos: Tensor, v: Tensor) -> Tensor:
    """Return ψ/2 where ω² = β² + 80v, beyond which f is negligible; π/2 where that exceeds π²."""
    beta = 2 * torch.atan2(sin, cos)
    square = 2 * DECAY * cast(v, sin)
    omega = (beta**2 + square).sqrt()
    whole = omega >= math.pi
    rest = square / (beta + omega)
    # sin²(ω/2) − sin²(β/2) = sin((ω − β)/2) sin((ω + β)/2)
    share = torch.sin(0.5 * rest) * torch.sin(beta + 0.5 * rest) / torch.where(whole, 1.0, cos**2)
    return torch.asin(torch.where(whole, 1.0, share).clamp(0, 1).sqrt())


def sample_turn(beta: Tensor, v: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    r"""Draw the turn ψ behind a point at distance β: density ∝ f(ω; v). Exact.

    The envelope ∝ 1/(1 + k sin²(ψ/2)), with :math:`k = 2\kappa - 1 + \sqrt{4\kappa^2 + 1}`, fits
    e^{−2κ sin²(ψ/2)} best, and their ratio is largest at m e^{1/m − 1}, with m = k/2κ.

    Args:
        beta: β in [0, π], shape `(*B,)`.
        v: the variance in float64, broadcasting over the batch, above 0.
        draws: the source of randomness.

    Returns:
        cos(ψ/2) ≥ 0 and sin(ψ/2), shape `(*B,)`, in the dtype of β.
    """
    half = (0.5 * beta.to(widest(beta.device))).clamp(max=0.5 * math.pi).reshape(-1)
    own = () if on_host(v) else (v.expand(beta.shape).reshape(-1),)
    log_f, by_angle = log_heat_kernel(2 * half, own[0] if own else v)
    kappa = (-by_angle * half.cos() / sinc(half)).clamp(min=0)
    m = 1 + 2 * kappa / (1 + (1 + 4 * kappa**2).sqrt())
    top = log_f + torch.log(m) + 1 / m - 1

    def propose(
        draws: Draws, half: Tensor, k: Tensor, top: Tensor, *own: Tensor
    ) -> tuple[Tensor, Tensor]:
        phi = math.pi * (draws.uniform(half.shape, half.dtype, half.device) - 0.5)
        flat = (1 + k * phi.cos() ** 2).rsqrt()
        sin, cos = phi.sin() * flat, (1 + k).sqrt() * phi.cos() * flat
        omega = _angle(half.sin(), half.cos(), sin, cos)
        log_f = log_heat_kernel(omega, own[0] if own else v)[0]
        keep = torch.exp(log_f - top + torch.log1p(k * sin**2))
        return torch.stack((cos, sin), -1), _so3_draw._kept(keep, draws)

    rows, rounds = (half, 2 * kappa * m, top, *own), _so3_draw._rounds(ACCEPTANCE)
    turn = first_accepted(propose, rows, draws, rounds).to(beta.dtype)
    return turn[:, 0].reshape(beta.shape), turn[:, 1].reshape(beta.shape)

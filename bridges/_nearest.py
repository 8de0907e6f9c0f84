r"""The rotation nearest to a matrix, and its slope at every matrix.

With singular values :math:`\sigma_1 \ge \sigma_2 \ge |\sigma_3|` of M, of which the last has the
sign of det M, and :math:`\lambda = \sigma_1 + \sigma_2 + \sigma_3`, the nearest rotation in the
Frobenius norm is

.. math:: R = \frac{(\lambda^2 - e)\,M + \lambda \operatorname{cof} M - M M^T M}
    {\lambda e - \det M}, \qquad e = \tfrac12 (\lambda^2 - \|M\|^2),

the denominator being :math:`(\sigma_1 + \sigma_2)(\sigma_2 + \sigma_3)(\sigma_3 + \sigma_1)`.
Where that vanishes (reflections, matrices of rank one, 0) many rotations are as near, and one is
taken from the quaternions q that are best in :math:`\operatorname{tr}(R(q)^T M) = q^T K q`:
powers of K keep these alone.

One step of Newton's method at that rotation, which moves it by rounding only, carries the slope:
:math:`\delta = (\operatorname{tr}(S)\,I - S)^{-1} \operatorname{vex}(R^T M - M^T R)`, with S the
symmetric part of :math:`R^T M`. Its error is of third order, so second derivatives are right too.
Where many rotations are as near the inverse is damped: the slope stays finite.

References:
    Horn, Closed-form solution of absolute orientation using unit quaternions, 1987 (the form K).
    Hoger & Carlson, Determination of the stretch and rotation in the polar decomposition of the
    deformation gradient, 1984.
"""

import math
from typing import Final

import torch
from torch import Tensor

from bridges._device import may_look, widest
from bridges._so3 import compose, exp, quat_to_matrix

WEAK: Final = 1e-4
"""The denominator, as a share of ‖M‖³, below which a rotation counts as one of many."""

DAMPING: Final = 1e-3
"""What is added to the eigenvalues that are inverted there, as a share of M's largest entry."""

SQUARINGS: Final = 28
"""How often K is squared: quaternions that are worse by 1e-7 are gone."""

NEWTON_STEPS: Final = 3
"""Steps to λ, from singular values that are good to 1e-8."""

SMALLEST: Final = 1e-30
"""Matrices below this have a nearest rotation, but no slope that float32 could hold."""


def nearest(matrix: Tensor) -> Tensor:
    """Return the rotation matrices nearest to any matrices (…, 3, 3), in the Frobenius norm.

    Gradients are finite at every matrix; at 0, whose rotation is the identity, they are 0.
    """
    m = matrix.to(widest(matrix.device))
    size = m.detach().abs().amax((-2, -1), keepdim=True)
    # The size changes nothing, and so needs no gradient.
    m = torch.where(size < SMALLEST, m.detach(), m) / torch.where(size == 0, 1.0, size)
    rot, weak = _nearest(m.detach())
    return _newton(rot, m, torch.where(weak, DAMPING, 0.0)).to(matrix.dtype)


def _nearest(m: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest rotations, and which of them are one of many."""
    rot, weak = _closed_form(m)
    if not may_look(m):
        return torch.where(weak[..., None, None], _by_powers(m), rot), weak
    if bool(weak.any()):
        rot[weak] = _by_powers(m[weak])
    return rot, weak


def cofactors(m: Tensor) -> Tensor:
    """Return the matrices (…, 3, 3) of cofactors: det(M) times the inverse of Mᵀ."""
    a, b, c = m.unbind(-2)
    cross = torch.linalg.cross
    return torch.stack((cross(b, c), cross(c, a), cross(a, b)), -2)


def _closed_form(m: Tensor) -> tuple[Tensor, Tensor]:
    square, cof = m.mT @ m, cofactors(m)
    n, det = _trace(square), (m[..., 0, :] * cof[..., 0, :]).sum(-1)
    top = _sum_of_singular_values(n, cof.square().sum((-2, -1)), det)
    e = (top * top - n) / 2
    denominator = top * e - det
    rot = _over(top * top - e) * m + _over(top) * cof - m @ square
    return rot / _over(denominator), ~(denominator > WEAK * n**1.5)


def _sum_of_singular_values(n: Tensor, c: Tensor, det: Tensor) -> Tensor:
    """Return λ of matrices with ‖M‖² = n, ‖cof M‖² = c and a determinant.

    It is the largest root of λ⁴ − 2nλ² − 8 det M λ + n² − 4c. The eigenvalues of MᵀM, by the
    cosine of a third of an angle, are where Newton's method starts.
    """
    spread = (n * n - 3 * c).clamp(min=0).sqrt()
    cos = (n * (n * n - 4.5 * c) + 13.5 * det * det) / (spread**3).clamp(min=SMALLEST)
    third = torch.acos(cos.clamp(-1, 1)) / 3
    first, second, last = (
        ((n + 2 * spread * torch.cos(third - 2 * math.pi * k / 3)) / 3).clamp(min=0).sqrt()
        for k in range(3)
    )
    top = first + torch.maximum(second, last)
    top = top + torch.copysign(torch.minimum(second, last), det)
    for _ in range(NEWTON_STEPS):
        value = ((top * top - 2 * n) * top - 8 * det) * top + n * n - 4 * c
        slope = 4 * top * (top * top - n) - 8 * det
        steep = slope > 1e-6 * n**1.5
        top = top - torch.where(steep, value / torch.where(steep, slope, 1.0), 0.0)
    return top


def _by_powers(m: Tensor) -> Tensor:
    """Return a nearest rotation where there are many."""
    k = _quaternion_form(m)
    one = torch.eye(4, dtype=m.dtype, device=m.device)
    power = k + _over(k.abs().sum(-1).amax(-1)) * one
    for step in range(SQUARINGS):
        if step % 4 == 0:  # the largest eigenvalue is then at least a quarter of the trace
            power = power / _over(_trace(power).clamp(min=torch.finfo(m.dtype).tiny))
        power = power @ power
    longest = torch.diagonal(power, dim1=-2, dim2=-1).argmax(-1)
    index = _over(longest).expand(*longest.shape, 1, 4)
    q = power.gather(-2, index).squeeze(-2)
    size = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return quat_to_matrix(torch.where(size == 0, one[0], q / torch.where(size == 0, 1.0, size)))


def _newton(rot: Tensor, m: Tensor, damping: Tensor) -> Tensor:
    """Take a step of Newton's method on tr(RᵀM), which has the slope of the nearest rotation."""
    g = rot.mT @ m
    s = 0.5 * (g + g.mT)
    vex = torch.stack(
        (g[..., 2, 1] - g[..., 1, 2], g[..., 0, 2] - g[..., 2, 0], g[..., 1, 0] - g[..., 0, 1]), -1
    )
    one = torch.eye(3, dtype=m.dtype, device=m.device)
    a = _over(_trace(s) + damping) * one - s
    cof = cofactors(a)
    inverse = cof / _over((a[..., 0, :] * cof[..., 0, :]).sum(-1))
    return compose(rot, exp((inverse * vex.unsqueeze(-2)).sum(-1)))


def _quaternion_form(m: Tensor) -> Tensor:
    """Return the symmetric K (…, 4, 4) with qᵀKq = tr(R(q)ᵀM) for unit quaternions q."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in m.unbind(-2))
    rows = (
        (a + e + i, h - f, c - g, d - b),
        (h - f, a - e - i, b + d, c + g),
        (c - g, b + d, -a + e - i, f + h),
        (d - b, c + g, f + h, -a - e + i),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _trace(m: Tensor) -> Tensor:
    return torch.diagonal(m, dim1=-2, dim2=-1).sum(-1)


def _over(value: Tensor) -> Tensor:
    """Bring a number per matrix to the rank of the matrices."""
    return value[..., None, None]

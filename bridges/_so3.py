"""Rotation maps of the hot path: exponential, logarithm and products.

A rotation of angle ω about the unit axis n has the rotation vector ωn and the unit quaternion
(cos ω/2, n sin ω/2), scalar first. Gradients are finite at every angle, 0 and π included.
"""

import torch
from torch import Tensor


def sinc(x: Tensor) -> Tensor:
    """Return sin(x)/x of lengths x ≥ 0, with a slope that keeps its digits next to 0."""
    square, safe = x * x, x.clamp(min=0.01)
    series = 1 - square * (1 / 6 - square / 120)
    return torch.where(x < 0.01, series, safe.sin() / safe)


def safe_norm(x: Tensor) -> Tensor:
    """Return the norm over the last dimension, with gradient 0 at 0."""
    square = (x * x).sum(-1)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def unit(x: Tensor) -> Tensor:
    """Return vectors (…, n) that are not tiny at unit length."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True))


def quat_to_matrix(q: Tensor) -> Tensor:
    """Return the rotation matrices (…, 3, 3) of unit quaternions (…, 4), scalar first."""
    w, x, y, z = q.unbind(-1)
    x2, y2, z2 = x + x, y + y, z + z
    wx, wy, wz, xx, xy, xz = w * x2, w * y2, w * z2, x * x2, x * y2, x * z2
    yy, yz, zz = y * y2, y * z2, z * z2
    entries = (1 - yy - zz, xy - wz, xz + wy, xy + wz, 1 - xx - zz, yz - wx, xz - wy, yz + wx)
    return torch.stack((*entries, 1 - xx - yy), -1).reshape(*q.shape[:-1], 3, 3)


def exp(rotvec: Tensor) -> Tensor:
    """Return the rotation matrices (…, 3, 3) of rotation vectors (…, 3) of any length."""
    half = 0.5 * safe_norm(rotvec).unsqueeze(-1)
    return quat_to_matrix(torch.cat((half.cos(), 0.5 * sinc(half) * rotvec), -1))


def matrix_to_quat(rot: Tensor) -> Tensor:
    """Return unit quaternions (…, 4), scalar first and ≥ 0, of rotation matrices (…, 3, 3).

    Each of the four columns of 4qqᵀ gives q where its own component is not small; the one with
    the largest is taken, so nothing cancels at any angle.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rot.unbind(-2))
    ww, xx, yy, zz = 1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i
    wx, wy, wz, xy, xz, yz = h - f, c - g, d - b, b + d, c + g, f + h
    by_w = ww >= torch.maximum(xx, torch.maximum(yy, zz))
    by_x, by_y = xx >= torch.maximum(yy, zz), yy >= zz

    def column(from_w: Tensor, from_x: Tensor, from_y: Tensor, from_z: Tensor) -> Tensor:
        rest = torch.where(by_x, from_x, torch.where(by_y, from_y, from_z))
        return torch.where(by_w, from_w, rest)

    w = column(ww, wx, wy, wz)
    x, y, z = column(wx, xx, xy, xz), column(wy, xy, yy, yz), column(wz, xz, yz, zz)
    scale = torch.rsqrt(w * w + x * x + y * y + z * z)
    scale = torch.where(w < 0, -scale, scale)
    return torch.stack((w * scale, x * scale, y * scale, z * scale), -1)


def quat_to_rotvec(q: Tensor) -> Tensor:
    """Return the rotation vectors (…, 3) of unit quaternions (…, 4) with scalar part ≥ 0."""
    w, v = q[..., 0], q[..., 1:]
    length = safe_norm(v)
    small = length < 1e-6
    ratio = torch.atan2(length, w) / torch.where(small, 1.0, length)
    return v * torch.where(small, 1 / w.clamp(min=0.5), ratio).mul(2).unsqueeze(-1)


def log(rot: Tensor) -> Tensor:
    """Return the rotation vectors (…, 3) of rotation matrices (…, 3, 3), with angle in [0, π]."""
    return quat_to_rotvec(matrix_to_quat(rot))


def between(rot_a: Tensor, rot_b: Tensor) -> Tensor:
    """Return the matrices rot_aᵀ rot_b, from a to b in the frame of a."""
    return torch.einsum("...ki,...kj->...ij", rot_a, rot_b)


def compose(rot_a: Tensor, rot_b: Tensor) -> Tensor:
    """Return the matrices rot_a rot_b."""
    return torch.einsum("...ik,...kj->...ij", rot_a, rot_b)


def det(m: Tensor) -> Tensor:
    """Return the determinants of matrices (…, 3, 3), without a factorisation."""
    across: Tensor = torch.linalg.cross(m[..., 1, :], m[..., 2, :])
    return (m[..., 0, :] * across).sum(-1)

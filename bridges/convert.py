r"""Rotations in other coordinates: unit quaternions, and the (b, c, d) that a network says.

A rotation of angle ω about the unit axis n has the unit quaternion, scalar FIRST,

.. math:: q = (w, x, y, z) = (\cos\tfrac\omega2,\; n \sin\tfrac\omega2),

and turns the column vector p into the vector part of :math:`q\,(0, p)\,\bar q` (Hamilton's
product, as in SciPy). q and −q are one rotation. RoMa, which does the work, and SciPy by default
put the scalar last: reorder with `roma.quat_wxyz_to_xyzw`.

Matrices (…, 3, 3) are the states of `RotationDiffusion`; networks rather read and say the others.
All maps take any batch, keep dtype and device, and have finite gradients, at the angles 0 and π as
elsewhere. They are for use within a model: shapes are checked, values are not.
"""

import torch
from torch import Tensor

from bridges._precision import exact
from bridges._shapes import describe


@exact
def rotmat_to_quat(rot: Tensor) -> Tensor:
    """Return the unit quaternions of rotation matrices, scalar first and w ≥ 0. Exact.

    At the angle π, where w = 0, rounding decides which of q and −q comes out.

    References:
        Markley, Unit quaternion from rotation matrix, 2008.

    Args:
        rot: rotation matrices, shape (…, 3, 3). Others are not refused: the result is a unit
            quaternion, of no particular rotation (`RotationDiffusion.endpoint` takes the nearest).

    Returns:
        Unit quaternions (w, x, y, z), shape (…, 4).

    Raises:
        TypeError, ValueError: if it is not a floating tensor of that shape.

    >>> rotmat_to_quat(torch.diag(torch.tensor([-1.0, 1.0, -1.0])))
    tensor([0., 0., 1., 0.])
    """
    import roma

    _check(rot, "rot", (3, 3))
    q = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(rot))
    return torch.where(q[..., :1] < 0, -q, q)


@exact
def quat_to_rotmat(quat: Tensor) -> Tensor:
    r"""Return the rotation matrices of quaternions of any length. Exact.

    With :math:`q = \mathrm{quat}/\|\mathrm{quat}\|`,

    .. math::
        R = \begin{pmatrix}
            1 - 2(y^2 + z^2) & 2(xy - wz) & 2(xz + wy) \\
            2(xy + wz) & 1 - 2(x^2 + z^2) & 2(yz - wx) \\
            2(xz - wy) & 2(yz + wx) & 1 - 2(x^2 + y^2)
        \end{pmatrix} .

    Args:
        quat: quaternions (w, x, y, z), shape (…, 4). Length and sign do not matter; 0, which has
            no direction, becomes the identity, with gradient 0.

    Returns:
        Rotation matrices, shape (…, 3, 3).

    Raises:
        TypeError, ValueError: if it is not a floating tensor of that shape.

    >>> quat_to_rotmat(torch.tensor([0.0, 0.0, -3.0, 0.0])).diagonal()
    tensor([-1.,  1., -1.])
    """
    import roma

    _check(quat, "quat", (4,))
    rot: Tensor = roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(_unit(quat)))
    return rot


@exact
def bcd_to_quat(bcd: Tensor) -> Tensor:
    r"""Return the unit quaternions of a network's (b, c, d). Exact.

    .. math:: q = \frac{(1, b, c, d)}{\sqrt{1 + b^2 + c^2 + d^2}}

    Any three numbers are a rotation, and 0 is the identity: the axis is that of (b, c, d), and its
    length the tangent of half the angle. So w > 0, and an angle of π is only come near to.

    References:
        Jumper et al., Highly accurate protein structure prediction with AlphaFold, 2021
        (supplement, algorithm 23).

    Args:
        bcd: any numbers, shape (…, 3).

    Returns:
        Unit quaternions (w, x, y, z), shape (…, 4).

    Raises:
        TypeError, ValueError: if it is not a floating tensor of that shape.

    >>> bcd_to_quat(torch.tensor([0.0, 0.0, 1.0]))
    tensor([0.7071, 0.0000, 0.0000, 0.7071])
    """
    _check(bcd, "bcd", (3,))
    return _unit(torch.cat((torch.ones_like(bcd[..., :1]), bcd), -1))


@exact
def bcd_to_rotmat(bcd: Tensor) -> Tensor:
    """Return the rotation matrices of a network's (b, c, d); see `bcd_to_quat`. Exact.

    Args:
        bcd: any numbers, shape (…, 3).

    Returns:
        Rotation matrices, shape (…, 3, 3): a prediction for `RotationDiffusion`.

    Raises:
        TypeError, ValueError: if it is not a floating tensor of that shape.

    >>> bcd_to_rotmat(torch.zeros(2, 3)).shape
    torch.Size([2, 3, 3])
    """
    return quat_to_rotmat(bcd_to_quat(bcd))


def _unit(quat: Tensor) -> Tensor:
    """Return quat/|quat|, or (1, 0, 0, 0) where quat is 0.

    The largest component is divided out first, so that no square overflows or vanishes. That
    factor changes nothing, and so needs no gradient.
    """
    import roma

    largest = quat.detach().abs().amax(-1, keepdim=True)
    zero = largest == 0
    identity = torch.eye(4, dtype=quat.dtype, device=quat.device)[0]
    quat = torch.where(zero, identity, quat / torch.where(zero, 1.0, largest))
    q: Tensor = roma.quat_normalize(quat)
    return q


def _check(x: object, name: str, point: tuple[int, ...]) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"Expected {name} to be a floating tensor; got {describe(x)}.")
    if x.shape[-len(point) :] != point:
        expected = ", ".join(map(str, ("…", *point)))
        raise ValueError(f"Expected {name} to have shape ({expected}); got {tuple(x.shape)}.")

r"""Frames and torsions of a protein backbone.

A residue's N, CA and C span a rigid frame: CA is its origin, x points from CA to C, and N lies in
the xy-plane at positive y. With :math:`v_C = C - CA` and :math:`v_N = N - CA`,

.. math::
    x = \frac{v_C}{\|v_C\|}, \qquad
    y = \frac{v_N - (v_N \cdot x)\, x}{\|v_N - (v_N \cdot x)\, x\|}, \qquad
    z = x \times y,

and the rotation :math:`R = (x\ y\ z)` takes local coordinates to those of the molecule,
:math:`p = CA + R\, p_\mathrm{local}`. A torsion (a, b, c, d) is the angle by which d is turned
from a, clockwise when one looks from b to c: 0 is cis, ±π trans (IUPAC-IUB 1970).

References:
    IUPAC-IUB Commission on Biochemical Nomenclature, Abbreviations and symbols for the
    description of the conformation of polypeptide chains, 1970.
    R. A. Engh and R. Huber, Accurate bond and angle parameters for X-ray protein structure
    refinement, Acta Crystallographica A47, 1991.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from bridges._precision import exact
from bridges._residues import PEPTIDE_BOND_MAX

# Engh and Huber 1991; Å, and degrees turned into radians.
_N_CA, _CA_C, _C_O = 1.458, 1.525, 1.231
_N_CA_C, _CA_C_O = math.radians(111.2), math.radians(120.8)
# Å; shorter than this, a vector has no direction to speak of.
_SHORT = 1e-4
# Å^4; its square is still far above the smallest float32, by which atan2's gradient divides.
_NO_TORSION = 1e-15


@exact
def backbone_frames(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the frame of every residue, by Gram-Schmidt on CA→C, then CA→N. Exact.

    Rotations and translations of the molecule carry over to the frames. Gradients flow to N, CA
    and C. Where atoms coincide or lie on a line, a direction is made up: the result is still a
    rotation, and its gradient finite. NaN in, NaN out.

    Args:
        coords: N, CA, C first along the atom axis, (..., A, 3) with A ≥ 3, Å.

    Returns:
        Positions of CA (..., 3) and rotations (..., 3, 3) whose columns are the local axes.

    Raises:
        ValueError: if the shape is not (..., ≥3, 3).
        TypeError: if the coordinates are not floating-point.

    Examples:
        >>> pos, rot = backbone_frames(torch.eye(3))
        >>> pos
        tensor([0., 1., 0.])
        >>> bool(torch.allclose(rot.mT @ rot, torch.eye(3), atol=1e-6))
        True
    """
    if coords.ndim < 2 or coords.shape[-2] < 3 or coords.shape[-1] != 3:
        raise ValueError(
            "Expected coords to have shape (..., A, 3) with N, CA and C first; "
            f"got {tuple(coords.shape)}."
        )
    _check_floating("coords", coords)
    n, ca, c = coords[..., :3, :].unbind(-2)
    x = _unit(c - ca, torch.eye(3).to(coords)[0])
    # Any fixed axis that is not along x stands in for N on the line of CA and C.
    spare = torch.eye(3).to(coords)[x.abs().argmin(-1)]
    y = _unit(_reject(n - ca, x), _unit(_reject(spare, x), spare))
    return ca, torch.stack((x, y, torch.linalg.cross(x, y)), -1)


@exact
def backbone_atoms(pos: Tensor, rot: Tensor, psi: Tensor) -> Tensor:
    r"""Places N, CA, C and O with ideal bonds and angles; the inverse of `backbone_frames`.

    .. math::
        N &= 1.458\,(\cos 111.2°,\ \sin 111.2°,\ 0), \quad CA = 0, \quad C = (1.525, 0, 0), \\
        O &= C + 1.231\,(-\cos 120.8°,\ \sin 120.8° \cos\chi,\ \sin 120.8° \sin\chi), \quad
        \chi = \psi + \pi,

    in the local frame: N-CA 1.458 Å, CA-C 1.525 Å, C=O 1.231 Å, N-CA-C 111.2°, CA-C-O 120.8°
    (Engh and Huber 1991; glycine and proline differ by up to 0.01 Å and 2°). O lies opposite to
    the N of the next residue, so the peptide group is taken as planar.

    Args:
        pos: positions of CA, (..., 3), Å.
        rot: rotations whose columns are the local axes, (..., 3, 3).
        psi: the torsion N, CA, C, N of the next residue, (...), radians. NaN, as at the end of a
            chain, makes O NaN.

    Returns:
        N, CA, C and O, (..., 4, 3), Å, in the dtype of `pos`.

    Raises:
        ValueError: if the shapes do not go together.
        TypeError: if the positions are not floating-point.

    Examples:
        >>> atoms = backbone_atoms(torch.zeros(3), torch.eye(3), torch.tensor(torch.pi))
        >>> atoms[1:3]
        tensor([[0.0000, 0.0000, 0.0000],
                [1.5250, 0.0000, 0.0000]])
    """
    if pos.shape[-1:] != (3,) or rot.shape[-2:] != (3, 3):
        raise ValueError(
            "Expected pos and rot to have shapes (..., 3) and (..., 3, 3); "
            f"got {tuple(pos.shape)} and {tuple(rot.shape)}."
        )
    _check_floating("pos", pos)
    batch = _broadcast("pos, rot and psi", pos.shape[:-1], rot.shape[:-2], psi.shape)
    chi = (psi + math.pi).to(pos.dtype).expand(batch)
    n = pos.new_tensor((_N_CA * math.cos(_N_CA_C), _N_CA * math.sin(_N_CA_C), 0.0))
    ca, c = pos.new_zeros(3), pos.new_tensor((_CA_C, 0.0, 0.0))
    turned = torch.stack((torch.zeros_like(chi), chi.cos(), chi.sin()), -1)
    along = pos.new_tensor((-math.cos(_CA_C_O), 0.0, 0.0))
    o = c + _C_O * (along + math.sin(_CA_C_O) * turned)
    local = torch.stack((n.expand_as(o), ca.expand_as(o), c.expand_as(o), o), -2)
    return pos.unsqueeze(-2) + local @ rot.mT.to(pos.dtype)


@exact
def dihedral(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    r"""Returns the torsion of four points, with the IUPAC sign. Exact.

    .. math::
        \theta = \operatorname{atan2}\big(\|b_2\|\; b_1 \cdot (b_2 \times b_3),\;
        (b_1 \times b_2) \cdot (b_2 \times b_3)\big), \qquad
        b_1 = b - a,\ b_2 = c - b,\ b_3 = d - c.

    Three points on a line have no torsion: it is 0 there, with gradient 0.

    Args:
        a: first point, (..., 3), any unit of length; the others broadcast with it.
        b: second point.
        c: third point.
        d: fourth point.

    Returns:
        The torsion (...) in [-π, π], radians.

    Raises:
        ValueError: if the points do not broadcast to (..., 3).

    Examples:
        >>> a, b, c, d = torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 1]])
        >>> dihedral(a, b, c, d)
        tensor(1.5708)
    """
    shape = _broadcast("a, b, c and d", a.shape, b.shape, c.shape, d.shape)
    if shape[-1:] != (3,):
        raise ValueError(f"Expected a, b, c and d to have shape (..., 3); got {tuple(shape)}.")
    b1, b2, b3 = ((q - p).expand(shape) for p, q in pairwise((a, b, c, d)))
    normal = torch.linalg.cross(b2, b3)
    y = torch.linalg.vector_norm(b2, dim=-1) * (b1 * normal).sum(-1)
    x = (torch.linalg.cross(b1, b2) * normal).sum(-1)
    on_a_line = x.abs() + y.abs() < _NO_TORSION
    return torch.atan2(y, torch.where(on_a_line, torch.ones_like(x), x))


@exact
def linked_residues(coords: Tensor) -> Tensor:
    """Returns whether each residue is bonded to the one before it: C to N within 2.0 Å.

    Args:
        coords: N, CA, C first along the atom axis, (..., L, A, 3) with A ≥ 3, Å.

    Returns:
        (..., L), bool: false for the first residue, and where an atom of either is NaN.

    Raises:
        ValueError: if the shape is not (..., L, ≥3, 3).

    Examples:
        >>> linked_residues(torch.zeros(3, 4, 3))
        tensor([False,  True,  True])
    """
    _check_residues(coords)
    near = torch.linalg.vector_norm(coords[..., 1:, 0, :] - coords[..., :-1, 2, :], dim=-1)
    whole = coords[..., :3, :].isfinite().flatten(-2).all(-1)
    linked = (near <= PEPTIDE_BOND_MAX) & whole[..., 1:] & whole[..., :-1]
    return torch.nn.functional.pad(linked, (1, 0))


@exact
def backbone_torsions(
    coords: Tensor, *, linked: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns φ, ψ and ω of every residue i. Exact.

    .. math::
        \phi_i &= (C_{i-1}, N_i, CA_i, C_i), \\
        \psi_i &= (N_i, CA_i, C_i, N_{i+1}), \\
        \omega_i &= (CA_{i-1}, C_{i-1}, N_i, CA_i).

    ω belongs to the bond *before* the residue, the one that closes when the residue is added.

    Args:
        coords: N, CA, C first along the atom axis, (..., L, A, 3) with A ≥ 3, Å.
        linked: whether residue i is bonded to residue i - 1, (..., L) or broadcast to it, bool.
            None asks `linked_residues`. The first residue never is.

    Returns:
        Three tensors (..., L) in [-π, π], radians; NaN at the ends of a chain, where residues
        are not linked, and where an atom is NaN. Gradients at the other places are finite.

    Raises:
        ValueError: if the shapes do not go together.
        TypeError: if `linked` is not bool.

    Examples:
        >>> phi, psi, omega = backbone_torsions(torch.randn(5, 4, 3), linked=torch.ones(5) > 0)
        >>> torch.isnan(phi).tolist()
        [True, False, False, False, False]
    """
    _check_residues(coords)
    linked = linked_residues(coords) if linked is None else linked
    if linked.dtype != torch.bool:
        raise TypeError(f"Expected linked to be bool; got {linked.dtype}.")
    if _broadcast("linked and coords", linked.shape, coords.shape[:-2]) != coords.shape[:-2]:
        raise ValueError(
            f"Expected linked to broadcast to {tuple(coords.shape[:-2])}; "
            f"got {tuple(linked.shape)}."
        )
    here = linked.expand(coords.shape[:-2])[..., 1:]
    n, ca, c = coords[..., :3, :].unbind(-2)
    n_1, ca_1, c_1 = (atom[..., :-1, :] for atom in (n, ca, c))
    n, ca, c = (atom[..., 1:, :] for atom in (n, ca, c))
    phi = _torsion_where(here, c_1, n, ca, c)
    psi = _torsion_where(here, n_1, ca_1, c_1, n)
    omega = _torsion_where(here, ca_1, c_1, n, ca)
    return _pad_nan(phi, (1, 0)), _pad_nan(psi, (0, 1)), _pad_nan(omega, (1, 0))


def _torsion_where(here: Tensor, *points: Tensor) -> Tensor:
    """The torsion where `here` and finite, NaN elsewhere, without NaN in the gradient."""
    here = here & torch.stack(points, -2).isfinite().flatten(-2).all(-1)
    angle = dihedral(*(torch.where(here.unsqueeze(-1), p, torch.zeros_like(p)) for p in points))
    return torch.where(here, angle, angle.new_full((), math.nan))


def _pad_nan(angle: Tensor, width: tuple[int, int]) -> Tensor:
    return torch.nn.functional.pad(angle, width, value=math.nan)


def _unit(v: Tensor, fallback: Tensor) -> Tensor:
    """Returns v / |v|, or the fallback below 1e-4 Å; its gradient is finite either way."""
    squared = v.square().sum(-1, keepdim=True)
    short = squared < _SHORT**2
    return torch.where(short, fallback, v / torch.where(short, 1.0, squared).sqrt())


def _reject(v: Tensor, unit: Tensor) -> Tensor:
    return v - (v * unit).sum(-1, keepdim=True) * unit


def _broadcast(names: str, *shapes: torch.Size) -> torch.Size:
    try:
        return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(
            f"Expected {names} to have shapes that broadcast; got "
            f"{', '.join(str(tuple(shape)) for shape in shapes)}."
        ) from error


def _check_residues(coords: Tensor) -> None:
    if coords.ndim < 3 or coords.shape[-3] < 1 or coords.shape[-2] < 3 or coords.shape[-1] != 3:
        raise ValueError(
            "Expected coords to have shape (..., L, A, 3) with N, CA and C first; "
            f"got {tuple(coords.shape)}."
        )
    _check_floating("coords", coords)


def _check_floating(name: str, value: Tensor) -> None:
    if not value.is_floating_point():
        raise TypeError(f"Expected {name} to be floating-point; got {value.dtype}.")

"""Geometry of backbone fragments: distances, clashes, secondary structure, superposition.

Coordinates are (..., L, atoms, 3) in angstrom with N, CA, C first among the atoms; torsions are in
radians.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bridges.protein import backbone_torsions

HELIX_RUN = 4
CLASH, CA_CLASH = 2.5, 3.0  # angstrom
NEWTON_STEPS = 40
BLOCK = 1024  # fragments superposed at once: the work then stays in the cache


def torsions(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """φ, ψ and ω, each (..., L), NaN at the ends of the fragment.

    All neighbours count as bonded, however long the bond: a broken backbone must not escape
    its torsions being judged.
    """
    linked = torch.ones(coords.shape[-3], dtype=torch.bool, device=coords.device)
    return backbone_torsions(coords, linked=linked)


def bonds(coords: Tensor) -> tuple[Tensor, Tensor]:
    """Distances CA-CA and C-N of neighbouring residues in angstrom, each (..., L - 1)."""
    n, ca, c = coords[..., :3, :].unbind(-2)
    ca_ca = (ca[..., 1:, :] - ca[..., :-1, :]).norm(dim=-1)
    c_n = (n[..., 1:, :] - c[..., :-1, :]).norm(dim=-1)
    return ca_ca, c_n


def clashes(coords: Tensor) -> Tensor:
    """Number of clashes in each fragment, shape (...), int64.

    A clash is a pair of atoms among N, CA and C of residues at least two apart in the sequence
    that is nearer than 2.5 Å, or 3.0 Å if both are CA. Experimental structures have next to
    none. O, CB and the side chains are not looked at.
    """
    atoms = coords[..., :3, :].flatten(-3, -2)
    residue = torch.arange(atoms.shape[-2]) // 3
    apart = residue[None] - residue[:, None] >= 2
    alpha = torch.arange(atoms.shape[-2]) % 3 == 1
    limit = torch.where(alpha[None] & alpha[:, None], CA_CLASH, CLASH)
    return ((torch.cdist(atoms, atoms) < limit) & apart).sum((-2, -1))


def radius_of_gyration(pos: Tensor) -> Tensor:
    """Root mean square distance of the points `pos` (..., L, 3) from their mean, shape (...)."""
    centred = pos - pos.mean(-2, keepdim=True)
    return centred.square().sum(-1).mean(-1).sqrt()


def helix(phi: Tensor, psi: Tensor) -> Tensor:
    """Whether a residue is in a helix, by torsions alone: a definition of this example.

    Runs of at least four residues with -100° < φ < -30° and -80° < ψ < 5°. NaN is outside.
    """
    inside = (phi > _rad(-100)) & (phi < _rad(-30)) & (psi > _rad(-80)) & (psi < _rad(5))
    return runs(inside, HELIX_RUN)


def strand(phi: Tensor, psi: Tensor) -> Tensor:
    """Whether a residue is extended: φ < -40° and (ψ > 90° or ψ < -150°). NaN is outside.

    The region holds β strands and polyproline II, so that the share exceeds that of sheets which
    hydrogen bonds define.
    """
    return (phi < _rad(-40)) & ((psi > _rad(90)) | (psi < _rad(-150)))


def histogram(phi: Tensor, psi: Tensor, degrees: int = 10) -> Tensor:
    """Share of the residues in each φ, ψ bin, shape (360 / degrees,) * 2; NaN is left out."""
    bins = 360 // degrees
    defined = ~(phi + psi).isnan()
    i, j = (((x[defined] / (2 * math.pi) + 0.5) * bins).floor().long() % bins for x in (phi, psi))
    counts = torch.bincount(i * bins + j, minlength=bins * bins).double()
    return (counts / counts.sum()).view(bins, bins)


def rmsd(a: Tensor, b: Tensor) -> Tensor:
    r"""Root mean square distance of every a to every b after the best superposition.

    With both centred, :math:`M = a^T b` and :math:`\lambda` the largest root of the characteristic
    polynomial of the 4 x 4 quaternion matrix,

    .. math:: L\,\mathrm{rmsd}^2 = |a|^2 + |b|^2 - 2\lambda, \qquad
              \lambda^4 + c_2\lambda^2 + c_1\lambda + c_0 = 0,

    :math:`c_2 = -2\,\mathrm{tr}\,M^TM`, :math:`c_1 = -8\det M` and
    :math:`c_0 = (\mathrm{tr}\,M^TM)^2 - 4 e_2`, where :math:`e_2` is the sum of the squares of the
    2 x 2 minors of :math:`M`. Newton's method from the upper bound :math:`(|a|^2 + |b|^2)/2` falls
    to :math:`\lambda`. Reflections are not allowed.

    References:
        Theobald, Rapid calculation of RMSDs using a quaternion-based characteristic polynomial,
        2005.

    Args:
        a: points in angstrom, shape (A, L, 3).
        b: points in angstrom, shape (B, L, 3).

    Returns:
        Shape (A, B), float64, exact to about 0.001 Å at worst.
    """
    a, b = _centred(a), _centred(b)
    return torch.cat([_rmsd(a, some) for some in b.split(BLOCK)], 1)


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """Smallest :func:`rmsd` of each a (A, L, 3) to the points b (B, L, 3), shape (A,)."""
    a, blocks = _centred(a), _centred(b).split(BLOCK)
    return torch.cat([_nearest(some, blocks) for some in a.split(32)])


def _nearest(a: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    return torch.stack([_rmsd(a, b).amin(1) for b in blocks]).amin(0)


def _centred(x: Tensor) -> Tensor:
    return x.double() - x.double().mean(-2, keepdim=True)


def _rmsd(a: Tensor, b: Tensor) -> Tensor:
    m = torch.einsum("ali,blj->ijab", a, b)
    bound = (_squares(a)[:, None] + _squares(b)) / 2
    m = m / bound.clamp(min=1e-12)
    minors = torch.stack([m[1].cross(m[2], 0), m[2].cross(m[0], 0), m[0].cross(m[1], 0)])
    square = m.square().sum((0, 1))
    c2, c1 = -2 * square, -8 * (m[0] * minors[0]).sum(0)
    c0 = square.square() - 4 * minors.square().sum((0, 1))
    root = _largest_root(c2, c1, c0)
    return (2 * bound * (1 - root)).clamp(min=0).div(a.shape[-2]).sqrt()


def _largest_root(c2: Tensor, c1: Tensor, c0: Tensor) -> Tensor:
    """Newton's method from 1, an upper bound of all roots of x⁴ + c₂x² + c₁x + c₀."""
    x = torch.ones_like(c2)
    for _ in range(NEWTON_STEPS):
        shared = x * x + c2
        value, slope = (shared * x + c1) * x + c0, (2 * (x * x + shared)) * x + c1
        step = torch.where(slope > 0, value / slope, 0.0)
        x = x - step
        if step.abs().amax() < 1e-10:
            break
    return x


def _squares(x: Tensor) -> Tensor:
    return x.square().sum((-2, -1))


def runs(inside: Tensor, length: int) -> Tensor:
    """Keep the true elements of `inside` (..., L) that lie in runs of at least `length`."""
    kept = torch.zeros_like(inside)
    for start in range(inside.shape[-1] - length + 1):
        window = slice(start, start + length)
        kept[..., window] |= inside[..., window].all(-1, keepdim=True)
    return kept


def _rad(degrees: float) -> float:
    return math.radians(degrees)

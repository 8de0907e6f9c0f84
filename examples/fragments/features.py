r"""What a network may know about a chain of frames without knowing how it is turned.

Everything is measured in the local frames of the residues, so it does not change when the
fragment is rotated. Lengths are in angstrom. `pos` is (B, L, 3), `rot` is (B, L, 3, 3).

The best linear guess of positions from noisy ones uses how the positions of a chain vary
together. With :math:`x_0 \sim N(0, \Sigma)` for each axis and :math:`x_t = A x_0 + S^{1/2} z`, A
and S diagonal,

.. math:: \hat x = K x_t, \qquad K = \Sigma A (A \Sigma A + S)^{-1}, \qquad
    \operatorname{var}(x_0 \mid x_t) = \Sigma - K A \Sigma .

It takes the place of the skip connection :math:`\alpha\sigma_d^2/(\alpha^2\sigma_d^2+\sigma^2)`
of one number. Since :math:`\Sigma 1 = 0`, the guess has zero mean.
"""

import torch
from torch import Tensor

from bridges.protein import backbone_atoms

REACH = 3  # neighbours either way whose atoms a residue sees
RADII = 16  # radial basis functions of a CA-CA distance
N_LOCAL, _, C_LOCAL = backbone_atoms(torch.zeros(3), torch.eye(3), torch.zeros(()))[:3]
BONDS = (1.329, 2.425, 2.43, 3.80)  # C-N, CA-N, C-CA and CA-CA of a trans peptide, angstrom

LOCAL_SIZE = 2 * REACH * 9 + 2 * len(BONDS)
PAIR_SIZE = 9 + RADII


def linear_guess(
    x_t: Tensor, alpha: Tensor, variance: Tensor, covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Best linear guess of positions and its standard deviation per residue.

    Args:
        x_t: noisy positions, shape (B, L, 3).
        alpha: factor of the mean per residue, shape (B, L).
        variance: variance of the noise per residue, shape (B, L).
        covariance: Σ of the clean positions along the chain, for one axis, shape (L, L).

    Returns:
        The guess (B, L, 3) and the standard deviation (B, L).
    """
    cross = covariance * alpha.unsqueeze(-2)
    total = alpha.unsqueeze(-1) * cross + torch.diag_embed(variance + 1e-7)
    gain = torch.linalg.solve(total, cross.mT).mT
    left = torch.diagonal(covariance - gain @ cross.mT, dim1=-2, dim2=-1).clamp(min=0)
    return gain @ x_t, torch.where(variance > 0, left, 0.0).sqrt()


def take_out_mean(x: Tensor, spread: Tensor) -> Tensor:
    """Bring positions to zero mean by moving those that are uncertain, as spread² says."""
    weight = spread.square().unsqueeze(-1)
    share = weight / (weight.sum(-2, keepdim=True) + 1e-9)
    return x - share * x.sum(-2, keepdim=True)


def neighbours(pos: Tensor, rot: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms N, CA, C of the residues around each one, in its frame; zeros beyond the ends.

    Returns:
        Atoms (B, L, 2 REACH, 3, 3), from REACH before to REACH after, and whether they are there
        (L, 2 REACH).
    """
    atoms = frame_atoms(pos, rot).flatten(-2)
    length = atoms.shape[1]
    offset = torch.tensor([k for k in range(-REACH, REACH + 1) if k])
    index = torch.arange(length).unsqueeze(-1) + offset
    there = (index >= 0) & (index < length)
    near = atoms[:, index.clamp(0, length - 1)].unflatten(-1, (3, 3))
    local = (near - pos[:, :, None, None]).flatten(2, 3) @ rot
    return local.unflatten(2, (-1, 3)) * there[..., None, None], there


def frame_atoms(pos: Tensor, rot: Tensor) -> Tensor:
    """N, CA, C of every residue, shape (B, L, 3, 3)."""
    ideal = torch.stack((N_LOCAL, torch.zeros(3), C_LOCAL)).to(pos)
    return pos.unsqueeze(-2) + ideal @ rot.mT


def bonds(near: Tensor, there: Tensor) -> Tensor:
    """Vectors from atoms of each residue to bonded ones, in its frame, (B, L, 8, 3).

    Four to the next residue, then four to the one before: C-N, CA-N, C-CA, CA-CA. Zero past the
    ends.
    """
    after, before = near[:, :, REACH], near[:, :, REACH - 1]
    others = torch.cat((after[:, :, [0, 0, 1, 1]], before[:, :, [2, 1, 2, 1]]), -2)
    exists = there[:, [REACH] * 4 + [REACH - 1] * 4].unsqueeze(-1)
    return (others - levers().to(near)) * exists


def strains(bond: Tensor) -> tuple[Tensor, Tensor]:
    """How much longer each of the :func:`bonds` is than ideal.

    Returns:
        The excess along the bond, (B, L, 8, 3), and as a length, (B, L, 8), negative if too short.
    """
    length = torch.linalg.vector_norm(bond, dim=-1)
    excess = torch.where(length > 0, length - bond.new_tensor(BONDS * 2), 0.0)
    return bond * (excess / length.clamp(min=1e-3)).unsqueeze(-1), excess


def levers() -> Tensor:
    """The atoms of a residue that the :func:`bonds` start from, in its frame, shape (8, 3)."""
    ca = torch.zeros(3)
    return torch.stack((C_LOCAL, ca, C_LOCAL, ca, N_LOCAL, N_LOCAL, ca, ca))


def local_features(near: Tensor, excess: Tensor) -> Tensor:
    """Numbers (B, L, LOCAL_SIZE) that describe the neighbourhood of each residue."""
    return torch.cat((near.flatten(-3) / 5, torch.asinh(10 * excess) / 2), -1)


def pair_features(pos: Tensor, rot: Tensor) -> Tensor:
    """Atoms of j in the frame of i, radial basis of the distance, (B, L, L, PAIR_SIZE)."""
    atoms = frame_atoms(pos, rot).flatten(1, 2)
    local = (atoms.unsqueeze(1) - pos.unsqueeze(2)) @ rot
    local = local.unflatten(2, (-1, 3))
    distance = torch.linalg.vector_norm(local[..., 1, :], dim=-1, keepdim=True)
    centre = torch.linspace(2.0, 26.0, RADII, dtype=pos.dtype, device=pos.device)
    basis = torch.exp(-(((distance - centre) / 2.0) ** 2))
    return torch.cat((local.flatten(-2) / 10, basis), -1)

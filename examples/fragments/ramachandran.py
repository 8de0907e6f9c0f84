"""Scores of backbone torsions against the Top8000 Ramachandran grids.

A grid holds, on bins of 2 degrees, the fraction of reference residues that lie at lower density
than the bin. A residue is favoured where this is at least 0.02, and an outlier where it is below
0.0005 in the general class, 0.002 for cis-proline and 0.001 in the others.

References:
    Williams et al., MolProbity: more and better reference data for improved all-atom structure
    validation, 2018.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridges.protein import RESIDUES

DATA = Path(__file__).resolve().parents[1] / "data"
CLASSES = ("gly", "cis_pro", "trans_pro", "pre_pro", "ile_val", "general")
GENERAL = CLASSES.index("general")
FAVOURED = 0.02
OUTLIER = (0.001, 0.002, 0.001, 0.001, 0.001, 0.0005)  # in the order of CLASSES
BINS = 180


@cache
def grids() -> Tensor:
    """The grids in the order of :data:`CLASSES`, shape (6, 180, 180): φ, then ψ, from -180°."""
    with np.load(DATA / "ramachandran.npz", allow_pickle=False) as archive:
        return torch.from_numpy(np.stack([archive[name] for name in CLASSES]))


def classify(omega: Tensor, sequence: Tensor) -> Tensor:
    """Class of each residue: glycine, cis- or trans-proline, before proline, Ile or Val, general.

    The first of these that applies counts. A proline is cis where ω is within 90° of 0; it is
    trans where ω is not known (NaN).

    Args:
        omega: torsion CA, C of the residue before, N, CA in radians, shape (..., L).
        sequence: residue types, shape (..., L), int64.

    Returns:
        Indices into :data:`CLASSES`, shape (..., L), int64.
    """
    gly, pro, ile, val = (sequence == RESIDUES.index(letter) for letter in "GPIV")
    before = torch.zeros_like(pro)
    before[..., :-1] = pro[..., 1:]
    kind = torch.full_like(sequence, GENERAL)
    kind[ile | val] = CLASSES.index("ile_val")
    kind[before] = CLASSES.index("pre_pro")
    kind[pro] = CLASSES.index("trans_pro")
    kind[pro & (omega.abs() < math.pi / 2)] = CLASSES.index("cis_pro")
    kind[gly] = CLASSES.index("gly")
    return kind


def score(phi: Tensor, psi: Tensor, omega: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Value of the grid and class of each residue.

    Args:
        phi: φ in radians in [-π, π], shape (..., L); NaN where undefined.
        psi: ψ likewise.
        omega: ω likewise, of the bond to the residue before.
        sequence: residue types, shape (..., L), int64.

    Returns:
        The grid's value (..., L), float32, NaN where φ or ψ is; and the class (..., L), int64.
    """
    kind = classify(omega, sequence)
    value = grids()[kind, _bin(phi), _bin(psi)]
    return torch.where((phi + psi).isnan(), torch.nan, value), kind


def favoured(value: Tensor) -> Tensor:
    """Whether a residue of this grid value is favoured; false for NaN."""
    return value >= FAVOURED


def outlier(value: Tensor, kind: Tensor) -> Tensor:
    """Whether a residue of this grid value and class is an outlier; false for NaN."""
    return value < torch.tensor(OUTLIER, dtype=value.dtype)[kind]


def _bin(angle: Tensor) -> Tensor:
    """Index of the bin whose centre is nearest; 180° is -180°."""
    turns = torch.nan_to_num(angle) / (2 * math.pi) + 0.5
    return (turns * BINS).floor().long() % BINS

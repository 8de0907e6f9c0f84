"""Protein backbones: frames, torsions, and the files they come from.

A backbone is N, CA, C and O of every residue in Å. `backbone_frames` reads it as a position and a
rotation per residue, `backbone_torsions` as angles; `backbone_atoms` goes back. Structure files
(PDB, mmCIF, BinaryCIF) are read and written through biotite, which the extra `protein` installs;
the geometry does not need it.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import final

import torch
from torch import Tensor

from bridges._backbone import (
    backbone_atoms,
    backbone_frames,
    backbone_torsions,
    dihedral,
    linked_residues,
)
from bridges._residues import BACKBONE_ATOMS, RESIDUES, Residue
from bridges._structure_io import check_residues, read_residues, write_residues

__all__ = [
    "BACKBONE_ATOMS",
    "RESIDUES",
    "Backbone",
    "backbone_atoms",
    "backbone_frames",
    "backbone_torsions",
    "dihedral",
    "linked_residues",
    "read_backbone",
    "read_backbone_masked",
    "write_backbone",
]


@final
@dataclass(frozen=True, eq=False)
class Backbone:
    """The backbone of a structure, one row per residue.

    `chain_id`, `res_id` and `ins_code` together tell the residues of a file apart.

    Args:
        coords: N, CA, C and O, `(*B, L, 4, 3)`, float32, Å; NaN where an atom is missing. A file
            of M > 1 models gives (M, L, 4, 3).
        sequence: residue tokens in the order of `RESIDUES`, (L,) or `(*B, L)`, int64.
        mask: whether the residue type is known and N, CA and C are there (in every model),
            (L,), bool. A missing O does not clear it.
        chain_id: the chain of each row, L strings.
        res_id: residue numbers as the author of the file gave them, (L,), int64.
        ins_code: insertion codes, L strings, mostly empty.

    Raises:
        ValueError: if the shapes do not go together.

    Examples:
        >>> row = torch.arange(2)
        >>> Backbone(torch.zeros(2, 4, 3), row, row > 0, ("A", "A"), row, ("", "")).mask
        tensor([False,  True])
    """

    coords: Tensor
    sequence: Tensor
    mask: Tensor
    chain_id: tuple[str, ...]
    res_id: Tensor
    ins_code: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.coords.shape)
        if len(shape) < 3 or shape[-2:] != (4, 3):
            raise ValueError(f"Expected coords to have shape (*B, L, 4, 3); got {shape}.")
        if tuple(self.sequence.shape) not in {shape[:-2], shape[-3:-2]}:
            raise ValueError(
                f"Expected sequence to have shape {shape[-3:-2]} or {shape[:-2]}; "
                f"got {tuple(self.sequence.shape)}."
            )
        for name in ("mask", "chain_id", "res_id", "ins_code"):
            if len(getattr(self, name)) != shape[-3]:
                raise ValueError(
                    f"Expected {name} to have {shape[-3]} rows like coords; "
                    f"got {len(getattr(self, name))}."
                )


def read_backbone(
    path: str | os.PathLike[str], *, chains: Iterable[str] | None = None, model: int | None = None
) -> Backbone:
    """Reads the backbone of a structure file in which every residue is complete.

    Waters, ligands and nucleic acids are left out. A modified residue counts as its parent
    (selenomethionine as M); another amino acid in HETATM records is kept where a peptide bond,
    C to N within 2 Å, holds it in the chain. Of alternative locations, a residue takes the one
    of the highest mean occupancy, the first of equals. Rows keep the order in which the file
    begins its residues, and the author's numbers, in mmCIF too (the dictionary's where there are
    none); residues that were never resolved have no row.

    A residue is what has one chain, number and insertion code, wherever its atoms stand; models
    are matched by these labels too. What a format leaves optional may be missing: an occupancy
    is then 1. An atom without coordinates is not there; a missing O is NaN.

    Args:
        path: a .pdb, .ent, .cif, .mmcif or .bcif file, or one of these with .gz behind it.
        chains: the chains to keep, by the author's names; all where None. A string is one chain.
        model: the model to read, counted from 1; where None, all of them.

    Returns:
        A `Backbone` on the CPU: `coords` (L, 4, 3), or (M, L, 4, 3) for M > 1 models.

    Raises:
        ImportError: without biotite.
        OSError: if the file cannot be opened.
        ValueError: if the file cannot be parsed or has no amino acids, if its models differ in
            their residues or backbone atoms (name one then), if `model` or a chain is not in it,
            if its labels do not tell two residues or atoms apart, or if a residue is of unknown
            type or lacks N, CA or C.

    Examples:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/two.pdb"
        >>> write_backbone(path, torch.arange(24.0).reshape(2, 4, 3), torch.tensor([0, 5]))
        >>> read_backbone(path).sequence
        tensor([0, 5])
    """
    backbone, residues = _load(path, chains, model)
    for i, residue in enumerate(residues):
        if residue.token is None:
            raise ValueError(
                f"Expected {path} to hold the 20 amino acids and their known variants; "
                f"got {residue.name} in {residue}."
            )
        if not backbone.mask[i]:
            there = backbone.coords[..., i, :3, :].isfinite().all(-1).reshape(-1, 3).all(0)
            lost = [BACKBONE_ATOMS[k] for k in range(3) if not there[k]]
            raise ValueError(
                f"Expected {path} to give N, CA and C of every residue; "
                f"got no {' and no '.join(lost)} in {residue} ({residue.name})."
            )
    return backbone


def read_backbone_masked(
    path: str | os.PathLike[str], *, chains: Iterable[str] | None = None, model: int | None = None
) -> Backbone:
    """Reads the backbone of a structure file, and masks the residues that are not complete.

    As `read_backbone`, but a residue that lacks N, CA or C stays, with NaN for what is missing
    and `mask` false. So does one of unknown type; its token is 0, which means nothing there.

    Args:
        path: as for `read_backbone`.
        chains: as for `read_backbone`.
        model: as for `read_backbone`.

    Returns:
        A `Backbone` on the CPU: `coords` (L, 4, 3), or (M, L, 4, 3) for M > 1 models.

    Raises:
        ImportError: without biotite.
        OSError: if the file cannot be opened.
        ValueError: as `read_backbone`, but not for incomplete or unknown residues.
    """
    return _load(path, chains, model)[0]


def _load(
    path: str | os.PathLike[str], chains: Iterable[str] | None, model: int | None
) -> tuple[Backbone, list[Residue]]:
    residues, atoms = read_residues(path, chains, model)
    coords = torch.from_numpy(atoms)
    known = torch.tensor([residue.token is not None for residue in residues], device="cpu")
    whole = coords[..., :3, :].isfinite().flatten(-2).all(-1).reshape(-1, len(residues)).all(0)
    backbone = Backbone(
        coords=coords,
        sequence=torch.tensor([residue.token or 0 for residue in residues], device="cpu"),
        mask=known & whole,
        chain_id=tuple(residue.chain for residue in residues),
        res_id=torch.tensor([residue.number for residue in residues], device="cpu"),
        ins_code=tuple(residue.ins_code for residue in residues),
    )
    return backbone, residues


def write_backbone(
    path: str | os.PathLike[str],
    coords: Tensor,
    sequence: Tensor,
    *,
    chain_id: str | Sequence[str] = "A",
    res_id: Tensor | Sequence[int] | None = None,
    ins_code: Sequence[str] | None = None,
    b_factor: Tensor | Sequence[float] | None = None,
) -> None:
    """Writes a backbone, or the models of a trajectory, in the format of the path's suffix.

    The file is written beside its place and then renamed into it: a failure leaves an older file
    as it was. PDB keeps three decimals, mmCIF and BinaryCIF keep float32.

    Every column of a `Backbone` from `read_backbone` may be written, and reading finds it again;
    PDB files hold less than the others, and what does not fit is refused. Residues are written
    as the standard ones, modified ones as their parents.

    Args:
        path: a .pdb, .cif or .bcif file; one that is there is replaced.
        coords: N, CA, C and O, (L, 4, 3) or (M, L, 4, 3) for M models, Å, finite; any device. An
            O that is NaN in all models is not written.
        sequence: residue tokens in the order of `RESIDUES`, (L,), int64.
        chain_id: one chain for all rows, or a sequence of L; empty for a chain without a name.
            PDB takes one character each.
        res_id: L residue numbers; where None, every chain counts from 1.
        ins_code: L insertion codes, mostly empty; all empty where None. PDB takes one character.
        b_factor: L numbers to store as B-factors, such as a confidence; 0 where None.

    Raises:
        ImportError: without biotite.
        OSError: if the file cannot be written.
        TypeError: if `sequence` or `res_id` are not integers.
        ValueError: for another suffix, shapes that do not go together, tokens out of range,
            values that are not finite, two residues with one number, names with spaces around
            or line breaks, or what a PDB or BinaryCIF file cannot hold (coordinates outside
            [-999.999, 9999.999] Å, for one).

    Examples:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/two.cif"
        >>> write_backbone(path, torch.zeros(7, 2, 4, 3), torch.tensor([0, 5]), chain_id="")
        >>> b = read_backbone(path, model=7)
        >>> labels = {"chain_id": b.chain_id, "res_id": b.res_id, "ins_code": b.ins_code}
        >>> write_backbone(path, b.coords, b.sequence, **labels)
    """
    xyz = coords.detach().to("cpu", torch.float64)
    if xyz.ndim not in {3, 4} or xyz.shape[-2:] != (4, 3) or not xyz.numel():
        raise ValueError(
            f"Expected coords to have shape (L, 4, 3) or (M, L, 4, 3); got {tuple(xyz.shape)}."
        )
    length = xyz.shape[-3]
    tokens = _integers("sequence", sequence, length)
    if bad := [token for token in tokens if token not in range(len(RESIDUES))]:
        raise ValueError(f"Expected sequence to hold integers from 0 to 19; got {bad[0]}.")
    b = _column("b_factor", [0.0] * length if b_factor is None else b_factor, length).double()
    if not b.isfinite().all():
        raise ValueError("Expected b_factor to be finite; got NaN or infinity.")
    models = xyz.reshape(-1, length, 4, 3).numpy()
    chains = [chain_id] * length if isinstance(chain_id, str) else list(chain_id)
    codes = [""] * length if ins_code is None else list(ins_code)
    numbers = _count(chains) if res_id is None else _integers("res_id", res_id, length)
    check_residues(models, chains, numbers, codes)
    write_residues(path, models, tokens, chains, numbers, codes, b.numpy())


def _column(name: str, values: Tensor | Sequence[float], length: int) -> Tensor:
    column = torch.as_tensor(values).detach().cpu()
    if column.shape != (length,):
        raise ValueError(f"Expected {name} to have shape ({length},); got {tuple(column.shape)}.")
    return column


def _integers(name: str, values: Tensor | Sequence[int], length: int) -> list[int]:
    column = _column(name, values, length)
    if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
        raise TypeError(f"Expected {name} to hold integers; got {column.dtype}.")
    return [int(value) for value in column]


def _count(chains: Sequence[str]) -> list[int]:
    """Numbers the rows of every chain from 1."""
    counters: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    return [next(counters[chain]) for chain in chains]

"""Backbones in structure files.

Reading finds the amino acids of a file and chooses one atom for each of N, CA, C and O. Chains
and residues keep the author's names, in mmCIF too, so that both formats of an entry give the same
rows. Residues that were never resolved have no row. What reading gives, writing takes.
"""

import io
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridges._residues import (
    BACKBONE_ATOMS,
    STANDARD,
    Residue,
    amino_acids,
    coordinates,
    first_doubt,
)
from bridges._structure_file import FORMATS, biotite, read_models


def read_residues(
    path: str | os.PathLike[str], chains: Iterable[str] | None, model: int | None
) -> tuple[list[Residue], NDArray[np.float32]]:
    """Returns the protein residues of a file and their atoms, (L, 4, 3) or (M, L, 4, 3) in Å."""
    models = read_models(path, model)
    found = list(amino_acids(models))
    if not found[0]:
        raise ValueError(f"Expected {path} to hold amino acids; got none.")
    if chains is not None:
        wanted = {chains} if isinstance(chains, str) else set(chains)
        _check_chains(found[0], wanted, path)
        found = [[residue for residue in kept if residue.chain in wanted] for kept in found]
    for kept in found:
        if doubt := first_doubt(kept):
            raise ValueError(
                f"Expected {path} to tell residues and atoms apart by their labels; got {doubt}."
            )
    coords = [_coordinates(found, k, models[k], path) for k in range(len(found))]
    return found[0], np.stack(coords) if len(coords) > 1 else coords[0]


def _coordinates(
    found: Sequence[Sequence[Residue]], k: int, atoms: Any, path: str | os.PathLike[str]
) -> NDArray[np.float32]:
    """The atoms of model k in the order of the residues of the first."""
    first = {residue.place: residue for residue in found[0]}
    here = {residue.place: residue for residue in found[k]}
    for place, residue in (here | first).items():
        if _kind(first.get(place)) != _kind(here.get(place)):
            raise ValueError(
                f"Expected {path} to hold the same residues and backbone atoms in every model, or "
                f"model to name one; got another {residue} ({residue.name}) in model {k + 1}."
            )
    rows = np.array([here[place].atoms for place in first])
    return coordinates(atoms).take(rows, axis=0)


def _kind(residue: Residue | None) -> tuple[str, list[bool]] | None:
    if residue is None:
        return None
    return residue.name, [position >= 0 for position in residue.atoms]


def _check_chains(
    residues: Sequence[Residue], wanted: set[str], path: str | os.PathLike[str]
) -> None:
    present = dict.fromkeys(residue.chain for residue in residues)
    if not wanted or not wanted <= present.keys():
        raise ValueError(
            f"Expected chains to name chains of amino acids in {path} ({_listed(present)}); "
            f"got {_listed(sorted(wanted - present.keys())) or 'none'}."
        )


def _listed(chains: Iterable[str]) -> str:
    return ", ".join(chain or "''" for chain in chains)


def check_residues(
    coords: NDArray[np.float64],
    chains: Sequence[str],
    numbers: Sequence[int],
    ins_codes: Sequence[str],
) -> None:
    """Raises for (M, L, 4, 3) coordinates and L labels that no format holds."""
    _check_atoms(coords)
    length = coords.shape[1]
    for name, column in (("chain_id", chains), ("ins_code", ins_codes)):
        if len(column) != length:
            raise ValueError(f"Expected {name} to have {length} entries; got {len(column)}.")
        if bad := [text for text in column if [text.strip()] != (text.splitlines() or [""])]:
            raise ValueError(
                f"Expected {name} to be on one line without spaces around; got {bad[0]!r}."
            )
    if null := [code for code in ins_codes if code in {".", "?"}]:
        raise ValueError(f"Expected ins_code to be '' where there is none; got {null[0]!r}.")
    places = Counter(zip(chains, numbers, ins_codes, strict=True))
    ((chain, number, code), times), *_ = places.most_common(1)
    if times > 1:
        raise ValueError(
            "Expected residues to differ in chain_id, res_id or ins_code; "
            f"got {chain} {number}{code} {times} times."
        )


def _check_atoms(coords: NDArray[np.float64]) -> None:
    """Every coordinate is finite, but for those of an O that no model has."""
    with np.errstate(over="ignore"):
        kept = coords.astype(np.float32)  # what files keep
    there = np.isfinite(kept)
    no_o = np.asarray(np.isnan(kept[..., 3, :]).all(axis=-1))
    if not (there[..., :3, :].all() and (there[..., 3, :].all(axis=-1) | no_o).all()):
        raise ValueError("Expected coords to be finite; got NaN or infinity.")
    if (some := no_o.any(0) & ~no_o.all(0)).any():
        raise ValueError(
            f"Expected O to be missing from all models or none; got some in row {some.argmax()}."
        )


def write_residues(
    path: str | os.PathLike[str],
    coords: NDArray[np.float64],
    tokens: Sequence[int],
    chains: Sequence[str],
    numbers: Sequence[int],
    ins_codes: Sequence[str],
    b_factor: NDArray[np.float64],
) -> None:
    """Writes (M, L, 4, 3) coordinates in Å and a column of L entries for each other argument.

    An atom whose coordinates are NaN in the first model is left out of all.
    """
    structure, pdb, pdbx = biotite()
    suffix = Path(path).suffix.lower()
    if suffix not in {".pdb", ".cif", ".bcif"}:
        raise ValueError(f"Expected path to end in .pdb, .cif or .bcif; got {path}.")
    there = ~np.isnan(coords[0]).any(axis=-1).ravel()
    _check_columns(suffix, coords, np.asarray(numbers), b_factor, there.sum())
    if suffix == ".pdb":
        _check_letters(chains, ins_codes)
        chains = [chain or " " for chain in chains]
    models, length = coords.shape[:2]
    atoms = structure.AtomArrayStack(models, 4 * length)
    atoms.coord = coords.reshape(models, -1, 3).astype(np.float32)
    atoms.res_name = np.repeat([STANDARD[token] for token in tokens], 4)
    atoms.chain_id = np.repeat(chains, 4)
    atoms.res_id = np.repeat(numbers, 4)
    atoms.ins_code = np.repeat(ins_codes, 4)
    atoms.atom_name = np.tile(BACKBONE_ATOMS, length)
    atoms.element = np.tile([atom[0] for atom in BACKBONE_ATOMS], length)
    atoms.set_annotation("occupancy", np.ones(4 * length))
    atoms.set_annotation("b_factor", np.repeat(b_factor, 4))
    atoms = atoms[:, there]
    if suffix == ".pdb":
        file = pdb.PDBFile()
        file.set_structure(atoms)
    else:
        file = pdbx.CIFFile() if suffix == ".cif" else pdbx.BinaryCIFFile()
        pdbx.set_structure(file, atoms)
    stream = io.BytesIO() if suffix == ".bcif" else io.StringIO()
    file.write(stream)
    content = stream.getvalue()
    _replace(Path(path), content.encode() if isinstance(content, str) else content)


def _check_columns(
    suffix: str,
    coords: NDArray[np.float64],
    numbers: NDArray[np.int64],
    b_factor: NDArray[np.float64],
    atoms: int,
) -> None:
    """PDB has columns of fixed width, where too long a value would shift the rest of the line."""
    int32 = np.iinfo(np.int32)
    limits = {
        ".pdb": (
            ("coords in Å", coords, -999.999, 9999.999),
            ("res_id", numbers, -999, 9999),
            ("b_factor", b_factor, -99.99, 999.99),
            ("the number of atoms", np.array(atoms), 1, 99999),
            ("the number of models", np.array(len(coords)), 1, 9999),
        ),
        ".bcif": (("res_id", numbers, int32.min, int32.max),),
    }
    for what, values, low, high in limits.get(suffix, ()):
        written = values.round(3)
        misfits = values[(written < low) | (written > high)]
        if misfits.size:
            raise ValueError(
                f"Expected {what} to lie in [{low}, {high}] for a {FORMATS[suffix]} file; "
                f"got {misfits.flat[0].item()}."
            )


def _check_letters(chains: Sequence[str], ins_codes: Sequence[str]) -> None:
    for what, column in (("chain_id", chains), ("ins_code", ins_codes)):
        if wide := next((name for name in column if len(name) > 1), None):
            raise ValueError(f"Expected {what} to be one character for a PDB file; got {wide}.")


def _replace(path: Path, content: bytes) -> None:
    """Writes beside the path and renames, so that readers see the old file or the new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)

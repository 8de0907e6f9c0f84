"""Backbones in structure files: PDB, mmCIF and BinaryCIF, parsed and formatted by biotite.

Reading finds the residues of a protein among the atoms of a file and chooses one atom for each of
N, CA, C and O. Chains and residues keep the author's names, in mmCIF too, so that both formats of
an entry give the same rows. Residues that were never resolved have no row.
"""

import gzip
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
BACKBONE_ATOMS = ("N", "CA", "C", "O")
PEPTIDE_BOND_MAX = 2.0  # Å; an ideal C-N bond is 1.329 Å, the next nearest contact about 2.4 Å

_STANDARD = (
    "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR".split()
)
# Modified residues under their parents, and the protonation states of simulation packages.
_VARIANTS = {
    "C": "SEC CSO CSD CSS CSX CME OCS CYX CYM", "D": "ASH", "E": "GLH",
    "H": "HID HIE HIP HSD HSE HSP", "K": "MLY M3L KCX LLP LYN", "M": "MSE",
    "P": "HYP", "Q": "PCA", "S": "SEP", "T": "TPO", "Y": "PTR",
}  # fmt: skip
_MODIFIED = {
    name: RESIDUES.index(parent) for parent, names in _VARIANTS.items() for name in names.split()
}
_TOKENS = {name: token for token, name in enumerate(_STANDARD)} | _MODIFIED
_FORMATS = {".pdb": "PDB", ".ent": "PDB", ".cif": "mmCIF", ".mmcif": "mmCIF", ".bcif": "BinaryCIF"}


@dataclass(frozen=True)
class Residue:
    """A residue as it stands in the file, with one atom chosen for each name."""

    chain: str
    number: int
    ins_code: str
    name: str  # three letters
    hetero: bool
    atoms: tuple[int, ...]  # where N, CA, C and O stand among the file's atoms; -1 if missing

    @property
    def token(self) -> int | None:
        """The residue type in the order of `RESIDUES`; None for an unknown one."""
        return _TOKENS.get(self.name)

    def __str__(self) -> str:
        return f"residue {self.chain} {self.number}{self.ins_code}"


def read_residues(
    path: str | os.PathLike[str], chains: Iterable[str] | None, model: int | None
) -> tuple[list[Residue], NDArray[np.float32]]:
    """Returns the protein residues of a file and their atoms, (L, 4, 3) or (M, L, 4, 3) in Å."""
    atoms = _parse(path, model)
    residues = list(_residues(atoms)) if atoms.array_length() else []
    # The row of NaN at the end is what position -1, a missing atom, finds.
    padded = np.pad(atoms.coord, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    kept = _polymer(residues, padded[0])
    if not kept:
        raise ValueError(f"Expected {path} to hold amino acids; got none.")
    kept = kept if chains is None else _select(kept, chains, path)
    coords = padded[:, np.array([residue.atoms for residue in kept])].astype(np.float32)
    return kept, coords if len(coords) > 1 else coords[0]


def _biotite() -> tuple[Any, Any, Any]:
    try:
        from biotite import structure
        from biotite.structure.io import pdb, pdbx
    except ImportError as error:
        raise ImportError(
            "Reading and writing structure files needs the extra `protein`: "
            "pip install 'bridges[protein]'."
        ) from error
    return structure, pdb, pdbx


def _parse(path: str | os.PathLike[str], model: int | None) -> Any:  # noqa: ANN401
    """The atoms of a file as biotite's AtomArrayStack, alternative locations and all."""
    structure, _, _ = _biotite()
    name = Path(path).name.lower()
    file_format = _FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    if file_format is None:
        raise ValueError(
            "Expected path to end in .pdb, .ent, .cif, .mmcif or .bcif, or one of these and .gz; "
            f"got {path}."
        )
    data = Path(path).read_bytes()
    try:
        data = gzip.decompress(data) if name.endswith(".gz") else data
        count, get = _open(file_format, data)
    except Exception as error:  # parsers raise whatever the bytes make them stumble on
        raise ValueError(_unreadable(path, file_format, error)) from error
    if count == 0:
        raise ValueError(f"Expected {path} to hold amino acids; got none.")
    if model is not None and not 1 <= model <= count:
        raise ValueError(f"Expected model to be one of the {count} in {path}; got {model}.")
    try:
        return get() if model is None else structure.stack([get(model=model)])
    except Exception as error:
        alike = " with equal atoms in every model, or model to name one" if count > 1 else ""
        raise ValueError(_unreadable(path, file_format + alike, error)) from error


def _unreadable(path: str | os.PathLike[str], wanted: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    return f"Expected {path} to be readable as {wanted}; got {cause}."


def _open(file_format: str, data: bytes) -> tuple[int, Callable[..., Any]]:
    """The number of models, and the function that gives one of them, or all."""
    _, pdb, pdbx = _biotite()
    if file_format == "PDB":
        file = pdb.PDBFile.read(io.StringIO(data.decode(errors="replace")))
        get = partial(file.get_structure, altloc="all", extra_fields=["occupancy"])
        return file.get_model_count(), get
    if file_format == "mmCIF":
        file = pdbx.CIFFile.read(io.StringIO(data.decode()))
    else:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(data))
    get = partial(pdbx.get_structure, file, altloc="all", extra_fields=["occupancy"])
    return pdbx.get_model_count(file), get


def _residues(atoms: Any) -> Iterator[Residue]:  # noqa: ANN401
    """Cuts the atoms where a residue ends: at a new number, or a new name under the same one.

    Alternative residues at one position share its number, and their atoms are never blank in
    `altloc`; that tells them from a neighbour that repeats the number.
    """
    blank = np.isin(atoms.altloc_id, ["", " ", ".", "?"])
    cut = np.zeros(atoms.array_length(), dtype=bool)
    for column in (atoms.chain_id, atoms.res_id, atoms.ins_code):
        cut[1:] |= column[1:] != column[:-1]
    cut[1:] |= (atoms.res_name[1:] != atoms.res_name[:-1]) & blank[1:] & blank[:-1]
    for lo, hi in pairwise([0, *np.flatnonzero(cut).tolist(), len(cut)]):
        yield _residue(atoms, blank, lo, hi)


def _residue(atoms: Any, blank: NDArray[np.bool_], lo: int, hi: int) -> Residue:  # noqa: ANN401
    names, labels = atoms.res_name[lo:hi].tolist(), atoms.altloc_id[lo:hi].tolist()
    occupancy, free = atoms.occupancy[lo:hi].tolist(), blank[lo:hi].tolist()
    shares: dict[tuple[str, str], list[float]] = {}
    for name, label, share, common in zip(names, labels, occupancy, free, strict=True):
        if not common:
            shares.setdefault((name, label), []).append(share)
    # `max` keeps the first of equals.
    best = max(shares, key=lambda k: sum(shares[k]) / len(shares[k]), default=(names[0], ""))
    here: dict[str, tuple[bool, float, int]] = {}
    for i, atom in enumerate(atoms.atom_name[lo:hi].tolist()):
        rank = (free[i] or labels[i] == best[1], occupancy[i], -(lo + i))
        if names[i] == best[0] and atom in BACKBONE_ATOMS:
            here[atom] = max(rank, here.get(atom, rank))
    return Residue(
        chain=str(atoms.chain_id[lo]),
        number=int(atoms.res_id[lo]),
        ins_code=str(atoms.ins_code[lo]),
        name=best[0],
        hetero=bool(atoms.hetero[lo]),
        atoms=tuple(-here[atom][2] if atom in here else -1 for atom in BACKBONE_ATOMS),
    )


def _polymer(residues: Sequence[Residue], coord: NDArray[np.float32]) -> list[Residue]:
    """The amino acids of the chains: what is bonded to a neighbour, and what cannot be a ligand.

    Atoms called C and N also occur in caps (ACE, NME), so an unknown residue must have a CA.
    """
    if not residues:
        return []
    kept = []
    ends = np.array([[r.atoms[0], r.atoms[2]] for r in residues], dtype=int).reshape(-1, 2)
    length = np.linalg.norm(coord[ends[1:, 0]] - coord[ends[:-1, 1]], axis=-1)
    bonded = np.pad(length <= PEPTIDE_BOND_MAX, 1)
    for residue, before, after in zip(residues, bonded[:-1], bonded[1:], strict=True):
        known = residue.token is not None
        residual = residue.atoms[1] >= 0 and residue.name != "CA"  # "CA" is calcium
        ligand = residue.hetero and residue.name not in _MODIFIED and not (before or after)
        if (known or residual) and not ligand:
            kept.append(residue)
    return kept


def _select(
    residues: Sequence[Residue], chains: Iterable[str], path: str | os.PathLike[str]
) -> list[Residue]:
    wanted = {chains} if isinstance(chains, str) else set(chains)
    present = dict.fromkeys(residue.chain for residue in residues)
    if not wanted or not wanted <= present.keys():
        raise ValueError(
            f"Expected chains to name chains of amino acids in {path} ({', '.join(present)}); "
            f"got {', '.join(sorted(wanted - present.keys())) or 'none'}."
        )
    return [residue for residue in residues if residue.chain in wanted]


def write_residues(
    path: str | os.PathLike[str],
    coords: NDArray[np.float64],
    tokens: Sequence[int],
    chains: Sequence[str],
    numbers: Sequence[int],
    ins_codes: Sequence[str],
    b_factor: NDArray[np.float64],
) -> None:
    """Writes (M, L, 4, 3) coordinates in Å and a column of L entries for each other argument."""
    structure, pdb, pdbx = _biotite()
    suffix = Path(path).suffix.lower()
    if suffix not in {".pdb", ".cif", ".bcif"}:
        raise ValueError(f"Expected path to end in .pdb, .cif or .bcif; got {path}.")
    if suffix == ".pdb":
        _check_pdb_columns(coords, chains, np.asarray(numbers), b_factor)
    models, length = coords.shape[:2]
    atoms = structure.AtomArrayStack(models, 4 * length)
    atoms.coord = coords.reshape(models, -1, 3).astype(np.float32)
    atoms.res_name = np.repeat([_STANDARD[token] for token in tokens], 4)
    atoms.chain_id = np.repeat(chains, 4)
    atoms.res_id = np.repeat(numbers, 4)
    atoms.ins_code = np.repeat(ins_codes, 4)
    atoms.atom_name = np.tile(BACKBONE_ATOMS, length)
    atoms.element = np.tile([atom[0] for atom in BACKBONE_ATOMS], length)
    atoms.set_annotation("occupancy", np.ones(4 * length))
    atoms.set_annotation("b_factor", np.repeat(b_factor, 4))
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


def _check_pdb_columns(
    coords: NDArray[np.float64],
    chains: Sequence[str],
    numbers: NDArray[np.int64],
    b_factor: NDArray[np.float64],
) -> None:
    """A PDB file has columns of fixed width; what does not fit would shift the rest of a line."""
    for what, values, low, high in (
        ("coords in Å", coords, -999.999, 9999.999),
        ("res_id", numbers, -999, 9999),
        ("b_factor", b_factor, -99.99, 999.99),
        ("the number of atoms", np.array(4 * len(numbers)), 1, 99999),
        ("the number of models", np.array(len(coords)), 1, 9999),
    ):
        written = values.round(3)
        misfits = values[(written < low) | (written > high)]
        if misfits.size:
            raise ValueError(
                f"Expected {what} to lie in [{low}, {high}] for a PDB file; "
                f"got {misfits.flat[0].item()}."
            )
    if wide := next((chain for chain in chains if len(chain) != 1), None):
        raise ValueError(f"Expected chain_id to be one character for a PDB file; got {wide}.")


def _replace(path: Path, content: bytes) -> None:
    """Writes beside the path and renames, so that readers see the old file or the new one."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)

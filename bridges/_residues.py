"""The amino acids among the atoms of a structure, told apart by their labels alone.

A residue is what shares a chain, a number, an insertion code and a name, wherever its atoms stand
in the file; conformers and residue types that alternate at one position carry labels of
alternative locations, and one of them is chosen. What the labels leave open is kept as a doubt.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
BACKBONE_ATOMS = ("N", "CA", "C", "O")
PEPTIDE_BOND_MAX = 2.0  # Å; an ideal C-N bond is 1.329 Å, the next nearest contact about 2.4 Å
UNNUMBERED = np.iinfo(np.int64).min

STANDARD = (
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
_TOKENS = {name: token for token, name in enumerate(STANDARD)} | _MODIFIED


@dataclass(frozen=True)
class Residue:
    """A residue as it stands in the file, with one atom chosen for each name."""

    chain: str
    number: int
    ins_code: str
    name: str  # three letters
    hetero: bool
    atoms: tuple[int, ...]  # where N, CA, C and O stand among the model's atoms; -1 if missing
    doubt: str  # what its labels leave open; empty if nothing

    @property
    def token(self) -> int | None:
        """The residue type in the order of `RESIDUES`; None for an unknown one."""
        return _TOKENS.get(self.name)

    @property
    def place(self) -> tuple[str, int, str]:
        """What tells a residue from every other."""
        return self.chain, self.number, self.ins_code

    def __str__(self) -> str:
        return _place(*self.place)


def amino_acids(models: Iterable[Any]) -> Iterator[list[Residue]]:
    """The amino acids of each model's chains, in the order in which the file begins them."""
    named, residues = None, list[Residue]()
    for atoms in models:
        # The models of a trajectory have the same labels, which are then read once.
        if named is None or not named.equal_annotations(atoms):
            named, residues = atoms, list(_residues(atoms))
        yield _polymer(residues, coordinates(atoms))


def coordinates(atoms: Any) -> NDArray[np.float32]:
    """The coordinates of a model, and a row of NaN for position -1, the missing atom."""
    padded = np.pad(atoms.coord, ((0, 1), (0, 0)), constant_values=np.nan)
    return padded.astype(np.float32)


def first_doubt(residues: Sequence[Residue]) -> str:
    """The first thing that the labels of the residues do not decide; empty if there is none."""
    here: dict[tuple[str, int, str], Residue] = {}
    for residue in residues:
        if residue.doubt:
            return residue.doubt
        if (other := here.setdefault(residue.place, residue)) is not residue:
            return f"{other.name} and {residue.name} in {residue}"
    return ""


class _Atom(NamedTuple):
    position: int
    chain: str
    number: int
    ins_code: str
    residue: str
    hetero: bool
    name: str
    label: str  # of the alternative location; empty where the atom has but one
    occupancy: float


def _residues(atoms: Any) -> Iterator[Residue]:
    """One residue for every name at a place, or one for all names that alternate there.

    Names that alternate have labels; without them, two names are two residues.
    """
    named: defaultdict[tuple[str, int, str, str], list[_Atom]] = defaultdict(list)
    for atom in _rows(atoms):
        named[atom.chain, atom.number, atom.ins_code, atom.residue].append(atom)
    merged: defaultdict[tuple[str, int, str, str], list[_Atom]] = defaultdict(list)
    for (chain, number, ins_code, name), members in named.items():
        alternates = _is_amino_acid(members) and any(atom.label for atom in members)
        merged[chain, number, ins_code, "" if alternates else name] += members
    return map(_residue, merged.values())


def _rows(atoms: Any) -> Iterator[_Atom]:
    columns = (
        atoms.chain_id, atoms.res_id, atoms.ins_code, atoms.res_name, atoms.hetero,
        atoms.atom_name, atoms.altloc_id, atoms.occupancy,
    )  # fmt: skip
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return (_Atom(i, *row) for i, row in enumerate(rows))


def _is_amino_acid(members: Sequence[_Atom]) -> bool:
    name = members[0].residue
    return name in _TOKENS or (name != "CA" and any(atom.name == "CA" for atom in members))


def _residue(members: Sequence[_Atom]) -> Residue:
    name, label = _conformer(members)
    chosen, twice = [], ""
    for backbone_atom in BACKBONE_ATOMS:
        same = [a for a in members if (a.residue, a.name) == (name, backbone_atom)]
        # `max` keeps the first of equals.
        best = max(same, key=lambda a: (a.label == label, not a.label, a.occupancy), default=None)
        chosen.append(best.position if best else -1)
        if best and sum(a.label == best.label for a in same) > 1:
            twice = twice or backbone_atom
    head = next(atom for atom in members if atom.residue == name)
    rivals = dict.fromkeys(atom.residue for atom in members if atom.label == label)
    return Residue(
        chain=head.chain,
        number=head.number,
        ins_code=head.ins_code,
        name=name,
        hetero=all(atom.hetero for atom in members),
        atoms=tuple(chosen),
        doubt=_doubt(head, twice, label, list(rivals)),
    )


def _conformer(members: Sequence[_Atom]) -> tuple[str, str]:
    """The residue name and the label of the highest mean occupancy, the first of equals.

    Atoms without a label belong to every conformer, unless a labelled atom of the same name shows
    that they are a conformer of their own.
    """
    shares: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    labelled = {(atom.residue, atom.name) for atom in members if atom.label}
    for atom in members:
        if (atom.residue, atom.name) in labelled:
            shares[atom.residue, atom.label].append(atom.occupancy)
    # Rounded, so that equal occupancies have equal means however many atoms there are.
    means = {conformer: round(fmean(share), 6) for conformer, share in shares.items()}
    return max(means, key=means.__getitem__, default=(members[0].residue, ""))


def _doubt(head: _Atom, twice: str, label: str, rivals: Sequence[str]) -> str:
    where = _place(head.chain, head.number, head.ins_code)
    if head.number == UNNUMBERED:
        return f"{head.residue} without a number in chain {head.chain}"
    if label and len(rivals) > 1:
        return f"{' and '.join(rivals)} as alternative {label} of {where}"
    return f"{twice} twice in {where} ({head.residue})" if twice else ""


def _place(chain: str, number: int, ins_code: str) -> str:
    return " ".join(filter(None, ["residue", chain, f"{number}{ins_code}"]))


def _polymer(residues: Sequence[Residue], coord: NDArray[np.float32]) -> list[Residue]:
    """The amino acids of the chains: what is bonded to another residue, or cannot be a ligand.

    Atoms called C and N also occur in caps (ACE, NME), so an unknown residue must have a CA.
    """
    n, _, c, _ = coord[np.array([r.atoms for r in residues], dtype=int).reshape(-1, 4).T]
    kept = []
    for i, residue in enumerate(residues):
        residual = residue.atoms[1] >= 0 and residue.name != "CA"  # "CA" is calcium
        if residue.token is None and not residual:
            continue
        free = residue.hetero and residue.name not in _MODIFIED
        if not free or _is_bonded(n, c, i):
            kept.append(residue)
    return kept


def _is_bonded(n: NDArray[np.float32], c: NDArray[np.float32], i: int) -> bool:
    """Whether a peptide bond joins residue i to any other, wherever that stands in the file."""
    lengths = np.stack([np.linalg.norm(c - n[i], axis=-1), np.linalg.norm(n - c[i], axis=-1)])
    lengths[:, i] = np.inf
    return bool((lengths <= PEPTIDE_BOND_MAX).any())

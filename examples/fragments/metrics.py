"""How generated fragments compare with held-out ones, as one table.

Everything is computed from the atoms N, CA and C and from the sequence, with the same code for
every column. Three rows compare distributions: the distances of the radii of gyration, of the
residue compositions and of the φ, ψ histograms to those of held-out fragments. They depend on the
number of fragments, so each column uses equally many against the same reference. Under "held-out"
stands the distance between two parts of the held-out set: what a perfect sampler would reach.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self, final

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from bridges.protein import RESIDUES
from fragments import geometry, ramachandran
from fragments.data import Batch

Row = dict[str, float | None]
Report = dict[str, Row]

HELD_OUT = "held-out"
PAIRS = 200  # fragments among which the pairwise RMSD is measured


@final
@dataclass(frozen=True)
class Sample:
    """Fragments and what follows from their atoms alone.

    Args:
        coords: N, CA, C (further atoms are ignored) in angstrom, shape (F, L, 3 or more, 3).
        seq: residue types, shape (F, L), int64.
        phi, psi, omega: torsions of the atoms in radians, shape (F, L), NaN where undefined.
    """

    coords: Tensor
    seq: Tensor
    phi: Tensor
    psi: Tensor
    omega: Tensor

    @property
    def pos(self) -> Tensor:
        """CA, shape (F, L, 3)."""
        return self.coords[:, :, 1]

    def __len__(self) -> int:
        return len(self.seq)

    def __getitem__(self, index: slice | Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))


def sample(coords: Tensor, seq: Tensor) -> Sample:
    """Compute the torsions of fragments (F, L, 3 or more, 3) with sequences (F, L)."""
    if coords.ndim != 4 or coords.shape[:2] != seq.shape or coords.shape[2] < 3:
        got = f"{tuple(coords.shape)} with a sequence {tuple(seq.shape)}"
        raise ValueError(f"Expected coords to have shape (F, L, 3 or more, 3); got {got}.")
    atoms = coords[:, :, :3].detach().cpu().float()
    if not atoms.isfinite().all():
        raise ValueError("Expected coords to be finite; got NaN or infinity.")
    return Sample(atoms, seq.cpu(), *geometry.torsions(atoms))


def ramachandran_shares(x: Sample) -> Row:
    """Shares of favoured residues and outliers: the general class, all classes, each class."""
    value, kind = ramachandran.score(x.phi, x.psi, x.omega, x.seq)
    good, bad, known = (
        ramachandran.favoured(value),
        ramachandran.outlier(value, kind),
        ~value.isnan(),
    )
    general = known & (kind == ramachandran.GENERAL)
    row = {
        "favoured, general class": _share(good, general),
        "outliers, general class": _share(bad, general),
        "favoured, all classes": _share(good, known),
        "outliers, all classes": _share(bad, known),
    }
    for index, name in enumerate(ramachandran.CLASSES[:-1]):
        row[f"favoured, {name}"] = _share(good, known & (kind == index))
    return row


def chain_geometry(x: Sample) -> Row:
    """Distances of bonded neighbours, clashes and size."""
    ca_ca, c_n = geometry.bonds(x.coords)
    close, clashes = (ca_ca > 3.6) & (ca_ca < 4.0), geometry.clashes(x.coords)
    size = geometry.radius_of_gyration(x.pos)
    return {
        "CA-CA in 3.6-4.0 Å": _mean(close),
        **_quantiles("CA-CA (Å)", ca_ca),
        **_quantiles("C-N (Å)", c_n),
        "fragments with a clash": _mean(clashes > 0),
        "radius of gyration (Å), mean": _mean(size),
        **_quantiles("radius of gyration (Å)", size),
    }


def residues(x: Sample) -> Row:
    """Secondary structure by torsions, the sign of φ, and the residue types."""
    known, left = ~(x.phi + x.psi).isnan(), x.phi > 0
    glycine = x.seq == RESIDUES.index("G")
    return {
        "helix": _share(geometry.helix(x.phi, x.psi), known),
        "strand (extended)": _share(geometry.strand(x.phi, x.psi), known),
        "φ > 0": _share(left, ~x.phi.isnan()),
        "glycine among φ > 0": _share(glycine, left),
        "glycine": _mean(glycine),
        **{
            f"residue {letter}": float(p)
            for letter, p in zip(RESIDUES, composition(x), strict=True)
        },
    }


def distances(x: Sample, reference: Sample) -> Row:
    """Distances of distributions, each in [0, 1], between equally many fragments."""
    sizes = [geometry.radius_of_gyration(y.pos).numpy() for y in (x, reference)]
    angles = [geometry.histogram(y.phi, y.psi) for y in (x, reference)]
    return {
        "φ, ψ histogram, total variation": _variation(*angles),
        "radius of gyration, KS distance": float(ks_2samp(*sizes).statistic),
        "composition, total variation": _variation(composition(x), composition(reference)),
    }


def superposition(x: Sample, train: Tensor) -> Row:
    """CA RMSD within the sample (diversity) and to the nearest training fragment (novelty)."""
    few = x.pos[_permutation(len(x))[:PAIRS]]
    pairs = geometry.rmsd(few, few)[tuple(torch.triu_indices(len(few), len(few), 1))]
    nearest = geometry.nearest(x.pos, train)
    return {
        "pairwise RMSD (Å), median": _quantile(pairs, 0.5),
        "nearest training RMSD (Å), 5 %": _quantile(nearest, 0.05),
        "nearest training RMSD (Å), median": _quantile(nearest, 0.5),
    }


def psi_consistency(x: Sample, psi: Tensor) -> float | None:
    """Median absolute difference in degrees between `psi` (F, L) and the ψ of the atoms."""
    turn = torch.remainder(psi.cpu() - x.psi + math.pi, 2 * math.pi) - math.pi
    return _quantile(turn[~turn.isnan()].abs().rad2deg(), 0.5)


def composition(x: Sample) -> Tensor:
    """Share of each residue type, shape (20,), float64."""
    return torch.bincount(x.seq.flatten(), minlength=len(RESIDUES)).double() / x.seq.numel()


def report(generated: Mapping[str, Batch], held_out: Batch, train: Tensor) -> Report:
    """Compute every metric for held-out and generated fragments.

    A model that writes atoms from frames has ideal bonds and angles within a residue, which
    widens C-N: to see what it can reach, pass held-out fragments rebuilt by
    :func:`bridges.protein.backbone_atoms` as one of the columns.

    Args:
        generated: for each column's name a batch with ``coords`` (F, L, 3 or more, 3) and ``seq``
            (F, L), and, if the model has one, its own ``psi`` (F, L) in radians.
        held_out: a batch of held-out fragments, best at least twice as many.
        train: CA positions of training fragments (W, L, 3), in angstrom.

    Returns:
        For "held-out" and each column a dictionary of numbers; None where there is nothing to
        measure. It can be written as JSON.
    """
    samples = {name: sample(batch["coords"], batch["seq"]) for name, batch in generated.items()}
    whole = sample(held_out["coords"], held_out["seq"])
    whole = whole[_permutation(len(whole))]
    n = min([len(whole) // 2, *map(len, samples.values())])
    reference, other = whole[:n], whole[n : 2 * n]
    result = {
        HELD_OUT: {**_alone(whole), **distances(other, reference), **superposition(other, train)}
    }
    for name, x in samples.items():
        psi = generated[name].get("psi")
        own = {"ψ against the atoms (°), median": None if psi is None else psi_consistency(x, psi)}
        compared = {**distances(x[:n], reference), **superposition(x, train)}
        result[name] = {**_alone(x), **compared, **own}
    return result


def table(report: Report) -> str:
    """The report as aligned text: one line for each metric, one column for each set."""
    names = list(dict.fromkeys(name for row in report.values() for name in row))
    cells = [["", *report], *([name, *map(_cell, _across(report, name))] for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        [
            line[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in cells
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _alone(x: Sample) -> Row:
    return {"fragments": len(x), **ramachandran_shares(x), **chain_geometry(x), **residues(x)}


def _across(report: Report, name: str) -> list[float | None]:
    return [row.get(name) for row in report.values()]


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _share(what: Tensor, among: Tensor) -> float | None:
    return _mean(what[among])


def _mean(x: Tensor) -> float | None:
    return x.double().mean().item() if x.numel() else None


def _quantile(x: Tensor, q: float) -> float | None:
    return x.double().flatten().quantile(q).item() if x.numel() else None


def _quantiles(name: str, x: Tensor) -> Row:
    return {f"{name}, {100 * q:g} %": _quantile(x, q) for q in (0.05, 0.5, 0.95)}


def _variation(p: Tensor, q: Tensor) -> float:
    return (p - q).abs().sum().item() / 2


def _permutation(n: int) -> Tensor:
    """A fixed shuffle, so that the same input gives the same report."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))

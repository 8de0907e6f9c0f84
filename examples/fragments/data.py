"""Protein fragments of a fixed length, drawn from the chains of ``examples/data/backbones.npz``.

A fragment is a window of consecutive residues of one chain without a missing peptide bond. A batch
of B fragments of L residues is a dictionary of CPU tensors, with lengths in angstrom and angles in
radians:

- ``coords`` (B, L, 3, 3): N, CA, C; the mean of the CA positions is 0.
- ``pos`` (B, L, 3): CA.
- ``rot`` (B, L, 3, 3): the local frames of the residues; the columns are the axes.
- ``seq`` (B, L), int64: residue type, an index into :data:`bridges.protein.RESIDUES`.
- ``psi`` (B, L): torsion N, CA, C, N of the next residue in (-π, π]; 0 where it is unknown.
- ``psi_mask`` (B, L), bool: whether ψ is known, that is, bonded to a next residue of the chain.

The last residue of a fragment has its ψ where the chain goes on. The orientations are those of the
source files: turn the fragments at random in training.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from bridges.protein import backbone_frames, backbone_torsions

Batch = dict[str, Tensor]
Groups = tuple[Tensor, Tensor]  # first index and count of each group

DATA = Path(__file__).resolve().parents[1] / "data"
SPLITS = ("train", "val", "test")
UNIT = 0.01  # of the stored coordinates, in angstrom


@final
@dataclass(frozen=True, eq=False)
class Fragments:
    """The fragments of one split: windows of ``length`` residues on its chains.

    Args:
        coords: N, CA, C of all R residues in angstrom, shape (R, 3, 3).
        seq: Residue types, shape (R,), int64.
        bonded: Whether a residue is bonded to the one after it, shape (R,).
        chain: Chain of each residue, not decreasing, shape (R,), int64.
        cluster: Cluster of each chain, shape (C,), int64.
        length: Number L of residues in a fragment, at least 2.
    """

    coords: Tensor
    seq: Tensor
    bonded: Tensor
    chain: Tensor
    cluster: Tensor
    length: int

    @classmethod
    def load(cls, split: str, length: int = 24, path: Path = DATA / "backbones.npz") -> Self:
        """Read the chains of the split ``"train"``, ``"val"`` or ``"test"``."""
        if split not in SPLITS:
            raise ValueError(f"Expected split to be one of {SPLITS}; got {split!r}.")
        with np.load(path, allow_pickle=False) as archive:
            data = {name: archive[name] for name in archive.files}
        kept, sizes = data["split"] == split, np.diff(data["chain_start"])
        opens = data["chain_break"].copy()
        opens[data["chain_start"][:-1]] = True
        rows = np.repeat(kept, sizes)
        return cls(
            torch.from_numpy(data["coords"][rows].astype(np.float32)) * UNIT,
            torch.from_numpy(data["seq"][rows].astype(np.int64)),
            torch.from_numpy(np.append(~opens[1:], False)[rows]),
            torch.from_numpy(np.repeat(np.arange(kept.sum()), sizes[kept])),
            torch.from_numpy(data["cluster"][kept].astype(np.int64)),
            length,
        )

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"Expected length to be at least 2; got {self.length}.")

    @cached_property
    def _opens(self) -> Tensor:
        return torch.cat([self.bonded.new_ones(1), ~self.bonded[:-1]])

    @cached_property
    def segment(self) -> Tensor:
        """Number of the unbroken stretch that each residue lies in, shape (R,), int64."""
        return self._opens.cumsum(0) - 1

    @cached_property
    def starts(self) -> Tensor:
        """First residue of every fragment, overlapping ones too, shape (W,), int64."""
        last = self.length - 1
        return (self.segment[last:] == self.segment[: len(self.segment) - last]).nonzero()[:, 0]

    @cached_property
    def psi(self) -> Tensor:
        """ψ of every residue in radians, shape (R,); 0 where ``bonded`` is false."""
        return backbone_torsions(self.coords, linked=~self._opens)[1].nan_to_num()

    @cached_property
    def _tree(self) -> tuple[Groups, Groups]:
        """Windows of each chain, chains ordered by cluster; and those chains of each cluster."""
        first, count = _groups(self.chain[self.starts])
        cluster = self.cluster[self.chain[self.starts[first]]]
        order = torch.argsort(cluster, stable=True)
        return (first[order], count[order]), _groups(cluster[order])

    def sample(self, batch: int, generator: torch.Generator) -> Batch:
        """Draw fragments: a uniform cluster, a uniform chain of it, a uniform window of that.

        The clusters are those of chains that hold a fragment at all.

        Args:
            batch: number B of fragments.
            generator: a CPU generator; the only source of chance.
        """
        chains, clusters = self._tree
        u = torch.rand(3, batch, dtype=torch.float64, generator=generator)
        cluster = (u[0] * len(clusters[0])).long()
        window = _pick(chains, _pick(clusters, cluster, u[1]), u[2])
        return self.gather(self.starts[window])

    def windows(self, stride: int = 1) -> Tensor:
        """CA positions of every ``stride``-th fragment in angstrom, shape (W', L, 3)."""
        return self.coords[self._rows(self.starts[::stride]), 1]

    def held_out(self) -> Batch:
        """All non-overlapping fragments: each unbroken stretch is cut from its first residue."""
        opens = self._opens.nonzero()[:, 0]
        inside = self.starts - opens[self.segment[self.starts]]
        return self.gather(self.starts[inside % self.length == 0])

    def gather(self, starts: Tensor) -> Batch:
        """The fragments that begin at the residues ``starts`` (B,), some of :attr:`starts`."""
        rows = self._rows(starts)
        coords = self.coords[rows]
        coords = coords - coords[:, :, 1].mean(1)[:, None, None]
        pos, rot = backbone_frames(coords)
        known = {"psi": self.psi[rows], "psi_mask": self.bonded[rows]}
        return {"coords": coords, "pos": pos, "rot": rot, "seq": self.seq[rows], **known}

    def _rows(self, starts: Tensor) -> Tensor:
        return starts[:, None] + torch.arange(self.length)


def _groups(labels: Tensor) -> Groups:
    """Runs of equal labels in sorted `labels`: the first index and the count of each."""
    count = torch.unique_consecutive(labels, return_counts=True)[1]
    return count.cumsum(0) - count, count


def _pick(groups: Groups, group: Tensor, u: Tensor) -> Tensor:
    """A member of each `group`, uniform when `u` is uniform in [0, 1)."""
    first, count = groups
    return first[group] + (u * count[group]).long()

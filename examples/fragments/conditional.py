"""Three conditional modes of one model: a part of a held-out fragment is given.

`sequence` folds given sequences, `structure` finds sequences for given backbones, `motif` builds
the rest of a fragment around given residues. What is given comes back bit for bit.
"""

import torch
from torch import Tensor

from bridges import Process
from bridges.protein import RESIDUES
from fragments import geometry, metrics
from fragments.data import Batch
from fragments.generate import Masks, Model, sample
from fragments.process import PARTS, State, as_batch, as_state

MODES = ("sequence", "structure", "motif")
MOTIF_SHARE = 1 / 3  # of the residues, in the middle

Numbers = dict[str, float]


def free_parts(mode: str, count: int, length: int) -> Masks:
    """For each part which residues are generated in a mode, shape (count, length)."""
    everywhere = torch.ones(count, length, dtype=torch.bool)
    if mode == "motif":
        size = round(length * MOTIF_SHARE)
        first = (length - size) // 2
        around = everywhere.clone()
        around[:, first : first + size] = False
        return dict.fromkeys(PARTS, around)
    generated = ("seq",) if mode == "structure" else ("pos", "rot", "psi")
    return {part: everywhere if part in generated else ~everywhere for part in PARTS}


def generate(
    mode: str,
    model: Model,
    process: Process,
    held_out: Batch,
    steps: int,
    generator: torch.Generator,
) -> tuple[Batch, Numbers]:
    """Generate what the mode leaves free in held-out fragments.

    Returns:
        The fragments as data, and what there is to say about them.
    """
    native = as_state(held_out)
    free = free_parts(mode, *native["seq"].shape)
    state, guess = sample(model, process, native, free, steps, generator)
    kept = [torch.equal(state[p][~free[p]], native[p][~free[p]]) for p in PARTS]
    judge = {"sequence": _folding, "structure": _recovery, "motif": _motif}[mode]
    numbers = judge(state, guess, native, free)
    return as_batch(state), {"given parts kept bit for bit": float(all(kept)), **numbers}


def _folding(state: State, guess: State, native: State, free: Masks) -> Numbers:
    """How far the folds are from the native ones, and from those of other sequences."""
    made, true = as_batch(state), as_batch(native)
    apart = geometry.rmsd(made["coords"][:, :, 1], true["coords"][:, :, 1])
    other = ~torch.eye(len(apart), dtype=torch.bool)
    return {
        "CA RMSD to the native fold (Å), median": apart.diagonal().median().item(),
        "CA RMSD to the fold of another sequence (Å), median": apart[other].median().item(),
        **_torsions(made, slice(None)),
    }


def _recovery(state: State, guess: State, native: State, free: Masks) -> Numbers:
    """Share of positions with the native type, against what the composition alone would give."""
    share = torch.bincount(native["seq"].flatten(), minlength=len(RESIDUES)).double()
    share = share / share.sum()
    return {
        "positions": float(native["seq"].numel()),
        "native types, sampled": _agreement(state["seq"], native["seq"]),
        "native types, sampled from the composition": share.square().sum().item(),
        "native types, most likely": _agreement(guess["seq"].argmax(-1), native["seq"]),
        "native types, always the commonest": share.max().item(),
    }


def _motif(state: State, guess: State, native: State, free: Masks) -> Numbers:
    """The motif does not move; how good the torsions around it are."""
    given = ~free["pos"][0]
    moved = (state["pos"] - native["pos"])[:, given].norm(dim=-1).square().mean().sqrt().item()
    return {"RMSD of the motif (Å)": moved, **_torsions(as_batch(state), ~given)}


def _torsions(batch: Batch, where: slice | Tensor) -> Numbers:
    x = metrics.sample(batch["coords"], batch["seq"])
    shares = metrics.ramachandran_shares(x)
    geometry_ = metrics.chain_geometry(x)
    return {
        "favoured, general class": shares["favoured, general class"] or 0.0,
        "CA-CA in 3.6-4.0 Å": geometry_["CA-CA in 3.6-4.0 Å"] or 0.0,
    }


def _agreement(a: Tensor, b: Tensor) -> float:
    return (a == b).double().mean().item()

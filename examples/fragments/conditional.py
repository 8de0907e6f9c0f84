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
from fragments.generate import Masks, Model, sample, walk
from fragments.process import PARTS, State, as_batch, as_state

MODES = ("sequence", "structure", "motif")
MOTIF_SHARE = 1 / 3  # of the residues, in the middle
DRAWS = 8  # of noise, over which the likeliest types are averaged

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
    state = sample(model, process, native, free, steps, generator)
    kept = [torch.equal(state[p][~free[p]], native[p][~free[p]]) for p in PARTS]
    numbers = {"given parts kept bit for bit": float(all(kept))}
    if mode == "structure":
        likely = _most_likely(model, process, native, free, generator)
        numbers |= _recovery(state["seq"], likely, native["seq"])
    else:
        numbers |= _folds(state, native, free)
    return as_batch(state), numbers


def _most_likely(
    model: Model, process: Process, native: State, free: Masks, generator: torch.Generator
) -> Tensor:
    """The likeliest types given the structure: guesses from types that are all noise, averaged."""
    firsts = (next(walk(model, process, native, free, 1, generator)) for _ in range(DRAWS))
    return sum(torch.softmax(first.prediction["seq"], -1) for first in firsts).argmax(-1)


def _recovery(drawn: Tensor, likely: Tensor, native: Tensor) -> Numbers:
    """Share of positions with the native type, against what the composition alone would give."""
    share = torch.bincount(native.flatten(), minlength=len(RESIDUES)).double() / native.numel()
    return {
        "positions": float(native.numel()),
        "native types, sampled": _agreement(drawn, native),
        "native types, sampled from the composition": share.square().sum().item(),
        "native types, most likely": _agreement(likely, native),
        "native types, always the commonest": share.max().item(),
    }


def _folds(state: State, native: State, free: Masks) -> Numbers:
    """How good the fragments are, and how far from the native ones and from what was given."""
    made, true = as_batch(state), as_batch(native)
    x = metrics.sample(made["coords"], made["seq"])
    apart = geometry.rmsd(x.pos, true["coords"][:, :, 1])
    other = ~torch.eye(len(apart), dtype=torch.bool)
    given = (made["coords"] - true["coords"])[~free["pos"]].square().sum(-1)
    moved = {"RMSD of the given atoms (Å)": given.mean().sqrt().item()} if len(given) else {}
    return {
        **moved,
        "CA RMSD to the native fragment (Å), median": apart.diagonal().median().item(),
        "CA RMSD to another fragment (Å), median": apart[other].median().item(),
        "favoured, general class": metrics.ramachandran_shares(x)["favoured, general class"]
        or 0.0,
        "CA-CA in 3.6-4.0 Å": metrics.chain_geometry(x)["CA-CA in 3.6-4.0 Å"] or 0.0,
    }


def _agreement(a: Tensor, b: Tensor) -> float:
    return (a == b).double().mean().item()

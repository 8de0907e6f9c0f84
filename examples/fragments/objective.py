"""What training asks for: which times it visits, and how it judges a guess.

Most examples share one time over all parts, as generation does. Others keep a part clean or
nearly so, for the conditional modes: the sequence (folding), the structure (inverse folding), or
all parts of a stretch of residues (a motif).
"""

import torch
from torch import Tensor

from bridges import Joint, Loss, standardloss
from fragments import features
from fragments.data import Batch
from fragments.process import PARTS, UNIT, State, Times, pos_moments, scaler

MIDDLE, MIDDLE_SHARE = (0.3, 0.8), 0.6  # times at which a fragment takes shape
EARLIEST = 0.01  # time of a part that is not clean
JITTER = 0.05  # of the times of frames and ψ
INDEPENDENT = 0.3  # share of examples whose tokens have a time of their own
CLEAN_SEQ, CLEAN_STRUCTURE, MOTIF = 0.05, 0.15, 0.1  # shares of examples

WEIGHTS = {"pos": 1.0, "rot": 4.0, "seq": 0.4, "psi": 0.5}
LOCAL_WEIGHT = 0.3
LOCAL_CEILING, LOCAL_FLOOR = 4.0, 0.02  # variance of local positions, Å²


def training_times(count: int, length: int, generator: torch.Generator) -> Times:
    """Draw a time for each part of each residue, shape (count, length)."""
    u = torch.rand(8, count, generator=generator)
    low, high = MIDDLE
    shared = torch.where(u[0] < MIDDLE_SHARE, low + (high - low) * u[1], u[1]).clamp(EARLIEST, 1)
    jitter = JITTER * torch.randn(2, count, generator=generator)
    rot, psi = (shared + jitter).clamp(EARLIEST, 1)
    own = EARLIEST + (1 - EARLIEST) * torch.where(u[4] > 1 - CLEAN_STRUCTURE, u[3].sqrt(), u[3])
    seq = torch.where((u[2] < INDEPENDENT) | (u[4] > 1 - CLEAN_STRUCTURE), own, shared)
    times = {"pos": shared, "rot": rot, "seq": torch.where(u[4] < CLEAN_SEQ, 0.0, seq), "psi": psi}
    for part in ("pos", "rot", "psi"):
        times[part] = torch.where(u[4] > 1 - CLEAN_STRUCTURE, 0.0, times[part])
    free = ~_motifs(u[5:], length)
    return {part: times[part].unsqueeze(-1) * free for part in PARTS}


def _motifs(u: Tensor, length: int) -> Tensor:
    """Stretches of a quarter to a half of the residues, in some examples, (count, length)."""
    size = (length * (0.25 + 0.25 * u[1])).floor()
    first = (u[2] * (length - size + 1)).floor()
    index = torch.arange(length)
    inside = (index >= first.unsqueeze(-1)) & (index < (first + size).unsqueeze(-1))
    return inside & (u[0] < MOTIF).unsqueeze(-1)


def objective(
    process: Joint, guess: State, clean: State, batch: Batch, times: Times
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total to minimise and its parts: one for each space, and the local loss."""
    everywhere = torch.ones_like(batch["psi_mask"])
    mask = {part: batch["psi_mask"] if part == "psi" else everywhere for part in PARTS}
    loss: Loss = standardloss(process, times, guess, clean, scaler=scaler, mask=mask)
    parts = {**loss.parts, "local": local_loss(guess, clean, times)}
    total = sum(WEIGHTS[part] * loss.parts[part] for part in PARTS)
    return total + LOCAL_WEIGHT * parts["local"], parts


def local_loss(guess: State, clean: State, times: Times) -> Tensor:
    """Squared errors of the neighbours' atoms in local frames and of the bonds, over the noise."""
    near, there = features.neighbours(guess["pos"] * UNIT, guess["rot"])
    truth, _ = features.neighbours(clean["pos"] * UNIT, clean["rot"])
    variance = pos_moments(times["pos"])[1] * UNIT**2
    scale = variance * LOCAL_CEILING / (variance + LOCAL_CEILING) + LOCAL_FLOOR
    atoms = (near - truth).square().sum(-1).flatten(2).mean(-1)
    bonds = (_lengths(near, there) - _lengths(truth, there)).square().sum(-1)
    return ((atoms + bonds) / scale).mean()


def _lengths(near: Tensor, there: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features.bonds(near, there) + 1e-6, dim=-1)

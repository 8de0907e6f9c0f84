"""What training asks for: which times it visits, and how it judges a guess.

Most examples share one time over all parts, as generation does. Others keep something clean, for
the conditional modes: the sequence (folding), the structure (inverse folding, mostly with a very
noisy sequence), or all parts of a stretch of residues (a motif).
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
    folding, inverse = u[0] < CLEAN_SEQ, u[0] > 1 - CLEAN_STRUCTURE
    low, high = MIDDLE
    shared = torch.where(u[1] < MIDDLE_SHARE, low + (high - low) * u[2], u[2])
    jitter = JITTER * torch.randn(2, count, generator=generator)
    own = torch.where(inverse, u[4].sqrt(), u[4])
    seq = torch.where(inverse | (u[3] < INDEPENDENT), own, shared)
    times = torch.stack((shared, shared + jitter[0], seq, shared + jitter[1])).clamp(EARLIEST, 1)
    clean = torch.stack((inverse, inverse, folding, inverse))
    times = torch.where(clean, 0.0, times).unsqueeze(-1) * ~_motifs(u[5:], length)
    return dict(zip(PARTS, times, strict=True))


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

"""The network: noisy fragments in, guesses of the clean ones out, however they are turned.

Residues attend to each other with features of pairs; between the blocks every residue moves and
turns its own frame. Lengths inside are in angstrom. The guess starts from what is left of the
noisy fragment: the best linear guess of the positions, the noisy frames, the noisy ψ; corrections
are scaled by the noise.
"""

from typing import Any, final

import torch
from torch import Tensor, nn

from bridges.protein import RESIDUES
from fragments import features
from fragments.layers import WAVES, Block, Chain, FrameUpdate, time_features
from fragments.process import PARTS, UNIT, State, Times, pos_moments, psi_variance, rot_variance

KINDS = len(RESIDUES)
TIME_SIZE = len(PARTS) * (2 + 2 * WAVES)
# Types and ψ twice, the origin, how the last guess differs, whether it is there, neighbours twice.
INPUT_SIZE = TIME_SIZE + 2 * KINDS + 4 + 3 + 6 + 1 + 2 * features.LOCAL_SIZE


def null_prediction(count: int, length: int) -> State:
    """What the network is given as its last guess before it has made one."""
    return {
        "pos": torch.zeros(count, length, 3),
        "rot": torch.eye(3).expand(count, length, 3, 3),
        "seq": torch.zeros(count, length, KINDS),
        "psi": torch.zeros(count, length),
    }


@final
class Denoiser(nn.Module):
    """Guesses the clean fragment: positions, rotations, logits of the types, and ψ.

    Args:
        covariance: of the clean positions along the chain in units of 10 Å, one axis, (L, L).
        width: features of a residue.
        heads: attention heads.
        pair: features of a pair of residues.
        stages: blocks, each with an update of the frames behind it.
    """

    covariance: Tensor

    def __init__(
        self,
        covariance: Tensor,
        *,
        width: int = 128,
        heads: int = 8,
        pair: int = 32,
        stages: int = 5,
    ) -> None:
        super().__init__()
        self.register_buffer("covariance", covariance)
        self.heads, self.pair, self.length = heads, pair, len(covariance)
        self.embed = nn.Sequential(
            nn.Linear(INPUT_SIZE, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
        )
        self.offset = nn.Embedding(2 * self.length - 1, 2 * pair)
        self.pair_in = nn.Linear(2 * features.PAIR_SIZE, 2 * pair)
        self.pair_out = nn.Linear(2 * pair, pair + stages * heads)
        self.blocks = nn.ModuleList(Block(width, heads, pair, TIME_SIZE) for _ in range(stages))
        self.updates = nn.ModuleList(FrameUpdate(width) for _ in range(stages))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, KINDS + 2))

    def forward(self, x_t: State, t: Tensor | Times, previous: State) -> State:
        """Guess x_0 from x_t at time t, with the last guess at hand."""
        times = {part: _per_residue(t, part, x_t["seq"]) for part in PARTS}
        chain, spread = self._start(x_t, times)
        last = Chain(previous["pos"] * UNIT, previous["rot"])
        known = (previous["pos"] != 0).flatten(1).any(-1).to(chain.pos)[:, None, None]
        clock = torch.cat([time_features(times[part]) for part in PARTS], -1)
        around = _around(chain)[1], known * _around(last)[1]
        own, apart = _own_features(x_t, previous, chain), _difference(chain, last, known)
        h = self.embed(torch.cat((clock, *own, *apart, *around), -1))
        biases, pair = self._pairs(chain, last, known)
        for bias, block, update in zip(biases, self.blocks, self.updates, strict=True):
            strain, local = _around(chain)
            h = block(h + update.read(local), bias, pair, clock)
            chain = update(h, chain, strain, spread)
        pos = features.take_out_mean(chain.pos, spread[..., 0]) / UNIT
        logits, turn = self.head(h).split((KINDS, 2), -1)
        return {"pos": pos, "rot": chain.rot, "seq": logits, "psi": _psi(x_t, times, turn)}

    def _start(self, x_t: State, times: Times) -> tuple[Chain, Tensor]:
        """Where the chain starts from, and how far it may have to move (Å) and turn (rad)."""
        guess, left = features.linear_guess(
            x_t["pos"], *pos_moments(times["pos"]), self.covariance
        )
        variance = rot_variance(times["rot"])
        spread = torch.stack((left * UNIT, (variance / (1 + variance)).sqrt()), -1)
        return Chain(guess * UNIT, x_t["rot"]), spread

    def _pairs(
        self, chain: Chain, last: Chain, known: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The biases (B, heads, L, L) of each block, and the features (B, L, L, P)."""
        index = torch.arange(self.length, device=chain.pos.device)
        offset = self.offset(index - index.unsqueeze(-1) + self.length - 1)
        both = (
            features.pair_features(*chain),
            known.unsqueeze(-1) * features.pair_features(*last),
        )
        pair = self.pair_out(nn.functional.silu(self.pair_in(torch.cat(both, -1)) + offset))
        *biases, values = pair.split((self.heads,) * len(self.blocks) + (self.pair,), -1)
        return tuple(bias.permute(0, 3, 1, 2) for bias in biases), values


def _per_residue(t: Any, part: str, like: Tensor) -> Tensor:
    """The time of one part for every residue (B, L), from one for all parts or a structure."""
    time = t[part] if isinstance(t, dict) else t
    return time.reshape(*time.shape, *[1] * (like.ndim - time.ndim)).expand(like.shape)


def _around(chain: Chain) -> tuple[Tensor, Tensor]:
    near, there = features.neighbours(*chain)
    strain, excess = features.strains(features.bonds(near, there))
    return strain, features.local_features(near, excess)


def _own_features(x_t: State, previous: State, chain: Chain) -> tuple[Tensor, ...]:
    """The types and ψ, noisy and as guessed last, and where the origin is."""
    kinds = nn.functional.one_hot(x_t["seq"], KINDS).to(chain.pos)
    angles = [f(x["psi"]) for x in (x_t, previous) for f in (torch.sin, torch.cos)]
    origin = (chain.rot.mT @ chain.pos.unsqueeze(-1)).squeeze(-1) / 10
    return kinds, torch.softmax(previous["seq"], -1), torch.stack(angles, -1), origin


def _difference(chain: Chain, last: Chain, known: Tensor) -> tuple[Tensor, ...]:
    """How the last guess would move and turn each frame, zeros if there is none; and whether."""
    apart = (chain.rot.mT @ (last.pos - chain.pos).unsqueeze(-1)).squeeze(-1) / 5
    between = chain.rot.mT @ last.rot
    axes = torch.eye(3).to(between).expand_as(between)
    turn = torch.linalg.cross(axes, between, dim=-2).sum(-1)
    return known * apart, known * turn, known.expand_as(apart[..., :1])


def _psi(x_t: State, times: Times, turn: Tensor) -> Tensor:
    """ψ as a turn from the noisy one, by a point in the plane that starts at (1, 0)."""
    variance = psi_variance(times["psi"])
    stay, go = 1 / (1 + variance), (variance / (1 + variance)).sqrt()
    return x_t["psi"] + torch.atan2(go * turn[..., 1], stay + go * turn[..., 0])

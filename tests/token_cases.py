"""Rows of the processes on tokens for `cases.py`, and their laws by dense matrices.

Every row names the matrix of rates, written out with numpy, of which the oracle takes products of
exponentials; a process in discrete time has a stack of matrices in its place.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import expm

from bridges import Process
from bridges.categorical import (
    IndependentDiscreteDiffusion,
    MaskingDiscreteDiffusion,
    MixtureDiscreteDiffusion,
    UniformDiscreteDiffusion,
)
from bridges.discrete_time import DiscreteTimeDiffusion
from bridges.rate_matrix import GeneralDiscreteDiffusion

RATE, K = 0.8, 5
PI = (0.45, 0.3, 0.0, 0.2, 0.05)
MASK = 0.7

# ---------------------------------------------------------------- rates


def jumps(rate, law, states):
    """β(1πᵀ − I) on as many states."""
    return rate * (np.tile(law, (states, 1)) - np.eye(states))


def random_rates(k, seed):
    """Rates from 0.02 to 2 without detailed balance, one of them 0."""
    rates = np.exp(np.random.default_rng(seed).uniform(np.log(0.02), np.log(2.0), (k, k)))
    rates[1, 3] = 0.0
    np.fill_diagonal(rates, 0.0)
    return rates - np.diag(rates.sum(1))


def exchanged(s, pi, rate):
    """S·diag(π), so that `rate` substitutions happen per unit of time."""
    rates = s * pi
    np.fill_diagonal(rates, 0.0)
    rates = rates - np.diag(rates.sum(1))
    return rates * (rate / -(pi * np.diag(rates)).sum())


def walk(k, rate):
    """The reflecting walk to nearest neighbours."""
    beside = np.diag(np.ones(k - 1), 1)
    rates = rate * (beside + beside.T)
    return rates - np.diag(rates.sum(1))


EXCHANGE = np.exp(np.random.default_rng(5).normal(size=(K, K)))
EXCHANGE = EXCHANGE + EXCHANGE.T
FREQUENCIES = np.array([0.4, 0.1, 0.25, 0.05, 0.2])
RESIDUES = exchanged(EXCHANGE, FREQUENCIES, 0.9)
ARROWS = random_rates(K, 6)
LADDER = walk(K, 0.6)

TABLES = {
    "uniform": (UniformDiscreteDiffusion(RATE, K), jumps(RATE, np.full(K, 1 / K), K)),
    "independent": (IndependentDiscreteDiffusion(RATE, PI), jumps(RATE, PI, K)),
    "masking": (MaskingDiscreteDiffusion(RATE, K), jumps(RATE, [0.0] * K + [1.0], K + 1)),
    "mixture": (
        MixtureDiscreteDiffusion(RATE, PI, MASK),
        jumps(RATE, [*((1 - MASK) * np.array(PI)), MASK], K + 1),
    ),
    "residues": (
        GeneralDiscreteDiffusion.from_exchangeabilities(EXCHANGE, FREQUENCIES, 0.9),
        RESIDUES,
    ),
    "arrows": (GeneralDiscreteDiffusion(ARROWS), ARROWS),
    "ladder": (GeneralDiscreteDiffusion.ordinal(K, 0.6), LADDER),
}
"""Processes in continuous time, and their rates by numpy."""

JUMPS = ("uniform", "independent", "masking", "mixture")
"""Those of them with independent jumps."""


def steps(count, k, seed):
    """Matrices that differ from step to step, without detailed balance and with a zero."""
    moves = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), (count, k))
    moves[:, 0, 2] = 0.0
    mixed = 0.93 * np.eye(k) + 0.07 * moves
    return mixed / mixed.sum(-1, keepdims=True)


STEPS = steps(90, K, 7)
D3PM = DiscreteTimeDiffusion(STEPS)

# ---------------------------------------------------------------- oracles


def transition(rates, s, t):
    """P_{s→t} of a matrix of rates, or of a stack of steps."""
    rates = np.asarray(rates)
    if rates.ndim == 2:
        return expm(rates * (t - s))
    product = np.eye(rates.shape[-1])
    for step in rates[round(s) : round(t)]:
        product = product @ step
    return product


def bridge_table(rates, s, t):
    """The law of x_s by conditioning, shape (x_0, x_t, x_s); NaN for pairs that cannot be."""
    to_s, on_to_t = transition(rates, 0.0, s), transition(rates, s, t)
    table = to_s[:, None, :] * on_to_t.T[None, :, :]
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(table / table.sum(-1, keepdims=True))


@dataclass(frozen=True, eq=False)
class DenseTokens(Process):
    """Tokens drawn from dense matrices: the general process of law 7."""

    rates: np.ndarray

    def _forward(self, x, s, t, draws):
        table = torch.from_numpy(transition(self.rates, s.item(), t.item())).to(x.device)
        return draws.categorical(table[x].log())

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        to_s, on_to_t = (
            torch.from_numpy(transition(self.rates, *times)).to(x_t.device)
            for times in ((0.0, s.item()), (s.item(), t.item()))
        )
        return draws.categorical((to_s[x_0] * on_to_t.mT[x_t]).log())

    def _check_dtype(self, x, name):
        assert x.dtype == torch.int64

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        raise NotImplementedError


# ---------------------------------------------------------------- rows


def tokens(n=20_000):
    return lambda dtype: torch.tensor([2, 4]).repeat(n // 2)


def column(x):
    return x.unsqueeze(-1).double()


def row(name, process, rates, **given):
    general = DenseTokens(rates)
    return {
        "name": name,
        "process": process,
        "point": tokens(),
        "view": column,
        "general": general,
    } | given


ROWS = [
    *(row(name, *TABLES[name]) for name in TABLES if name != "uniform"),
    row("discrete time", D3PM, STEPS, times=(10, 20), wide=(20, 60), near=None, far=90),
]
"""What `cases.Case` takes; `far` in discrete time is its last step, where x_0 is forgotten."""

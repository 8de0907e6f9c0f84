"""Two and three tokens of two states, their true posterior, and laws of runs by enumeration."""

import itertools

import numpy as np
import torch

from bridges.categorical import MaskingDiscreteDiffusion
from bridges.share_clock import LogLinearClock
from bridges.unmasking import Remasking

DOUBLE = torch.float64
K, RATE = 2, 1.3
MASKING = MaskingDiscreteDiffusion(RATE, K)
LINEAR = MaskingDiscreteDiffusion(1.0, K).on(LogLinearClock(0.0))
PAIR = np.array([[0.4, 0.1], [0.05, 0.45]])
TRIPLE = np.random.default_rng(1).dirichlet(np.full(8, 0.4)).reshape(2, 2, 2)


class Posterior:
    """The true posterior of every token, given those that are revealed: a table over all x_t."""

    def __init__(self, joint):
        shape, self.calls = (K + 1,) * joint.ndim, []
        self.table = torch.zeros(*shape, joint.ndim, K, dtype=DOUBLE)
        for x in itertools.product(range(K + 1), repeat=joint.ndim):
            kept = joint * self.agrees(joint, x)
            for i in range(joint.ndim):
                axes = tuple(j for j in range(joint.ndim) if j != i)
                self.table[x + (i,)] = torch.from_numpy(kept.sum(axes) / kept.sum())

    def agrees(self, joint, x):
        index = np.indices(joint.shape)
        return np.all([(y == K) | (index[i] == y) for i, y in enumerate(x)], axis=0)

    def __call__(self, x, t):
        self.calls.append((x, t))
        return self.table[tuple(x.unbind(-1))].log()


def counts(x):
    """Number whole sequences."""
    digits = K ** torch.arange(x.shape[-1] - 1, -1, -1)
    return (x * digits).sum(-1)


def masks(n, length):
    return torch.full((n, length), K)


def exact_law(guess, share, steps):
    """The law of two tokens after even steps of `LINEAR`; share 0 is the plain sampler."""
    states = list(itertools.product(range(K + 1), repeat=2))
    law, times = {(K, K): 1.0}, torch.linspace(0, 1, steps + 1, dtype=DOUBLE)
    for s, t in zip(times[:-1].flip(0), times[1:].flip(0), strict=True):
        tau = LINEAR.clock(s), LINEAR.clock(t)
        hide, reveal = (p.item() for p in Remasking(LINEAR.process, share)._shares(*tau))
        following = dict.fromkeys(states, 0.0)
        for x, p in law.items():
            probs = guess(torch.tensor(x), t).exp().tolist()
            first, second = (moves(x[i], probs[i], hide, reveal) for i in range(2))
            for y in states:
                following[y] += p * first[y[0]] * second[y[1]]
        law = following
    return np.array([[law[a, b] for b in range(K)] for a in range(K)])


def moves(x, probs, hide, reveal):
    """The law of one token after a step."""
    if x == K:
        return [*(reveal * p for p in probs), 1 - reveal]
    return [*((1 - hide) * (z == x) for z in range(K)), hide]

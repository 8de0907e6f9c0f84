r"""Tokens that move by any matrices: what processes with a transition matrix share.

With :math:`P_{s \to t}[x, y] = P(x_t = y \mid x_s = x)`, the bridge is

.. math:: p(x_s = z \mid x_0 = x, x_t = y) \propto P_{0 \to s}[x, z]\,P_{s \to t}[z, y] ,

a row times a column, K numbers per token. A pair of probability 0 has no bridge; there y is
carried over. In logits, an x_0 that x_t rules out is passed over.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bridges._device import widest
from bridges._draw import Draws
from bridges._inversion import draw_from_weights
from bridges._shapes import as_integer
from bridges.preconditioning import TokenPreconditioning
from bridges.token_process import BITS, TokenProcess, above_0


class MatrixProcess(TokenProcess):
    """A process on tokens that is given by rows and columns of its transition matrices.

    Matrices are formed once per time, never per token, unless every token has a time of its own.
    """

    @abstractmethod
    def _row(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return P_{s→t}[x, :] in float64, shape `(*B, S)`."""

    @abstractmethod
    def _column(self, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return P_{s→t}[:, y] in float64, shape `(*B, S)`."""

    @abstractmethod
    def _moved(self, p: Tensor, t: Tensor) -> Tensor:
        """Return p P_{0→t}, the law at t of weights p of x_0, shape `(*B, S)`."""

    @abstractmethod
    def _unchanged(self, t: Tensor) -> Tensor:
        """Return how many tokens stay x_0, on average over x_0: a share that never rises again.

        It is the mean of P_{0→t}[x, x] where that falls; what comes back by chance is not counted.
        """

    # ---------------------------------------------------------------- laws

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform((*x.shape, 1), widest(x.device), x.device)
        return draw_from_weights(self._row(x, s, t), u)

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        u = draws.uniform((*x_t.shape, 1), widest(x_t.device), x_t.device)
        weights = self._between_ends(x_0, x_t, s, t)
        possible = (weights > 0).any(-1)
        return torch.where(possible, draw_from_weights(weights, u), x_t)

    def _between_ends(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return self._row(x_0, _start(t), s) * self._column(x_t, s, t)

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        probs = self._row(x_0, s, t).gather(-1, x_t.unsqueeze(-1)).squeeze(-1)
        return probs.log().to(torch.get_default_dtype())

    def _bridge_probs(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        weights = self._between_ends(x_0, x_t, s, t)
        total = weights.sum(-1, keepdim=True)
        law = weights / above_0(total)
        return torch.where(total > 0, law, functional.one_hot(x_t, self.states).to(law))

    def _reverse_probs(self, p: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        evidence = self._evidence(x_t, t)
        kept = p * (evidence > 0)
        # Where x_t rules out every x_0 that p knows, it is carried over.
        total = kept.sum(-1, keepdim=True)
        ratio = kept / above_0(evidence * total)
        law = self._moved(functional.pad(ratio, (0, self.states - self.k)), s)
        law = law * self._column(x_t, s, t)
        return torch.where(total > 0, law, functional.one_hot(x_t, self.states).to(law))

    # ---------------------------------------------------------------- predictions

    def _evidence(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return P(x_t | x_0) for every x_0, shape `(*B, K)`."""
        return self._column(x_t, _start(t), t)[..., : self.k]

    def _weighed(self, logits: Tensor, x_t: Tensor, t: Tensor, sign: int) -> Tensor:
        evidence = above_0(self._evidence(x_t, t))
        return logits + (sign * evidence.log()).to(logits.dtype)

    def _known(self, logits: Tensor, x_t: Tensor, t: Any) -> Tensor:
        evidence = self._evidence(x_t, t)
        ruled_out = logits + math.log(torch.finfo(evidence.dtype).tiny)
        return torch.where(evidence > 0, logits, ruled_out)

    def _preconditioning(self, t: Tensor, var_x: Tensor | None) -> TokenPreconditioning:
        """Return that with the odds of having changed, averaged over x_0."""
        changed = (1 - self._unchanged(t)).clamp(0, 1)
        return TokenPreconditioning(torch.log(changed) - torch.log1p(-changed))

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return :math:`\sqrt{c\,(1 - 1/K)}`/1.44, where c is the share of tokens that changed.

        For uniform jumps, :math:`c = (1 - e^{-\beta t})(1 - 1/K)`, this is Diffusions.jl's scaler.
        """
        changed = 1 - self._unchanged(t)
        return (changed.clamp(min=0) * (1 - 1 / self.k)).sqrt() / BITS


def _start(t: Tensor) -> Tensor:
    return torch.zeros((), dtype=t.dtype, device="cpu")


def rows(matrices: Tensor, x: Tensor) -> Tensor:
    """Take row x of a matrix per time, `(*times, S, S)`, whose times broadcast with x: `(*B, S)`.

    >>> rows(torch.eye(2).expand(3, 1, 2, 2), torch.zeros(3, 4, dtype=torch.int64)).shape
    torch.Size([3, 4, 2])
    """
    times, states = matrices.shape[:-2], matrices.shape[-1]
    first = torch.arange(times.numel(), device=x.device).reshape(times) * states
    # An index of no dimension would be read from the device; that of an embedding is not.
    return functional.embedding(first + x, matrices.reshape(-1, states))


def move(p: Tensor, matrices: Tensor) -> Tensor:
    """Multiply row vectors `(*B, S)` with a matrix per time, whose times lead B or broadcast."""
    times, states = matrices.shape[:-2].numel(), p.shape[-1]
    each = p[..., 0].numel() // max(times, 1)
    moved = p.reshape(times, each, states) @ matrices.reshape(times, states, states)
    return moved.reshape(p.shape)


def clean_states(real: int | None, states: int) -> int:
    """Return K, how many of the states x_0 may take, or raise."""
    if real is None:
        return states
    return as_integer(real, "real", 1, states)

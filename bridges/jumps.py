r"""Tokens that forget their value and land on a fresh draw from π: one family of processes.

At rate β a token jumps: it takes a fresh draw from π, which may be the state it left, so the rate
counts *events*, not substitutions. With :math:`\alpha_t = e^{-\beta t}`,

.. math:: P(x_t \mid x_0) = \alpha_t\,1[x_t = x_0] + (1 - \alpha_t)\,\pi(x_t) .

The bridge given x_0 = x and x_t = y, with :math:`a = \alpha_t/\alpha_s`, is exact and costs the
same for every K. If x ≠ y it keeps x, takes y, or draws afresh from π, with probabilities

.. math::
    \frac{\alpha_s - \alpha_t}{1 - \alpha_t}, \qquad \frac{(1 - \alpha_s)\,a}{1 - \alpha_t}, \qquad
    \frac{(1 - \alpha_s)(1 - a)}{1 - \alpha_t} ;

if x = y it draws afresh with probability :math:`(1 - \alpha_s)(1 - a)\,\pi_y / (\alpha_t + (1 -
\alpha_t)\pi_y)` and stays otherwise. One uniform number decides both whether to draw and what.

Where :math:`\pi_y = 0`, y has not jumped and x_0 is y for certain. A guess that says otherwise is
not believed: y is carried over, in the bridge and in `endpoint`, and has no error.

The leave-one-out law and the posterior differ in one logit, that of y, by :math:`\log(1 +
\alpha_t/((1 - \alpha_t)\,\pi_y))`.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bridges._device import widest
from bridges._draw import Draws
from bridges.preconditioning import TokenPreconditioning
from bridges.token_process import BITS, TokenProcess, above_0


class IndependentJumps(TokenProcess):
    """Tokens that jump to a fresh draw from π, each at its own times; see the module."""

    rate: float

    @abstractmethod
    def _pi(self, token: Tensor) -> Tensor:
        """Return π of each token, in float64 and broadcasting with the tokens."""

    @abstractmethod
    def _quantile(self, u: Tensor) -> Tensor:
        """Map numbers uniform in [0, 1) to tokens distributed as π; others to any tokens."""

    @property
    @abstractmethod
    def _moving(self) -> float:
        """The share of jumps that change a token, or what Diffusions.jl takes for it."""

    def _jumped(self, t: Tensor) -> Tensor:
        """Return 1 − α_t, the probability to have jumped."""
        return -torch.expm1(-self.rate * t)

    # ---------------------------------------------------------------- the bridge

    def _shares(self, pi: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the probabilities of the bridge, for x_t = y with π(y) = `pi`.

        Where x_0 ≠ x_t: to draw afresh, to take x_t and to keep x_0. Where x_0 = x_t: to draw
        afresh. Where x_0 ≠ x_t has probability 0, x_t is taken.
        """
        jumped_s, jumped, jumped_t = (self._jumped(u).to(pi.dtype) for u in (s, t - s, t))
        stayed_s, stayed, stayed_t = (
            torch.exp(-self.rate * u).to(pi.dtype) for u in (s, t - s, t)
        )
        possible = (pi > 0) & (jumped_t > 0)
        share, both = possible / above_0(jumped_t), jumped_s * jumped
        take = torch.where(possible, jumped_s * stayed * share, 1.0)
        keep = stayed_s * jumped * share
        evidence = stayed_t + jumped_t * pi
        return both * share, take, keep, both * pi / above_0(evidence)

    def _weights(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities to draw afresh and to take x_t; the rest keeps x_0."""
        fresh, take, _, again = self._shares(self._pi(x_t), s, t)
        same = x_0 == x_t
        return torch.where(same, again, fresh), torch.where(same, 0.0, take)

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        fresh, take = self._weights(x_0, x_t, s, t)
        u = draws.uniform(x_t.shape, widest(x_t.device), x_t.device)
        x_s = torch.where(u < fresh + take, x_t, x_0)
        return torch.where(u < fresh, self._quantile(u / fresh), x_s)

    def _bridge_probs(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        at_0 = functional.one_hot(x_0, self.k).to(widest(x_0.device))
        return self._reverse_probs(at_0, x_t, s, t)

    def _reverse_probs(self, p: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        # y is told apart: x_0 is y with probability w, and what keeps x_0 keeps the others.
        y, pi, (s, t) = x_t.unsqueeze(-1), self._pi(x_t).unsqueeze(-1), _columns(s, t)
        p = functional.pad(p, (0, self.states - self.k))
        w = p.gather(-1, y)
        others = p.scatter(-1, y, 0.0)
        fresh, take, keep, again = self._shares(pi, s, t)
        drawn = (1 - w) * fresh + w * again
        law = keep * others + drawn * self._pi(torch.arange(self.states, device=x_t.device))
        return law.scatter_add(-1, y, ((1 - w) * take + w * (1 - again)).expand_as(w))

    # ---------------------------------------------------------------- other laws

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        jumped = self._jumped(t - s)
        u = draws.uniform(x.shape, widest(x.device), x.device)
        return torch.where(u < jumped, self._quantile(u / jumped), x)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self._quantile(draws.uniform(shape, widest(device), device))

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        pi = self._pi(x_t)
        stayed = torch.exp(-self.rate * (t - s)).to(pi.dtype)
        stayed = torch.where(x_t == x_0, stayed, 0.0)
        jumped = self._jumped(t - s).to(pi.dtype) * pi
        return torch.log(stayed + jumped).to(torch.get_default_dtype())

    # ---------------------------------------------------------------- predictions

    def _weighed(self, logits: Tensor, x_t: Tensor, t: Tensor, sign: int) -> Tensor:
        pi = self._pi(x_t)
        drawn = above_0(self._jumped(t).to(pi.dtype) * pi)
        odds = torch.log1p(torch.exp(-self.rate * t).to(pi.dtype) / drawn)
        clean = torch.where(x_t < self.k, sign * odds, 0.0).to(logits.dtype)
        at_y = x_t.clamp(max=self.k - 1).unsqueeze(-1)
        return logits.scatter_add(-1, at_y, clean.unsqueeze(-1))

    def _is_told(self, x_t: Tensor) -> Tensor:
        """Whether x_t is x_0 for certain: nothing jumps there."""
        return (self._pi(x_t) == 0) & (x_t < self.k)

    def _preconditioning(self, t: Tensor, var_x: Tensor | None) -> TokenPreconditioning:
        """Return that with the odds of having jumped."""
        return TokenPreconditioning(torch.log(self._jumped(t)) + self.rate * t)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return √(1 − e^{−βt}) · m / 1.44, Diffusions.jl's scaler.

        The root is the share of tokens that jumped; m is (K − 1)/K for every π, as there (which
        is the share of jumps that change a token for a uniform π), and that share itself where
        there is a mask; and 1.44 = 1/ln 2 turns nats into bits. Here 1.44 is exactly 1/ln 2.
        """
        return self._jumped(t).sqrt() * (self._moving / BITS)


def _columns(*times: Tensor) -> tuple[Tensor, ...]:
    """Append a dimension, for the states, to times that have any."""
    return tuple(t if t.ndim == 0 else t.unsqueeze(-1) for t in times)

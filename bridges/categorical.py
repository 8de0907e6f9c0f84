"""Tokens with independent jumps: to any state, to a mask, or both; see `jumps` for their laws."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws
from bridges._shapes import Constant, as_number, positive
from bridges._tables import count, law
from bridges.jumps import IndependentJumps
from bridges.token_process import above_0


@final
@dataclass(frozen=True)
class UniformDiscreteDiffusion(IndependentJumps):
    r"""Tokens that jump to a uniform draw from all K states. Exact.

    .. math:: Q = \beta\,(\tfrac1K \mathbf 1 \mathbf 1^T - I)

    A substitution, a jump to another state, happens at rate :math:`\beta (K-1)/K`.

    References:
        Austin et al., Structured denoising diffusion models in discrete state-spaces, 2021.

    Args:
        rate: β, jumps per unit of time, positive; see `from_substitution_rate` for the other unit.
        k: K, the number of states, at least 2.

    Raises:
        TypeError, ValueError: if the rate is not a positive number or k not an integer from 2 up.

    >>> process = UniformDiscreteDiffusion(0.5, 20)
    >>> x_0 = torch.zeros(2, 5, dtype=torch.int64)
    >>> x_t = process.sample_forward(x_0, torch.tensor([0.1, 3.0]))
    >>> x_t.shape, x_t.dtype
    (torch.Size([2, 5]), torch.int64)
    """

    rate: float
    k: int

    def __post_init__(self) -> None:
        positive(self.rate, "rate")
        object.__setattr__(self, "k", count(self.k))

    @classmethod
    def from_substitution_rate(cls, rate: float, k: int) -> Self:
        r"""Return the process that changes a token `rate` times per unit of time on average.

        Args:
            rate: substitutions per unit of time; :math:`\beta = rate \cdot K/(K - 1)` events.
            k: K, the number of states, at least 2.

        >>> UniformDiscreteDiffusion.from_substitution_rate(0.75, 4)
        UniformDiscreteDiffusion(rate=1.0, k=4)
        """
        k = count(k)
        return cls(positive(rate, "rate") * k / (k - 1), k)

    def _pi(self, token: Tensor) -> Tensor:
        return torch.full((), 1 / self.k, dtype=widest(token.device), device=token.device)

    def _quantile(self, u: Tensor) -> Tensor:
        return (u * self.k).to(torch.int64).clamp_(0, self.k - 1)

    @property
    def _moving(self) -> float:
        return (self.k - 1) / self.k


class TableJumps(IndependentJumps):
    """Tokens that jump to a fresh draw from a table of probabilities."""

    _table: Constant
    _cdf: Constant

    def _set(self, table: Tensor) -> None:
        """Keep π of all S states, and its running sum, which ends at 1 exactly."""
        cdf = table.cumsum(-1)
        object.__setattr__(self, "_table", Constant(table))
        object.__setattr__(self, "_cdf", Constant(cdf / cdf[-1]))

    def _pi(self, token: Tensor) -> Tensor:
        return self._table.on(token.device).take(token)

    def _quantile(self, u: Tensor) -> Tensor:
        cdf = self._cdf.on(u.device)
        return torch.searchsorted(cdf, u, right=True).clamp_(max=len(cdf) - 1)


@final
@dataclass(frozen=True, eq=False)
class IndependentDiscreteDiffusion(TableJumps):
    r"""Tokens that jump to a draw from any law π of the K states, such as that of the data. Exact.

    .. math:: Q = \beta\,(\mathbf 1 \pi^T - I)

    The prior is π. A token jumps to another state at rate :math:`\beta (1 - \sum_k \pi_k^2)` on
    average over π. A state with :math:`\pi_k = 0` may be x_0, but nothing jumps to it.

    References:
        Vignac et al., DiGress: discrete denoising diffusion for graph generation, 2023 (marginal
        noise).

    Args:
        rate: β, jumps per unit of time, positive; see `from_substitution_rate` for the other unit.
        pi: π, weights of the states, shape (K,), K at least 2, none negative; they are divided by
            their sum.

    Raises:
        TypeError, ValueError: if the rate is not a positive number or π not a law.

    >>> process = IndependentDiscreteDiffusion(1.0, [0.5, 0.3, 0.2])
    >>> process.log_prob(torch.tensor(1), torch.tensor(0), 100.0).exp()
    tensor(0.3000)
    """

    rate: float
    pi: Sequence[float] | Tensor
    k: int = field(init=False)
    _table: Constant = field(init=False, repr=False)
    _cdf: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        positive(self.rate, "rate")
        pi = law(self.pi)
        object.__setattr__(self, "pi", pi)
        object.__setattr__(self, "k", len(pi))
        self._set(pi)

    @classmethod
    def from_substitution_rate(cls, rate: float, pi: Sequence[float] | Tensor) -> Self:
        r"""Return the process that changes a token `rate` times per unit of time on average.

        The average is over π, the law that the process keeps. ForwardBackward.jl counts so.

        Args:
            rate: substitutions per unit of time; :math:`\beta = rate/(1 - \sum_k \pi_k^2)` events.
            pi: π, shape (K,).

        Raises:
            ValueError: if π has all its mass on one state, where there is no substitution.

        >>> IndependentDiscreteDiffusion.from_substitution_rate(1.24, [0.5, 0.3, 0.2]).rate
        2.0
        """
        table = law(pi)
        if bool(table.max() == 1):
            raise ValueError("Expected pi to have mass on more than one state; got one.")
        return cls(positive(rate, "rate") / float((table * (1 - table)).sum()), pi)

    @property
    def _moving(self) -> float:
        return (self.k - 1) / self.k


@final
@dataclass(frozen=True)
class MaskingDiscreteDiffusion(IndependentJumps):
    r"""Tokens that jump to a mask, and stay there. Exact.

    .. math:: P(x_t = x_0) = e^{-\beta t}, \qquad P(x_t = \text{mask}) = 1 - e^{-\beta t}

    The mask is state K: it may stand in x_t but not in x_0, and logits are of the K real states.
    The prior is all masks. A reverse step reveals a mask with probability :math:`(\alpha_s -
    \alpha_t)/(1 - \alpha_t)`, and a revealed token carries over, whatever is guessed for it: if
    `error` is given x_t, it has no error either. A jump changes its token, so here an event is a
    substitution.

    References:
        Austin et al., Structured denoising diffusion models in discrete state-spaces, 2021
        (absorbing state).
        Sahoo et al., Simple and effective masked diffusion language models, 2024.
        Shi et al., Simplified and generalized masked diffusion for discrete data, 2024.

    Args:
        rate: β, jumps per unit of time, positive; with rate 1 on `LogLinearClock` the share of
            masks is linear in t.
        k: K, the number of real states, at least 2.

    Raises:
        TypeError, ValueError: if the rate is not a positive number or k not an integer from 2 up.

    >>> MaskingDiscreteDiffusion(1.0, 20).sample_prior((3,))
    tensor([20, 20, 20])
    """

    rate: float
    k: int

    def __post_init__(self) -> None:
        positive(self.rate, "rate")
        object.__setattr__(self, "k", count(self.k))

    @property
    def states(self) -> int:
        """S = K + 1, the real states and the mask."""
        return self.k + 1

    def _pi(self, token: Tensor) -> Tensor:
        return (token == self.k).to(widest(token.device))

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.k, dtype=torch.int64)

    @property
    def _moving(self) -> float:
        return 1.0

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        u = draws.uniform(x.shape, widest(x.device), x.device)
        return torch.where(u < self._jumped(t - s), self.k, x)

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        reveal = torch.exp(-self.rate * s) * self._jumped(t - s) / above_0(self._jumped(t))
        u = draws.uniform(x_t.shape, widest(x_t.device), x_t.device)
        return torch.where((x_t == self.k) & (u < reveal), x_0, x_t)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.full(shape, self.k, dtype=torch.int64, device=device)


@final
@dataclass(frozen=True, eq=False)
class MixtureDiscreteDiffusion(TableJumps):
    r"""Tokens that jump to a mask with probability m, else to a draw from π. Exact.

    .. math:: Q = \beta\,\big(\mathbf 1\,[(1 - m)\,\pi,\; m]^T - I\big)

    The mask is state K: it may stand in x_t but not in x_0, and logits are of the K real states. A
    mask may jump back to a token, so a revealed token may be wrong and is changed later. The prior
    is the law of one jump.

    References:
        von Rütte et al., Generalized interpolating discrete diffusion, 2025 (there m varies with
        time).

    Args:
        rate: β, jumps per unit of time, positive; it counts events.
        pi: π, shape (K,), as for `IndependentDiscreteDiffusion`.
        mask: m, 0 ≤ m ≤ 1; 1 is `MaskingDiscreteDiffusion`.

    Raises:
        TypeError, ValueError: if the rate is not positive, π not a law or m not in [0, 1].

    >>> process = MixtureDiscreteDiffusion(1.0, [0.5, 0.3, 0.2], mask=0.9)
    >>> process.k, process.states
    (3, 4)
    """

    rate: float
    pi: Sequence[float] | Tensor
    mask: float
    k: int = field(init=False)
    _table: Constant = field(init=False, repr=False)
    _cdf: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        positive(self.rate, "rate")
        pi = law(self.pi)
        if not 0 <= as_number(self.mask, "mask") <= 1:
            raise ValueError(f"Expected mask to lie in [0, 1]; got {self.mask!r}.")
        object.__setattr__(self, "pi", pi)
        object.__setattr__(self, "k", len(pi))
        self._set(torch.cat([(1 - self.mask) * pi, pi.new_tensor([self.mask])]))

    @property
    def states(self) -> int:
        """S = K + 1, the real states and the mask."""
        return self.k + 1

    @property
    def _moving(self) -> float:
        return 1 - (1 - self.mask) * float(torch.as_tensor(self.pi).square().sum())

"""Tokens that move at any rates: residues that are exchanged, levels with neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws
from bridges._rate_matrix import Exponential, Spectral, exponential, rate_matrix, stationary
from bridges._shapes import Constant, describe, positive
from bridges._tables import count, law, square
from bridges.transition import MatrixProcess, clean_states, move, rows


@final
@dataclass(frozen=True, eq=False)
class GeneralDiscreteDiffusion(MatrixProcess):
    r"""Tokens that go from state to state at the rates of any matrix Q. Exact.

    .. math:: P(x_t \mid x_s) = \big(e^{Q (t - s)}\big)_{x_s x_t}

    For up to a few hundred states: a time costs one K × K exponential, a token K numbers. Rates
    with detailed balance are exponentiated by their eigenvectors, others by their jumps; the first
    are faster where every example has its own time. `UniformDiscreteDiffusion` and its like need
    no matrix.

    The prior is the law that Q keeps, :math:`\pi Q = 0`; where it keeps several, drawing from it
    raises.

    References:
        Campbell et al., A continuous time framework for discrete denoising models, 2022.

    Args:
        rates: Q, shape (S, S), per unit of time: off the diagonal the rate to go from row to
            column, not negative, with rows that sum to 0 within 10⁻⁶ of the largest.
        real: K, the number of states that x_0 may take, the first ones; None for all.

    Raises:
        TypeError: if the rates are not numbers.
        ValueError: if they are not the rates of a matrix as above, or `real` not from 1 to S.

    >>> process = GeneralDiscreteDiffusion([[-2.0, 2.0, 0.0], [0.0, -1.0, 1.0], [1.0, 0.0, -1.0]])
    >>> process.log_prob(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]), 100.0).exp()
    tensor([0.2000, 0.4000, 0.4000])
    """

    rates: Sequence[Sequence[float]] | Tensor
    real: int | None = None
    k: int = field(init=False, repr=False)
    _exponential: Exponential = field(init=False, repr=False)
    _cdf: Constant | None = field(init=False, repr=False)
    _leaving: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rates = rate_matrix(self.rates)
        pi = stationary(rates)
        found = {
            "rates": rates,
            "k": clean_states(self.real, len(rates)),
            "_exponential": exponential(rates, pi),
            "_leaving": Constant(-rates.diag()),
            "_cdf": None if pi is None else Constant(pi.cumsum(0) / pi.sum()),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    # ---------------------------------------------------------------- named matrices

    @classmethod
    def ordinal(cls, k: int, rate: float) -> Self:
        r"""Return the walk over K ordered levels, such as those of a pixel, in steps of one.

        .. math:: Q_{i, i \pm 1} = \beta

        The ends reflect: they have one neighbour. Away from them the variance of a level grows by
        2β per unit of time, so :math:`\beta \approx K^2` forgets x_0 in one. It is the continuous
        form of D3PM's discretised Gaussian. The prior is uniform.

        Args:
            k: K, the number of levels, at least 2.
            rate: β, jumps per unit of time to each neighbour, positive.

        >>> GeneralDiscreteDiffusion.ordinal(3, 2.0).rates[1]
        tensor([ 2., -4.,  2.], dtype=torch.float64)
        """
        beside = torch.ones(count(k) - 1, dtype=torch.float64, device="cpu").diag(1)
        rates = positive(rate, "rate") * (beside + beside.T)
        return cls(rates - rates.sum(1).diag())

    @classmethod
    def from_exchangeabilities(
        cls, s: Sequence[Sequence[float]] | Tensor, pi: Sequence[float] | Tensor, rate: float
    ) -> Self:
        r"""Return the process of a substitution model such as WAG or LG, or of nucleotides.

        .. math:: Q_{ij} = c\,s_{ij}\,\pi_j \quad (i \ne j), \qquad
            c: \; -\sum_i \pi_i Q_{ii} = rate

        Detailed balance holds, and the prior is π.

        References:
            Whelan & Goldman, A general empirical model of protein evolution, 2001.
            Le & Gascuel, An improved general amino acid replacement matrix, 2008.

        Args:
            s: exchangeabilities, shape (K, K), symmetric, not negative; the diagonal is not used.
            pi: π, frequencies, shape (K,).
            rate: substitutions per unit of time, on average over π; positive.

        Raises:
            ValueError: if the exchangeabilities are not symmetric, or not of the shape of π.
        """
        exchange, table = square(s, "s"), law(pi)
        exchange = exchange - exchange.diag().diag()
        if bool((exchange < 0).any()):
            raise ValueError(f"Expected s to be at least 0; got {exchange.min().item():.9g}.")
        if len(exchange) != len(table):
            raise ValueError(f"Expected pi to have {len(exchange)} states; got {len(table)}.")
        if bool(((exchange - exchange.T).abs() > 1e-6 * exchange.abs().max()).any()):
            raise ValueError(f"Expected s to be symmetric; got {describe(s)} that is not.")
        flow = (exchange + exchange.T) / 2 * table
        total = float(table @ flow.sum(1))
        if total <= 0:
            raise ValueError("Expected s to exchange some states; got 0 for all.")
        return cls(positive(rate, "rate") / total * (flow - flow.sum(1).diag()))

    # ---------------------------------------------------------------- hooks

    @property
    def states(self) -> int:
        """S, the number of states of the matrix."""
        return len(self.rates)

    def _row(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return rows(self._exponential(t - s, x.device), x)

    def _column(self, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return rows(self._exponential(t - s, y.device).mT, y)

    def _moved(self, p: Tensor, t: Tensor) -> Tensor:
        return move(p, self._exponential(t, p.device))

    def _unchanged(self, t: Tensor) -> Tensor:
        if isinstance(self._exponential, Spectral):
            matrices = self._exponential(t, t.device)
            stays = matrices.diagonal(dim1=-2, dim2=-1)
        else:  # without detailed balance tokens may go round and come back: who never left?
            leaving = self._leaving.on(t.device)
            stays = torch.exp(-leaving * t.unsqueeze(-1))
        return stays[..., : self.k].mean(-1)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        if self._cdf is None:
            raise NotImplementedError("Expected rates that keep one law, to draw from it.")
        u = draws.uniform(shape, widest(device), device)
        return torch.searchsorted(self._cdf.on(device), u, right=True).clamp_(max=self.states - 1)

"""Tokens that move in discrete steps, by one matrix a step: D3PM."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, final

import torch
from torch import Tensor
from torch.nn import functional

from bridges._device import widest
from bridges._draw import Draws
from bridges._shapes import Constant, kept, on_host
from bridges._tables import as_table, count, laws, square
from bridges.transition import MatrixProcess, clean_states, move, rows

WHOLE: Final = 1e-3
"""How far from an integer a time may be: float32 times on a clock such as `LinearClock(T)` are."""


@final
@dataclass(frozen=True, eq=False)
class DiscreteTimeDiffusion(MatrixProcess):
    r"""Tokens that take T steps, each by a matrix of its own. Exact.

    .. math:: P_{s \to t} = Q_{s+1}\,Q_{s+2} \cdots Q_t

    Times are the integers from 0 to T, to within 10⁻³, also on a clock such as `LinearClock(T)`,
    which brings T steps to [0, 1]. Products from time 0, and of blocks of 2, 4, 8, … steps, are
    made when first needed; with the steps themselves, about 3T matrices in float64 are kept.

    The prior is the law of x_T averaged over an x_0 that is uniform over the K states: x_T
    remembers its x_0 unless the steps are strong enough.

    References:
        Austin et al., Structured denoising diffusion models in discrete state-spaces, 2021.

    Args:
        matrices: Q_1, …, Q_T, shape (T, S, S), from row to column: none negative, with rows that
            sum to 1 within 10⁻⁶; they are divided by their sums.
        real: K, the number of states that x_0 may take, the first ones; None for all.

    Raises:
        TypeError: if the matrices are not numbers.
        ValueError: if they are not as above, or `real` is not from 1 to S.

    >>> process = DiscreteTimeDiffusion.uniform([0.1, 0.2, 0.3], k=5)
    >>> x_0 = torch.zeros(4, dtype=torch.int64)
    >>> x_t = process.sample_forward(x_0, 3)
    >>> process.sample_bridge(x_0, x_t, 1, 3).shape
    torch.Size([4])
    """

    matrices: Sequence[Any] | Tensor
    real: int | None = None
    k: int = field(init=False, repr=False)
    _steps: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        matrices = laws(square(self.matrices, "matrices", 3), "matrices")
        object.__setattr__(self, "matrices", matrices)
        object.__setattr__(self, "k", clean_states(self.real, matrices.shape[-1]))
        object.__setattr__(self, "_steps", Constant(matrices))

    # ---------------------------------------------------------------- named matrices

    @classmethod
    def uniform(cls, betas: Sequence[float] | Tensor, k: int) -> Self:
        r"""Return D3PM's uniform steps: with probability β a token takes a uniform draw.

        .. math:: Q_t = (1 - \beta_t)\,I + \tfrac{\beta_t}{K} \mathbf 1 \mathbf 1^T

        `UniformDiscreteDiffusion` has this law at all times, with :math:`e^{-\tau(t)} = \prod (1 -
        \beta)`, and no matrices.

        Args:
            betas: β_1, …, β_T, in (0, 1].
            k: K, the number of states, at least 2.
        """
        one = torch.eye(count(k), dtype=torch.float64, device="cpu")
        return cls(torch.lerp(one, torch.full_like(one, 1 / k), _betas(betas)))

    @classmethod
    def absorbing(cls, betas: Sequence[float] | Tensor, k: int) -> Self:
        r"""Return D3PM's absorbing steps: with probability β a token becomes the mask, state K.

        .. math:: Q_t = (1 - \beta_t)\,I + \beta_t\,\mathbf 1 e_K^T

        `MaskingDiscreteDiffusion` has this law at all times, with :math:`e^{-\tau(t)} = \prod (1 -
        \beta)`, and no matrices.

        Args:
            betas: β_1, …, β_T, in (0, 1].
            k: K, the number of states without the mask, at least 2.
        """
        one = torch.eye(count(k) + 1, dtype=torch.float64, device="cpu")
        return cls(torch.lerp(one, one[-1].expand_as(one), _betas(betas)), real=k)

    @classmethod
    def gaussian(cls, betas: Sequence[float] | Tensor, k: int) -> Self:
        r"""Return D3PM's discretised Gaussian steps, for K ordered levels such as a pixel's.

        .. math:: Q_t[i, j] = \frac{\exp\big({-4 (i - j)^2}/{((K - 1)^2 \beta_t)}\big)}
            {\sum_{n=-(K-1)}^{K-1} \exp\big({-4 n^2}/{((K - 1)^2 \beta_t)}\big)} \quad (i \ne j)

        The diagonal makes the rows sum to 1, and the law that all steps keep is uniform.

        References:
            Austin et al., Structured denoising diffusion models in discrete state-spaces, 2021,
            equation (8).

        Args:
            betas: β_1, …, β_T, in (0, 1].
            k: K, the number of levels, at least 2.
        """
        level = torch.arange(count(k), dtype=torch.float64, device="cpu")
        apart = (level.unsqueeze(1) - level).square()
        weight = torch.exp(-4 * apart / ((k - 1) ** 2 * _betas(betas)))
        all_shifts = 2 * weight[:, :1].sum(-1, keepdim=True) - 1
        steps = weight / all_shifts
        steps.diagonal(dim1=-2, dim2=-1).zero_()
        return cls(steps + torch.diag_embed(1 - steps.sum(-1)))

    # ---------------------------------------------------------------- products

    @property
    def states(self) -> int:
        """S, the number of states of the matrices."""
        return int(torch.as_tensor(self.matrices).shape[-1])

    @kept
    def _from_0(self) -> Constant:
        """P_{0→t} for t = 0, …, T."""
        products = [torch.eye(self.states, dtype=torch.float64, device="cpu")]
        for step in torch.as_tensor(self.matrices):
            products.append(products[-1] @ step)
        return Constant(torch.stack(products))

    @kept
    def _blocks(self) -> list[Constant]:
        """The products of 2^j steps from every multiple of 2^j, for j = 0, 1, …."""
        level = torch.as_tensor(self.matrices)
        blocks = [self._steps]
        while len(level) > 1:
            even = len(level) // 2 * 2
            level = level[0:even:2] @ level[1:even:2]
            blocks.append(Constant(level))
        return blocks

    def _pieces(self, s: Tensor, t: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Cut the steps from s to t into blocks: yield each level, the block and if it is used.

        Blocks grow until they would overshoot t, and then shrink.
        """
        s, levels = s + torch.zeros_like(t), range(len(self._blocks))
        for level in levels:
            used = (s + 2**level <= t) & (s % 2 ** (level + 1) > 0)
            yield level, s >> level, used
            s = s + used * 2**level
        for level in reversed(levels):
            used = s + 2**level <= t
            yield level, s >> level, used
            s = s + used * 2**level

    def _product(self, s: Tensor, t: Tensor, device: torch.device) -> Tensor:
        """Return P_{s→t} for two times on the host."""
        s, t = s.round().long(), t.round().long()
        if s == 0:
            return self._from_0.on(device)[t]
        product = torch.eye(self.states, dtype=widest(device), device=device)
        for level, block, used in self._pieces(s, t):
            if used:
                product = product @ self._blocks[level].on(device)[block]
        return product

    # ---------------------------------------------------------------- hooks

    def _row(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        if on_host(s, t):
            return rows(self._product(s, t, x.device), x)
        if on_host(s) and s.item() == 0:
            return self._gathered(self._from_0.on(x.device), t, x)
        row = functional.one_hot(x, self.states).to(widest(x.device))
        for level, block, used in self._pieces(*_whole(x, s, t)):
            row = torch.where(used.unsqueeze(-1), move(row, self._at(level, block)), row)
        return row

    def _column(self, y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        if on_host(s, t):
            return rows(self._product(s, t, y.device).mT, y)
        if on_host(s) and s.item() == 0:
            return self._gathered(self._from_0.on(y.device).mT, t, y)
        column = functional.one_hot(y, self.states).to(widest(y.device))
        for level, block, used in reversed(list(self._pieces(*_whole(y, s, t)))):
            moved = move(column, self._at(level, block).mT)
            column = torch.where(used.unsqueeze(-1), moved, column)
        return column

    def _gathered(self, table: Tensor, t: Tensor, x: Tensor) -> Tensor:
        """Take row x of the matrix number t of a table, with no copy of the matrices."""
        (t,) = _whole(x, t)
        found = table[t.expand_as(x).reshape(-1), x.reshape(-1)]
        return found.reshape(*x.shape, self.states)

    def _at(self, level: int, block: Tensor) -> Tensor:
        table = self._blocks[level].on(block.device)
        return _picked(table, block.clamp(max=len(table) - 1))

    def _moved(self, p: Tensor, t: Tensor) -> Tensor:
        return move(p, _picked(self._from_0.on(p.device), *_whole(p, t)))

    def _unchanged(self, t: Tensor) -> Tensor:
        return _picked(self._least_unchanged.on(t.device), *_whole(t, t))

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        cdf = self._last.on(device)
        u = draws.uniform(shape, widest(device), device)
        return torch.searchsorted(cdf, u, right=True).clamp_(max=self.states - 1)

    @kept
    def _least_unchanged(self) -> Constant:
        stays = self._from_0.on(torch.device("cpu")).diagonal(dim1=-2, dim2=-1)
        return Constant(stays[:, : self.k].mean(-1).cummin(0).values)

    @kept
    def _last(self) -> Constant:
        cdf = self._from_0.on(torch.device("cpu"))[-1, : self.k].mean(0).cumsum(0)
        return Constant(cdf / cdf[-1])

    def _check_time(self, t: Tensor, name: str) -> None:
        last = len(self.matrices)
        off = ((t - t.round()).abs() > WHOLE) | (t.round() > last)
        if bool(off.any()):
            raise ValueError(
                f"Expected the time {name} to be an integer from 0 to {last}; "
                f"got {t[off][0].item():.9g}."
            )


def _betas(betas: Sequence[float] | Tensor) -> Tensor:
    table = as_table(betas, "betas", 1)
    off = (table <= 0) | (table > 1)
    if bool(off.any()):
        raise ValueError(f"Expected betas to lie in (0, 1]; got {table[off][0].item():.9g}.")
    return table[:, None, None]


def _whole(x: Tensor, *times: Tensor) -> tuple[Tensor, ...]:
    """Return times as integers on the device of a state."""
    return tuple(t.round().long().to(x.device) for t in times)


def _picked(table: Tensor, index: Tensor) -> Tensor:
    """Index a table, also with no dimension, without reading the index from its device."""
    picked = table.index_select(0, index.reshape(-1))
    return picked.reshape((*index.shape, *table.shape[1:]))

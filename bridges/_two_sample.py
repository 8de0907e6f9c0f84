r"""Two-sample tests of laws: does one batch of states have the law of another?

States are seen through a view, real numbers (N, V), at one or two times; together they are the
columns. Every column is compared, and every pair of columns by its difference and product, in
standard units: by the Kolmogorov–Smirnov distance :math:`D = \sup|F - G|`, where
:math:`\sqrt{NM/(N+M)}\,D` has Kolmogorov's law for large N and M, the numbers of rows; and the
means of squares and products, in which a wrong variance shows first, by their standard error.
Columns with few values are compared by tables, and their pairs by pair tables: with n and m counts
in a cell, :math:`\sum (n\sqrt{M/N} - m\sqrt{N/M})^2/(n+m)` is χ² with one degree of freedom less
than there are cells. Rows may differ in their law, if both batches differ alike: the tests are
then only more cautious.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from bridges._shapes import State

P_MIN: Final = 1e-4
"""The probability that a right process is refused, over all comparisons together."""

COMPARISONS: Final = 14
"""The comparisons in one check of a process; each has an equal share of `P_MIN`."""

FEW: Final = 32
"""Columns with no more values than this are compared by tables."""

RARE: Final = 20
"""Cells of a table with fewer counts are put together."""

View: TypeAlias = Callable[[State], Tensor]
Reals: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]
Test: TypeAlias = tuple[str, float, float]


def at(times: Sequence[float]) -> str:
    """Name times for a message.

    >>> at((0.1, 2.0))
    'times 0.1 and 2'
    """
    return "times " + " and ".join(f"{t:.9g}" for t in times)


def compare(
    law: str,
    times: Sequence[float],
    view: View,
    first: Sequence[State],
    second: Sequence[State],
    names: Sequence[str] = ("x_s", "x_t"),
) -> None:
    """Raise where two batches of states differ in law.

    Args:
        law: the name of the law that says they do not.
        times: for the message.
        view: maps states to real numbers (N, V).
        first: states of N rows, one for each name.
        second: states of M rows, likewise.
        names: what to call the states.

    Raises:
        AssertionError: if a test gives a probability below its share of `P_MIN`.
    """
    a, b = _columns(view, first), _columns(view, second)
    labels = [f"{name}[{i}]" for name in names for i in range(len(a) // len(names))]
    tests = list(_tests(a, b, labels, len(names)))
    label, miss, p = min(tests, key=lambda test: test[2])
    if not p >= P_MIN / COMPARISONS / len(tests):
        raise AssertionError(
            f"Expected the {law} to hold at {at(times)}; the two laws of {label} are {miss:.3g} "
            f"apart, which has probability {p:.1g}."
        )


def _columns(view: View, states: Sequence[State]) -> Reals:
    columns = [view(x).detach().cpu().double().numpy() for x in states]
    if any(column.ndim != 2 for column in columns):
        raise ValueError(f"Expected view to return shape (N, V); got {columns[0].shape}.")
    return np.concatenate(columns, 1).T


def _tests(a: Reals, b: Reals, labels: list[str], states: int) -> Iterator[Test]:
    n = a.shape[1]
    both = np.concatenate([a, b], 1)
    codes = [_codes(column) for column in both]
    spread = both.std(1, keepdims=True)
    z = (both - both.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
    for label, code, column in zip(labels, codes, both, strict=True):
        yield _table(label, code, n) if code is not None else _ks(label, column, n)
    for label, column in zip(labels, z, strict=True):
        yield _mean(f"{label}²", column**2, n)
    for i, j in combinations(range(len(labels)), 2):
        code_i, code_j = codes[i], codes[j]
        if code_i is not None and code_j is not None:
            yield _table(f"the pair ({labels[i]}, {labels[j]})", code_i * FEW + code_j, n)
        else:
            yield _ks(f"{labels[i]} − {labels[j]}", z[i] - z[j], n)
            yield _ks(f"{labels[i]} · {labels[j]}", z[i] * z[j], n)
            yield _mean(f"{labels[i]} · {labels[j]}", z[i] * z[j], n)
    inner = both.reshape(states, -1, both.shape[1]).prod(0).sum(0)
    yield _ks("the inner product of the views", inner, n)


def _codes(column: Reals) -> Counts | None:
    """Number the values of a column, or return None where there are many."""
    if len(np.unique(column[:1000])) > FEW:
        return None
    values, codes = np.unique(column, return_inverse=True)
    return codes.astype(np.int64) if len(values) <= FEW else None


def _ks(label: str, column: Reals, n: int) -> Test:
    """Compare the first n entries with the others; NaN counts as a miss."""
    if not np.isfinite(column).all():
        return label, float("nan"), 0.0
    a, b = np.sort(column[:n]), np.sort(column[n:])
    at, m = np.concatenate([a, b]), len(b)
    above = np.searchsorted(a, at, "right") / n - np.searchsorted(b, at, "right") / m
    distance = float(np.abs(above).max())
    return label, distance, float(special.kolmogorov(distance * np.sqrt(n * m / (n + m))))


def _mean(label: str, column: Reals, n: int) -> Test:
    """Compare the means, by their difference over its standard error."""
    a, b = column[:n], column[n:]
    gap = float(a.mean() - b.mean())
    error = float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    return (
        f"the mean of {label}",
        abs(gap),
        float(special.erfc(abs(gap) / max(error, 1e-12) / 2**0.5)),
    )


def _table(label: str, codes: Counts, n: int) -> Test:
    a, b = (np.bincount(part, minlength=codes.max() + 1) for part in (codes[:n], codes[n:]))
    rare = a + b < RARE
    a, b = (np.append(counts[~rare], counts[rare].sum()) for counts in (a, b))
    a, b = a[a + b > 0], b[a + b > 0]
    ratio = (len(codes) - n) / n
    distance = 0.5 * float(np.abs(a - b / ratio).sum()) / n
    chi2 = float((ratio * (a - b / ratio) ** 2 / (a + b)).sum())
    return label, distance, float(special.chdtrc(max(len(a) - 1, 1), chi2))

"""A clock through given points, as a table of a schedule has them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from bridges._shapes import Constant
from bridges.clock import Clock
from bridges.grid import increasing_numbers


@final
@dataclass(frozen=True)
class TableClock(Clock):
    """The clock whose graph is the lines through given points; the last line goes on.

    Args:
        times: the times of the points, at least two, 0 first and increasing.
        values: τ at those times, as many, 0 first and increasing.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if there are too few, or not as many, or they do not increase from 0.

    >>> clock = TableClock([0.0, 1.0, 3.0], [0.0, 0.5, 4.5])
    >>> clock(torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64))
    tensor([0.2500, 2.5000, 6.5000], dtype=torch.float64)
    """

    times: Sequence[float] | Tensor
    values: Sequence[float] | Tensor
    _times: Constant = field(init=False, repr=False, compare=False)
    _values: Constant = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("times", "values"):
            points = increasing_numbers(getattr(self, name), name)
            if points[0] != 0:
                raise ValueError(f"Expected {name} to start at 0; got {points[0].item()}.")
            object.__setattr__(self, name, tuple(points.tolist()))
            object.__setattr__(self, f"_{name}", Constant(points))
        if (n := len(self.times)) != len(self.values):
            raise ValueError(f"Expected values to have length {n}; got {len(self.values)}.")

    def __call__(self, t: Tensor) -> Tensor:
        time, value, slope = piece(t, self._times, self._values)
        return value + slope * (t - time)

    def inverse(self, tau: Tensor) -> Tensor:
        value, time, slope = piece(tau, self._values, self._times)
        return time + slope * (tau - value)

    def derivative(self, t: Tensor) -> Tensor:
        return piece(t, self._times, self._values)[2]


def piece(x: Tensor, points: Constant, heights: Constant) -> tuple[Tensor, Tensor, Tensor]:
    """Return the start (x_i, y_i) and the slope of the line that lies over each x."""
    xs, ys = points.on(x.device), heights.on(x.device)
    i = torch.bucketize(x.contiguous(), xs[1:-1], right=True)
    x_i, y_i = xs.take(i), ys.take(i)
    return x_i, y_i, (ys.take(i + 1) - y_i) / (xs.take(i + 1) - x_i)

"""Tables of numbers that constructors take: laws, rates, matrices; what is not one raises."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bridges._shapes import as_integer, describe


def count(k: object, name: str = "k") -> int:
    """Return a number of states, at least 2, or raise."""
    return as_integer(k, name, 2)


def as_table(values: object, name: str, ndim: int) -> Tensor:
    """Return finite numbers as a float64 tensor of that many dimensions on the CPU, or raise.

    Args:
        values: a real tensor, or a sequence (of sequences) of numbers, or of tensors.
        name: what to call it in an error message.
        ndim: the dimensions it must have, none of them of size 0.
    """
    table = _as_tensor(values, name)
    if table.ndim != ndim or table.numel() == 0:
        raise ValueError(
            f"Expected {name} to have {ndim} dimension{'s'[: ndim - 1]}; "
            f"got shape {tuple(table.shape)}."
        )
    finite = table.isfinite()
    if not bool(finite.all()):
        raise ValueError(f"Expected {name} to be finite; got {table[~finite][0].item()}.")
    return table


def _as_tensor(values: object, name: str) -> Tensor:
    try:
        if isinstance(values, Sequence) and any(
            isinstance(value, Tensor | np.ndarray) for value in values
        ):
            values = torch.stack([torch.as_tensor(value) for value in values])
        table = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"Expected {name} to hold numbers; got {describe(values)}.") from error
    return table.clone()


def square(values: object, name: str, ndim: int = 2) -> Tensor:
    """Return K × K matrices of at least two states as a float64 tensor, or raise."""
    table = as_table(values, name, ndim)
    if table.shape[-2] != table.shape[-1] or table.shape[-1] < 2:
        raise ValueError(
            f"Expected {name} to be square, of at least 2 states; got shape {tuple(table.shape)}."
        )
    return table


def laws(table: Tensor, name: str) -> Tensor:
    """Return a table with rows that sum to 1 exactly, if they do within 10⁻⁶; else raise."""
    if bool((table < 0).any()):
        raise ValueError(f"Expected {name} to be at least 0; got {table.min().item():.9g}.")
    total = table.sum(-1, keepdim=True)
    miss = (total - 1).abs()
    if bool((miss > 1e-6).any()):
        worst = total.flatten()[miss.argmax()].item()
        raise ValueError(f"Expected {name} to sum to 1; got {worst:.9g}.")
    return table / total


def law(values: object, name: str = "pi") -> Tensor:
    """Return weights of at least two states, of any sum, as probabilities in float64, or raise."""
    table = as_table(values, name, 1)
    if len(table) < 2:
        raise ValueError(f"Expected {name} to have at least 2 states; got {len(table)}.")
    if bool((table < 0).any()):
        raise ValueError(f"Expected {name} to be at least 0; got {table.min().item():.9g}.")
    if not bool((table > 0).any()):
        raise ValueError(f"Expected {name} to have a positive sum; got {len(table)} zeros.")
    table = table / table.max()  # so that no sum is infinite
    return table / table.sum()

r"""Time grids for `sample_backward`, which walks them from the last time to the first.

All are increasing float64 tensors of shape (n,) from `lb` to `ub`, both ends exact, and each is
evenly spaced in a variable of its own; `timeschedule` makes others. Data is at t = 0: the grids of
papers that have it at t = 1 are turned round.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bridges._device import host
from bridges._shapes import as_integer, as_number, describe, positive


def timeschedule(
    f: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    lb: float,
    ub: float,
    n: int,
) -> Tensor:
    """Return a grid of n times from lb to ub, evenly spaced in `inverse` and mapped back by `f`.

    Args:
        f: an increasing function of float64 tensors.
        inverse: its inverse.
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    Returns:
        A float64 tensor of shape (n,), increasing; both ends exact.

    Raises:
        TypeError: if lb or ub is not a number.
        ValueError: if n is below 2, lb is negative or the times do not increase.

    >>> timeschedule(lambda u: 10**u, torch.log10, 0.01, 100.0, 5)
    tensor([1.0000e-02, 1.0000e-01, 1.0000e+00, 1.0000e+01, 1.0000e+02],
           dtype=torch.float64)
    """
    n = as_integer(n, "n", 2)
    lb, ub = as_number(lb, "lb"), as_number(ub, "ub")
    if lb < 0:
        raise ValueError(f"Expected lb to be at least 0; got {lb}.")
    first, last = inverse(host([lb, ub])).tolist()
    grid = f(torch.linspace(first, last, n, dtype=torch.float64, device="cpu"))
    grid[0], grid[-1] = lb, ub
    if not is_increasing(grid):
        raise ValueError("Expected the times to increase from lb to ub; got a grid that does not.")
    return grid


def uniform_times(lb: float, ub: float, n: int) -> Tensor:
    """Return n evenly spaced times.

    The grid of score-based SDEs, FrameDiff and most flow matching.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    >>> uniform_times(0.0, 2.0, 5)
    tensor([0.0000, 0.5000, 1.0000, 1.5000, 2.0000], dtype=torch.float64)
    """
    return timeschedule(lambda u: u, lambda t: t, lb, ub, n)


def geometric_times(lb: float, ub: float, n: int) -> Tensor:
    """Return n times with one ratio: evenly spaced in log t.

    The `log_schedule` of Diffusions.jl, and the noise levels of the variance-exploding SDE.

    References:
        Song & Ermon, Generative modeling by estimating gradients of the data distribution, 2019.

    Args:
        lb: the first time, positive.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    >>> geometric_times(0.01, 1.0, 3)
    tensor([0.0100, 0.1000, 1.0000], dtype=torch.float64)
    """
    return timeschedule(torch.exp, torch.log, positive(lb, "lb"), ub, n)


def karras_times(lb: float, ub: float, n: int, rho: float = 7.0) -> Tensor:
    r"""Return n times that are evenly spaced in :math:`t^{1/\rho}`.

    .. math:: t_i = \big(lb^{1/\rho} + \tfrac{i}{n-1} (ub^{1/\rho} - lb^{1/\rho})\big)^\rho

    The noise levels of EDM, k-diffusion and AlphaFold 3 (ρ = 7). Their t is the standard deviation
    σ: for a process whose variance is proportional to t, run it on `PowerClock(2.0)`.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.
        rho: ρ, positive; 1 is uniform, and a large one nears the geometric grid.

    >>> karras_times(1.0, 128.0, 3, rho=7.0)
    tensor([  1.0000,  17.0859, 128.0000], dtype=torch.float64)
    """
    rho = positive(rho, "rho")
    return timeschedule(lambda u: u**rho, lambda t: t ** (1 / rho), lb, ub, n)


def quadratic_times(lb: float, ub: float, n: int) -> Tensor:
    """Return n times that are evenly spaced in √t: `karras_times` with ρ = 2.

    The quadratic time steps of DDIM, and the `sqrt_schedule` of Diffusions.jl.

    References:
        Song, Meng & Ermon, Denoising diffusion implicit models, 2021.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    >>> quadratic_times(0.0, 1.0, 3)
    tensor([0.0000, 0.2500, 1.0000], dtype=torch.float64)
    """
    return karras_times(lb, ub, n, rho=2.0)


def cosine_times(lb: float, ub: float, n: int) -> Tensor:
    r"""Return n times on a quarter of a sine, with short steps at high noise.

    .. math:: t_i = lb + (ub - lb) \sin\big(\tfrac\pi2\,\tfrac{i}{n-1}\big)

    The cosine grid of MD4, the masked share of MaskGIT, and the sway sampling of F5-TTS at its
    coefficient −1.

    References:
        Chang et al., MaskGIT: masked generative image transformer, 2022.
        Shi et al., Simplified and generalized masked diffusion for discrete data, 2024.
        Chen et al., F5-TTS: a fairytaler that fakes fluent and faithful speech with flow matching,
        2024.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.

    >>> cosine_times(0.0, 1.0, 4)
    tensor([0.0000, 0.5000, 0.8660, 1.0000], dtype=torch.float64)
    """
    return _shaped_times(torch.sin, torch.asin, lb, ub, n)


def exponential_times(lb: float, ub: float, n: int, rate: float = 10.0) -> Tensor:
    r"""Return n times that fall towards `lb` exponentially, with long steps at high noise.

    .. math:: t = lb + (ub - lb)\,\frac{e^{-c u} - e^{-c}}{1 - e^{-c}}, \qquad
        u = 1 - \tfrac{i}{n - 1}

    u runs from 0 at noise to 1 at data, as time does in FrameFlow and MultiFlow, which sample
    rotations with c = 10: of the way to x_0 they leave :math:`e^{-c u}` (an Euler step takes the
    share c Δu of what is left) and at u = 1 jump to the prediction. Here that last :math:`e^{-c}`
    is spread over all times. Where t is the share of the way that is left, as for rotations on
    `PowerClock(2.0)` with eta = 0, this is their schedule; but they tell the model u, and here it
    is told t.

    References:
        Yim et al., Fast protein backbone generation with SE(3) flow matching, 2023.
        Campbell et al., Generative flows on discrete state-spaces, 2024.

    Args:
        lb: the first time, at least 0.
        ub: the last time, above `lb`.
        n: the number of points, at least 2.
        rate: c, positive and at most 700.

    >>> exponential_times(0.0, 1.0, 5, rate=4.0)
    tensor([0.0000, 0.0321, 0.1192, 0.3561, 1.0000], dtype=torch.float64)
    """
    if positive(rate, "rate") > 700:
        raise ValueError(f"Expected rate to be at most 700; got {rate!r}.")
    whole = math.expm1(rate)
    return _shaped_times(
        lambda u: torch.expm1(u) / whole, lambda share: torch.log1p(share * whole), lb, ub, n
    )


def _shaped_times(
    f: Callable[[Tensor], Tensor],
    inverse: Callable[[Tensor], Tensor],
    lb: float,
    ub: float,
    n: int,
) -> Tensor:
    """Return `timeschedule` of a function onto the share of the way from lb to ub."""
    return timeschedule(
        lambda u: lb + (ub - lb) * f(u), lambda t: inverse((t - lb) / (ub - lb)), lb, ub, n
    )


def explicit_times(values: Sequence[float] | Tensor) -> Tensor:
    """Return given times as a grid.

    Args:
        values: at least two finite numbers, none negative, increasing.

    Returns:
        A float64 tensor of shape (n,) on the CPU.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if they are fewer, not finite, negative or do not increase.

    >>> explicit_times([0.0, 0.2, 1.0])
    tensor([0.0000, 0.2000, 1.0000], dtype=torch.float64)
    """
    return increasing_numbers(values, "values")


def increasing_numbers(values: Sequence[float] | Tensor, name: str) -> Tensor:
    """Return at least two finite, increasing numbers from 0 up as a float64 tensor, or raise."""
    numbers = values.tolist() if isinstance(values, Tensor | np.ndarray) else values
    if not isinstance(numbers, Sequence) or isinstance(numbers, str) or len(numbers) < 2:
        raise ValueError(f"Expected {name} to hold at least 2 numbers; got {describe(values)}.")
    found = [as_number(number, f"{name}[{i}]") for i, number in enumerate(numbers)]
    grid = host(found)
    if found[0] < 0:
        raise ValueError(f"Expected {name} to be at least 0; got {found[0]}.")
    if not is_increasing(grid):
        raise ValueError(f"Expected {name} to increase; got {describe(values)} that does not.")
    return grid


def is_increasing(values: Tensor) -> bool:
    """Whether every number is above the one before it."""
    return bool((values[1:] > values[:-1]).all())

"""Trial draws of a process, and exact comparisons of states: what the laws are checked on.

States are batches of rows, tensors (N, …) or structures of such. Nothing here knows a space: the
batch shape of a state is found out from a draw of the prior, or given.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from bridges._shapes import State, expand_leading, leaves, map_structure
from bridges._two_sample import View, at
from bridges.process import Process
from bridges.wrapper import Wrapper

Times: TypeAlias = tuple[float, float]

TIMES: Final[Times] = (0.13, 0.71)
"""Times s < t at which processes of a rate about 1 have moved and still remember x_0."""


def generator_for(point: State, seed: int) -> torch.Generator:
    """Return a fresh generator on the device of a state."""
    return torch.Generator(leaves(point)[0].device).manual_seed(seed)


def rows_of(point: State) -> Tensor:
    """Number the rows of a batch."""
    first = leaves(point)[0]
    return torch.arange(len(first), device=first.device)


def select(mask: Tensor, inside: State, outside: State) -> State:
    """Take the rows of `inside` where the mask (N,) is true, and the others of `outside`."""
    return map_structure(
        lambda a, b: torch.where(expand_leading(mask, a.ndim), a, b), inside, outside
    )


def walk(
    process: Process, point: State, s: Any, t: Any, draws: torch.Generator
) -> tuple[State, State]:
    """Draw (x_s, x_t) forward."""
    x_s = process.sample_forward(point, s, generator=draws)
    return x_s, process.sample_forward(x_s, t, start=s, generator=draws)


def back(
    process: Process, point: State, s: Any, t: Any, draws: torch.Generator
) -> tuple[State, State]:
    """Draw (x_s, x_t), x_t first and x_s by the bridge."""
    x_t = process.sample_forward(point, t, generator=draws)
    return process.sample_bridge(point, x_t, s, t, generator=draws), x_t


def results(
    process: Process, point: State, s: Any, t: Any, draws: torch.Generator
) -> Iterator[tuple[str, State]]:
    """Draw once with every method that returns a state like x_0."""
    x_t = process.sample_forward(point, t, generator=draws)
    yield "forward draw", x_t
    yield "bridge draw", process.sample_bridge(point, x_t, s, t, generator=draws)
    x_s, x_0_hat = process.sample_step(point, x_t, s, t, generator=draws)
    yield "step", x_s
    yield "endpoint", x_0_hat


def prior_like(process: Process, point: State, draws: torch.Generator) -> State:
    """Draw from the prior as many points as a state has; one more draw tells their dimensions."""
    floating = [x for x in leaves(point) if x.is_floating_point()]
    dtype = floating[0].dtype if floating else None
    device = leaves(point)[0].device
    one = process.sample_prior(
        map_structure(lambda x: (), point), generator=draws, dtype=dtype, device=device
    )
    shape = map_structure(lambda x, y: tuple(x.shape[: x.ndim - y.ndim]), point, one)
    return process.sample_prior(shape, generator=draws, dtype=dtype, device=device)


def batches(process: Process, point: State) -> Iterator[tuple[State, tuple[int, ...]]]:
    """Yield batches of several ranks and both dtypes, with the leading part of their shape.

    A process that is tied to its batch, by a mask, gets the whole batch only.
    """
    few = map_structure(lambda x: x[:6], point)
    tied = not _is_taken(process, few)
    rows = point if tied else few
    n = len(leaves(rows)[0])
    shapes = ((n,), (n, 1)) if tied else ((), (0,), (n,), (2, n // 2), (n, 1, 1))
    for dtype in (torch.float32, torch.float64):
        for shape in shapes:
            x = map_structure(lambda x, d=dtype, s=shape: _reshaped(x, d, s), rows)
            if _is_taken(process, x):
                yield x, shape


def _is_taken(process: Process, x: State) -> bool:
    try:
        process._check(x, "x")
    except ValueError:
        return False
    return True


def _reshaped(x: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    x = x[: math.prod(shape)].reshape((*shape, *x.shape[1:]))
    return x.to(dtype) if x.is_floating_point() else x


def every_rank(t: float, shape: tuple[int, ...], device: torch.device) -> Iterator[Any]:
    """Yield a time as a number and as tensors over every leading part of a batch shape."""
    yield t
    for rank in range(len(shape) + 1):
        for dtype in (torch.float32, torch.float64):
            yield torch.full(shape[:rank], t, dtype=dtype, device=device)


def log_prob(process: Process, x_t: State, x: State, s: float, t: float) -> Tensor:
    """Return the log-density of x_t given x_s = x, one number per row, in float64."""
    parts = leaves(process.log_prob(x_t, x, t, start=s))
    return torch.stack([p.double().reshape(len(p), -1).sum(1) for p in parts]).sum(0)


# ---------------------------------------------------------------- what a process has


@runtime_checkable
class Tokens(Protocol):
    """A process that says how many states x_0 may take."""

    k: int


def tokens_of(process: Process, x_0: Tensor) -> int | None:
    """Return the number of logits that a network says of a token; None where x_0 is no token."""
    while isinstance(process, Wrapper):
        process = process.process
    return process.k if isinstance(process, Tokens) and not x_0.is_floating_point() else None


def has_time(process: Process, t: float) -> bool:
    """Whether a process that is no Joint can be asked for its state at a time."""
    try:
        process._check_time(torch.tensor([t], dtype=torch.float64), "t")
    except ValueError:
        return False
    return True


def ladder(process: Process, times: Times, far: float | None) -> Tensor:
    """Return times from 0 to `far`, or to t, each about 1.4 times the one before.

    They are rounded too, for a process that has integer times only.
    """
    last = times[1] if far is None else far
    count = 20 + math.ceil(2 * math.log2(last / times[1]))
    steps = [last * 2 ** (-i / 2) for i in range(count)]
    found = {0.0, *times, *steps, *(float(round(t)) for t in steps if round(t) <= last)}
    return torch.tensor(sorted(t for t in found if has_time(process, t)), dtype=torch.float64)


# ---------------------------------------------------------------- comparisons


def same(x: State, y: State) -> bool:
    """Whether two states are equal bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(leaves(x), leaves(y), strict=True))


def form(x: State) -> Any:
    """Describe shapes, dtypes and devices, in the structure of a state."""
    return map_structure(lambda a: f"{tuple(a.shape)} {a.dtype} {a.device}", x)


def distance(x: State, y: State) -> float:
    """Return how far two states are apart at most, over 1 + |y|; infinite where x is not."""
    miss = 0.0
    for a, b in zip(leaves(x), leaves(y), strict=True):
        gap = torch.nan_to_num((a - b).abs().double() / (1 + b.abs()), nan=math.inf)
        miss = max(miss, gap.max().item()) if gap.numel() else miss
    return miss


def require(holds: bool, law: str, times: Times, miss: str) -> None:  # noqa: FBT001
    """Raise an AssertionError with the law, the times and the miss unless it holds."""
    if not holds:
        raise AssertionError(f"Expected the {law} to hold at {at(times)}; {miss}.")


def gap(view: View, x: State, y: State) -> Tensor:
    """Return how far two states are apart on average, per column of the view."""
    return (view(x) - view(y)).abs().double().mean(0)


def require_near(law: str, times: Times, gap: Tensor, far: Tensor) -> None:
    """Raise where a gap is more than 1 % of what it is far away."""
    miss = (gap / far.clamp(min=1e-9)).max().item()
    require(miss <= 1e-2, law, times, f"the states are {miss:.2g} of the way to x_t apart")

"""The precision of the library is its own, whatever the caller's mode and dtype are.

Autocast is off inside, and states in half precision are computed on in float32: what comes out is
rounded once. A guess, which is the caller's, runs in the caller's mode.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch
from torch import Tensor

from bridges._shapes import leaves, map_structure

_ACCELERATOR: Final = torch.accelerator.current_accelerator()
AUTOCAST: Final = ("cpu",) if _ACCELERATOR is None else ("cpu", _ACCELERATOR.type)
"""The devices whose autocast is switched off: the CPU's, and that of what torch was built for."""

HALF: Final = (torch.float16, torch.bfloat16)

State = TypeVar("State")
P = ParamSpec("P")
R = TypeVar("R")


def exact(f: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs with autocast off.

    >>> @exact
    ... def product(x):
    ...     return x @ x
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     product(torch.eye(2)).dtype
    torch.float32
    """

    @wraps(f)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for device in AUTOCAST:
            if torch.is_autocast_enabled(device):
                with torch.autocast(device, enabled=False):
                    return run(*args, **kwargs)
        return f(*args, **kwargs)

    return run


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half precision, and any other dtype as it is."""
    return torch.float32 if dtype in HALF else dtype


def widened(x: State) -> State:
    """Return a state with its tensors in half precision brought to float32."""
    return map_structure(_wide, x) if has_half(x) else x


def has_half(x: Any) -> bool:
    """Whether a part of a state is in half precision."""
    if isinstance(x, Tensor):
        return x.dtype in HALF
    return any(leaf.dtype in HALF for leaf in leaves(x))


def narrowed(value: Any, like: Any) -> Any:
    """Round what was computed on a widened state to the dtypes of the state.

    >>> narrowed({"x": torch.ones(2)}, {"x": torch.ones(2, 3, dtype=torch.bfloat16)})
    {'x': tensor([1., 1.], dtype=torch.bfloat16)}
    """
    return map_structure(_narrow, like, value) if has_half(like) else value


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


def _narrow(like: Tensor, value: Any) -> Any:
    if like.dtype not in HALF:
        return value
    return map_structure(lambda part: part.to(like.dtype), value)

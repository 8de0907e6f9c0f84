"""The law of the bridge with less noise than its own, `eta` below 1.

`testing` runs it and gives it to users.
"""

import math
from typing import Any, Final

from bridges._precision import exact
from bridges._shapes import State
from bridges._trial import TIMES, Times, generator_for, has_time, require, same
from bridges._two_sample import View, compare
from bridges.process import Process

SMALL: Final = 0.02
"""The variance, against data of size 1, below which every space counts as flat."""


@exact
def check_eta(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    small: Times | None = None,
    seed: int = 0,
) -> None:
    """With `eta` = 0 the bridge draws nothing; there and at 0.5 it keeps the marginal.

    A process that has no deterministic path refuses an `eta` other than 1, as tokens do, and
    passes. The parts of a Joint are asked one by one.

    Args:
        process: the process.
        point: a batch of x_0.
        view: maps a state to real numbers (N, V).
        times: s and t for the draws at `eta` = 0.
        small: s and t for the marginals; see `check_process`.
        seed: of the generators.
    """
    process._each(lambda part, x_0: _require_still(part, x_0, times, seed), point)
    start, draws = view(point), generator_for(point, seed)
    for eta in (0.0, 0.5):
        etas, own = with_eta(process, point, times, small, eta, seed)
        if own is None:
            continue
        s, t = own
        x_t = process.sample_forward(point, t, generator=draws)
        x_s = process.sample_bridge(point, x_t, s, t, eta=etas, generator=draws)
        direct = process.sample_forward(point, s, generator=draws)
        law = f"marginal at eta = {eta:g}"
        compare(law, own, lambda x: view(x) - start, (x_s,), (direct,), ("(x_s − x_0)",))


def _require_still(part: Process, x_0: State, times: Times, seed: int) -> None:
    law, (s, t) = "deterministic path at eta = 0", times
    if not takes_eta(part, x_0, times, 0.0, seed):
        return
    x_t = part.sample_forward(x_0, t, generator=generator_for(x_0, seed))
    bridges, steps = [], []
    for i in (0, 1):
        draws = generator_for(x_0, seed + i)
        bridges.append(part.sample_bridge(x_0, x_t, s, t, eta=0.0, generator=draws))
        steps.append(part.sample_step(x_0, x_t, s, t, eta=0.0, generator=draws)[0])
    for name, (first, again) in (("bridge", bridges), ("step", steps)):
        miss = f"the {name} draws noise there, which it neither leaves out nor refuses in `_eta`"
        require(same(first, again), law, times, miss)


def takes_eta(process: Process, x_0: State, times: Times, eta: float, seed: int) -> bool:
    """Whether a process bridges with an `eta`, or refuses it."""
    (s, t), draws = times, generator_for(x_0, seed)
    x_t = process.sample_forward(x_0, t, generator=draws)
    try:
        process.sample_bridge(x_0, x_t, s, t, eta=eta, generator=draws)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def with_eta(
    process: Process, point: State, times: Times, small: Times | None, eta: float, seed: int
) -> tuple[Any, Times | None]:
    """Give `eta` to the parts that take it and 1 to the others, and find times small for all."""
    found: list[Times] = []

    def eta_of(part: Process, x_0: State) -> float:
        own = small_times(part, times) if small is None else small
        if own is None or not takes_eta(part, x_0, own, eta, seed):
            return 1.0
        found.append(own)
        return eta

    etas = process._each(eta_of, point)
    return etas, (min(s for s, _ in found), min(t for _, t in found)) if found else None


def small_times(process: Process, times: Times) -> Times | None:
    """Return times s < t, at most the given ones, at which the variance is `SMALL` or less.

    A process without a log-SNR gets the given times, and one that has no such time None.
    """
    try:
        t = _time_at(process, -math.log(SMALL), times[1])
    except NotImplementedError:
        return times
    if t is None:
        return None
    s = _time_at(process, process.log_snr(t).item() + math.log(4), t)
    s = times[0] / times[1] * t if s is None else s
    return (s, t) if has_time(process, s) and has_time(process, t) else None


def _time_at(process: Process, log_snr: float, top: float) -> float | None:
    """Return the last time up to `top` with at least that log-SNR; None if it is next to 0."""

    def early(t: float) -> bool:
        return bool(process.log_snr(t).item() >= log_snr)

    low, high = 1e-6 * top, top
    if early(high) or not early(low):
        return high if early(high) else None
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if early(middle) else (low, middle)
    return low

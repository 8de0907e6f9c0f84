r"""The laws that every process obeys, to run on your own.

Each law is a function of a process, a batch of points x_0 and a view; it returns nothing, or
raises an `AssertionError` that names the law, the times and the size of the miss. `check_process`
runs them all. Laws of random states are compared by two-sample tests, which refuse a right process
with probability 10⁻⁴ over all laws together; the same seed always gives the same answer.

A process that is right at every single time can still be wrong: a bridge that forgets x_t. So two
times are always compared at once, and on a clock that is not linear too.
"""

from typing import Final

import torch

from bridges._eta_law import check_eta
from bridges._form_laws import check_randomness, check_shapes, check_space
from bridges._measure_laws import check_error, check_log_snr, check_loss_scale, check_score
from bridges._precision import exact
from bridges._shapes import State, map_structure
from bridges._trial import (
    TIMES,
    Times,
    back,
    form,
    gap,
    generator_for,
    log_prob,
    prior_like,
    require,
    require_near,
    rows_of,
    same,
    select,
    walk,
)
from bridges._two_sample import View, compare
from bridges.clock import Clock, PowerClock
from bridges.process import Process

__all__ = [
    "check_clock",
    "check_density",
    "check_error",
    "check_eta",
    "check_general",
    "check_log_snr",
    "check_loss_scale",
    "check_near_limit",
    "check_pinned_ends",
    "check_prior",
    "check_process",
    "check_randomness",
    "check_score",
    "check_semigroup",
    "check_shapes",
    "check_space",
    "check_times",
    "check_two_times",
]

CLOCK: Final = PowerClock(2.3, 0.7)


@exact
def check_process(
    process: Process,
    *,
    point: State,
    view: View,
    general: Process | None = None,
    prior: bool = True,
    density: bool = True,
    times: Times = TIMES,
    small: Times | None = None,
    far: float = 1e3,
    near: float | None = 1e-8,
    seed: int = 0,
) -> None:
    """Check that a process obeys every law.

    A process need not have a score or a log-SNR, which raise `NotImplementedError` then, nor take
    an `eta` other than 1, which it refuses then.

    Args:
        process: the process.
        point: a batch of x_0 of shape (N, …), or a structure of such. A law is seen to be broken
            once it is off by about 3/√N, so N is 10⁴ or more; a few distinct points say more than
            many.
        view: maps a state to real numbers (N, V), about continuous in the state, that show all
            that the process moves; columns are tested one by one and in pairs.
        general: a process with the same law and another way to draw it, to compare with.
        prior: whether the law at `far` is that of `sample_prior`.
        density: whether the process has a `log_prob`, which its score is then compared with.
        times: 0 < s < t, where the process has moved a lot and still remembers x_0.
        small: 0 < s < t at which marginals are compared for `eta` below 1, since a curved space
            keeps them only while the variance is small against it. None for times at which it is
            at most 0.02 by `log_snr`, right for a space of size about 1; for `times`, where a
            process has no `log_snr`.
        far: a time at which x_0 is forgotten.
        near: a time at which the process has hardly moved; None if it jumps at t = 0.
        seed: of the generators; nothing else is random.

    Raises:
        AssertionError: at the first law that does not hold.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> process, point = OrnsteinUhlenbeckDiffusion(0.3), torch.full((10_000,), 2.0)
    >>> check_process(process, point=point, view=lambda x: x.unsqueeze(-1))
    """
    for check in (check_space, check_shapes, check_randomness, check_pinned_ends):
        check(process, point, view, times, seed=seed)
    if near is not None:
        check_near_limit(process, point, view, times, near=near, seed=seed)
    for check in (check_semigroup, check_two_times, check_times, check_clock):
        check(process, point, view, times, seed=seed)
    check_error(process, point, view, times, seed=seed)
    for check in (check_loss_scale, check_log_snr):
        check(process, point, view, times, far=far if prior else None, seed=seed)
    check_eta(process, point, view, times, small=small, seed=seed)
    if density:
        check_density(process, point, view, times, seed=seed)
        check_score(process, point, view, times, seed=seed)
    if prior:
        check_prior(process, point, view, far, seed=seed)
    if general is not None:
        check_general(process, point, view, times, general=general, seed=seed)


@exact
def check_pinned_ends(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 1: the bridge is x_0 at s = 0 and x_t at s = t, exactly, and near x_t just below t.

    Exactly also where every row has its own times, and some rows are at t = 0.
    """
    law, (s, t), draws = "pinned ends", times, generator_for(point, seed)
    x_t = process.sample_forward(point, t, generator=draws)
    for end, value in ((0.0, point), (t, x_t)):
        x_s = process.sample_bridge(point, x_t, end, t, generator=draws)
        require(same(x_s, value), law, (end, t), "the end is another state")
    below = (1 - 1e-8) * t
    x_s = process.sample_bridge(point, x_t, below, t, generator=draws)
    require_near(law, (below, t), gap(view, x_s, x_t), gap(view, x_t, point))
    kind = rows_of(point) % 4
    t_rows = torch.where(kind == 0, 0.0, t).double()
    s_rows = torch.where(kind == 1, s, torch.where(kind == 2, 0.0, t_rows)).double()
    x_t = process.sample_forward(point, t_rows, generator=draws)
    x_s = process.sample_bridge(point, x_t, s_rows, t_rows, generator=draws)
    ends = select(s_rows == t_rows, x_t, select(s_rows == 0, point, x_s))
    require(same(x_s, ends), law, times, "with a time per row, an end is another state")


@exact
def check_near_limit(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    near: float = 1e-8,
    seed: int = 0,
) -> None:
    """Laws 1 and 5: just above 0, the state and the bridge are near x_0."""
    (s, t), draws = times, generator_for(point, seed)
    x_t = process.sample_forward(point, t, generator=draws)
    far = gap(view, x_t, point)
    for start, end in ((0.0, 0.0), (0.0, near), (s, s + near)):
        x = process.sample_forward(point, end, start=start, generator=draws)
        require_near("near limit", (start, end), gap(view, x, point), far)
    x_s = process.sample_bridge(point, x_t, near, t, generator=draws)
    require_near("pinned ends", (near, t), gap(view, x_s, point), far)


@exact
def check_semigroup(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 2: forward to s and then t is forward to t; two bridges in a row are one."""
    (s, t), r, draws = times, sum(times) / 2, generator_for(point, seed)
    _, walked = walk(process, point, s, t, draws)
    x_t = process.sample_forward(point, t, generator=draws)
    compare("semigroup", times, view, (point, walked), (point, x_t), ("x_0", "x_t"))
    x_r = process.sample_bridge(point, x_t, r, t, generator=draws)
    x_s = process.sample_bridge(point, x_r, s, r, generator=draws)
    compare("semigroup of bridges", times, view, (x_s, x_t), back(process, point, s, t, draws))


@exact
def check_two_times(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 3: (x_s, x_t) has one joint law, walked forward or x_t first and x_s bridged back."""
    draws = generator_for(point, seed)
    walked, bridged = (draw(process, point, *times, draws) for draw in (walk, back))
    compare("joint law of two times", times, view, walked, bridged)


@exact
def check_density(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 3 at given ends: the bridge from x_0 to x_0 has the law that `log_prob` says.

    Its density is p(x_s | x_0) p(x_t | x_s) / p(x_t | x_0), so forward draws of x_s, kept in
    proportion to the ratio, have its law. Walks seldom end this close.
    """
    (s, t), draws = times, generator_for(point, seed)
    x_s = process.sample_forward(point, s, generator=draws)
    weight = log_prob(process, point, x_s, s, t) - log_prob(process, point, point, 0.0, t)
    u = torch.rand(weight.shape, dtype=weight.dtype, device=weight.device, generator=draws)
    kept = u.log() < weight - weight.max()
    x_s = map_structure(lambda x: x[kept], x_s)
    bridged = process.sample_bridge(point, point, s, t, generator=draws)
    compare("density of the bridge", times, view, (x_s,), (bridged,), ("x_s",))


@exact
def check_times(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 6: where every row has its own times, it has the law of those times."""
    first, draws = rows_of(point) % 3 == 0, generator_for(point, seed)
    s, t = (torch.where(first, u, 0.7 * u).double() for u in times)
    for draw in (walk, back):
        own = draw(process, point, s, t, draws)
        late = draw(process, point, *times, draws)
        early = draw(process, point, 0.7 * times[0], 0.7 * times[1], draws)
        one = [select(first, a, b) for a, b in zip(late, early, strict=True)]
        compare("time of every row", times, view, own, one)


@exact
def check_clock(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    clock: Clock = CLOCK,
    seed: int = 0,
) -> None:
    """Law 4: on a clock that is not linear, the process is itself at the clock's times.

    Args:
        process: the process.
        point: a batch of x_0.
        view: maps a state to real numbers (N, V).
        times: s and t on the clock's own scale, τ(s) and τ(t).
        clock: a clock that is not linear.
        seed: of the generator.
    """
    law, draws = "nonlinear clock", generator_for(point, seed)
    s, t = clock.inverse(torch.tensor(times, dtype=torch.float64)).tolist()
    clocked = process.on(clock)
    walked, bridged = walk(clocked, point, s, t, draws), back(clocked, point, s, t, draws)
    compare(law, (s, t), view, walked, bridged)
    compare(law, (s, t), view, walked, walk(process, point, *times, draws))
    compare(law, (s, t), view, bridged, back(process, point, *times, draws))


@exact
def check_prior(
    process: Process, point: State, view: View, far: float = 1e3, *, seed: int = 0
) -> None:
    """Law 5: far away, x_t has the law of `sample_prior` and does not remember x_0."""
    law, draws = "prior as the far limit", generator_for(point, seed)
    x_t = process.sample_forward(point, far, generator=draws)
    x = prior_like(process, point, draws)
    require(form(x) == form(point), law, (0.0, far), f"its form is {form(x)}, not {form(point)}")
    compare(law, (0.0, far), view, (point, x_t), (point, x), ("x_0", "x_t"))


@exact
def check_general(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    general: Process,
    seed: int = 0,
) -> None:
    """Law 7: a special process and a general one that contains it have one law."""
    draws = generator_for(point, seed)
    for draw in (walk, back):
        special, other = (draw(p, point, *times, draws) for p in (process, general))
        compare("general process", times, view, special, other)

"""Laws of what training and guidance use: scores, errors, loss scales and noise levels.

A Joint is checked part by part, and a process is not asked for what it does not have. `testing`
runs them and gives them to users.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from bridges._precision import exact
from bridges._shapes import State, map_structure
from bridges._trial import TIMES, Times, generator_for, ladder, require, tokens_of
from bridges._two_sample import View
from bridges.prediction import Score
from bridges.process import Process

NUDGE: Final = 1e-6
"""The share of the time up to t in which a state moves a little."""

SURE: Final = 1e3
"""A logit that leaves no probability to the other tokens."""

ROUNDING: Final = 1e-12
"""What a difference of log-densities may be off by in float64."""

MOVED: Final = 1e-3
"""How far apart two points are that count as different, against their size."""


# ---------------------------------------------------------------- scores


@exact
def check_score(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    r"""The score is the gradient of `log_prob` in x_t.

    Two states x and y that the process has at t, a short stretch of time apart, are compared by
    the trapezoidal rule, exact to third order in the move:

    .. math:: \log p_t(y \mid x_0) - \log p_t(x \mid x_0)
        = \tfrac12 \langle s(x) + s(y),\; y - x \rangle .

    A score of the shape of the state is read in the state's own coordinates. One in another frame,
    as on rotations, meets the tangent vector from x to y, which `convert` and `log_snr` say. A
    process without a score or without a density passes.
    """
    draws = generator_for(point, seed)
    x_0 = map_structure(lambda x: x.double() if x.is_floating_point() else x, point)
    for t in times:
        before = (1 - NUDGE) * t
        x = process.sample_forward(x_0, before, generator=draws)
        y = process.sample_forward(x, t, start=before, generator=draws)
        process._each(_require_slope, x_0, x, y, process._spread(t, "the time t"))


def _require_slope(part: Process, x_0: Tensor, x: Tensor, y: Tensor, t: float) -> None:
    try:
        score = 0.5 * (part.score(x, x_0, t) + part.score(y, x_0, t))
        rise = part.log_prob(y, x_0, t) - part.log_prob(x, x_0, t)
    except NotImplementedError:
        return
    move = y - x if score.shape == x.shape else _vector_between(part, x, y, t)
    said = (score * move).reshape(*rise.shape, -1).sum(-1)
    # A coordinate that went once around is no short move: it has crossed all that the states span.
    around = move.abs() > 0.5 * (x.max() - x.min())
    short = ~around.reshape(*rise.shape, -1).any(-1)
    said, rise = said[short], rise[short]
    # Elements that a mask keeps still do not count.
    miss, size = (said - rise).abs(), rise.abs().sum() / (rise != 0).sum().clamp(min=1)
    # Far away both are 0 but for rounding.
    holds = bool((miss <= 1e-2 * size + ROUNDING).all())
    says = (
        f"on short moves the score misses the change of log_prob by {miss.mean() / size:.2g} of it"
    )
    require(holds, "score as the gradient of log_prob", (0.0, t), says)


def _vector_between(part: Process, x: Tensor, y: Tensor, t: float) -> Tensor:
    """Return the tangent vector at x to y, in the frame and the unit of scores."""
    try:
        v_t = torch.exp(-part.log_snr(t)).to(x)
        value: Tensor = part.convert(y, Score, x, t).value
    except NotImplementedError as error:
        raise AssertionError(
            "Expected the score to have the shape of the state, or `convert` and `log_snr` to say "
            f"what it means; {error}"
        ) from error
    return v_t * value


# ---------------------------------------------------------------- errors


@exact
def check_error(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """The error of a point is 0 at the truth and positive elsewhere, one number per element.

    The truth is x_0 itself, for tokens logits that are sure of it, over the `k` of the process.
    Elsewhere is x_t, or the next token, on the elements that have moved.
    """
    t = times[1]
    x_t = process.sample_forward(point, t, generator=generator_for(point, seed))
    process._each(lambda part, x_0, x: _require_error(part, x_0, x, times), point, x_t)


def _require_error(part: Process, x_0: Tensor, x_t: Tensor, times: Times) -> None:
    law, t, batch = "error of a point", times[1], x_0.shape[: x_0.ndim - part.point_ndim]
    k = tokens_of(part, x_0)
    truth = x_0 if k is None else _sure(x_0, k)
    other = x_t if k is None else _sure((x_0 + 1) % k, k)
    apart = (x_t - x_0).abs() > MOVED * x_0.abs().clamp(min=1)
    moved = apart.reshape(*batch, -1).any(-1)
    for known in ({}, {"x_t": x_t, "t": t}):
        here, there = (part.error(guess, x_0, **known) for guess in (truth, other))
        form = f"it has shape {tuple(here.shape)}, where the batch has {tuple(batch)}"
        require(here.shape == there.shape == batch, law, times, form)
        low = min(here.min().item(), there.min().item())
        require(low >= 0, law, times, f"it goes down to {low:.3g}")
        flat = f"it is 0 on {(there[moved] == 0).double().mean():.2g} of the points that are wrong"
        require(bool((there[moved] > 0).all()), law, times, flat)
        most, size = here.max().item(), there[moved].mean().item() if moved.any() else 1.0
        miss = f"at the truth it is up to {most:.3g}, against {size:.3g} elsewhere"
        require(most <= 1e-6 * size, law, times, miss)


def _sure(x_0: Tensor, k: int) -> Tensor:
    return SURE * functional.one_hot(x_0, k).to(torch.get_default_dtype())


# ---------------------------------------------------------------- what depends on the time alone


@exact
def check_loss_scale(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    far: float | None = None,
    seed: int = 0,
) -> None:
    """The loss scale is finite, at least 0, and does not fall on the way to t, or to `far`."""
    process._each(lambda part, x_0: _require_loss_scale(part, times, far), point)


def _require_loss_scale(part: Process, times: Times, far: float | None) -> None:
    t = ladder(part, times, far)
    scale = part.loss_scale(t)
    require(scale.shape == t.shape, "loss scale", times, f"it has shape {tuple(scale.shape)}")
    low, high = scale.min().item(), scale.max().item()
    require(0 <= low <= high < float("inf"), "loss scale", times, f"it goes from {low} to {high}")
    fall = scale[:-1] - scale[1:]
    i = int(fall.argmax())
    miss = f"it falls from {scale[i]:.6g} at {t[i]:.6g} to {scale[i + 1]:.6g} at {t[i + 1]:.6g}"
    require(fall[i].item() <= 1e-9 * high, "loss scale", times, miss)


@exact
def check_log_snr(
    process: Process,
    point: State,
    view: View,
    times: Times = TIMES,
    *,
    far: float | None = None,
    seed: int = 0,
) -> None:
    """The log-SNR is ∞ at time 0, falls from s to t, and rises nowhere up to there, or to `far`.

    A process without one passes.
    """
    process._each(lambda part, x_0: _require_log_snr(part, times, far), point)


def _require_log_snr(part: Process, times: Times, far: float | None) -> None:
    law, t = "log-SNR", ladder(part, times, far)
    try:
        log_snr = part.log_snr(t)
    except NotImplementedError:
        return
    require(log_snr.shape == t.shape, law, times, f"it has shape {tuple(log_snr.shape)}")
    require(log_snr[0].item() == float("inf"), law, times, f"it is {log_snr[0]:.6g} at time 0")
    falls = log_snr[1:] <= log_snr[:-1] + 1e-9
    i = int(falls.double().argmin())
    miss = f"it goes from {log_snr[i]:.6g} at {t[i]:.6g} to {log_snr[i + 1]:.6g} at {t[i + 1]:.6g}"
    require(bool(falls[i]), law, times, miss)
    at_s, at_t = (part.log_snr(u).item() for u in times)
    require(at_t < at_s, law, times, f"it goes from {at_s:.6g} to {at_t:.6g}")

"""Sampling: guess x_0, take a step towards it, repeat.

Grids of times increase and are walked from the last to the first, as in Diffusions.jl. The first
time may be 0, and then the last guess comes out exactly. The step is the process's own, a draw
from its bridge, or that of a solver.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from bridges._device import host, widest
from bridges._draw import Draws, Generator, as_draws
from bridges._precision import exact, has_half, widened
from bridges._shapes import State, describe, leaves
from bridges.process import Process
from bridges.selfcondition import RunGuess
from bridges.solver import OwnStep, Solver, together

Guess: TypeAlias = Callable[[State, Any], Any]


class _Triple(NamedTuple):
    s: Any
    x_s: State
    x_0_hat: State


class Step(_Triple):
    """One step of a run: the triple `(s, x_s, x_0_hat)`, and the raw `prediction` behind it."""

    prediction: Any = None


@exact
def trajectory(
    guess: Guess,
    process: Process,
    timesteps: Any,
    x: State,
    *,
    eta: Any = 1.0,
    solver: Any = None,
    generator: Generator = None,
) -> Iterator[Step]:
    """Walk from the last time to the first and yield every step.

    Gradients flow through the walk: let the guess run under `torch.no_grad` where none are wanted.

    Args:
        guess: `guess(x_t, t)` returns a prediction of x_0 in the state's structure. It is given t
            with shape (B,), or the grid's own time shape, in the state's floating dtype, but at
            least in float32, and on its device; a structure where times differ.
        process: the process; x is a state of it at the last time.
        timesteps: increasing times (n,) or `(n, *time_shape)`, n ≥ 2, the first ≥ 0; for a Joint,
            one grid or a structure of grids of equal length. Where it has a time shape, and for
            masks, best on the device of the state: what lies elsewhere is copied in every step.
        x: the state at the last time: a draw from the prior, or one noised in part.
        eta: stochasticity, 1 exact, 0 deterministic; for a Joint, one number or a structure.
        solver: None for the process's own step, or a `Solver` for a Gaussian process, which has
            its own stochasticity; for a Joint, one for all parts or a structure. A solver that
            corrects asks for further guesses at x_s, of the whole state, but not at s = 0.
        generator: the source of randomness.

    Yields:
        `(s, x_s, x_0_hat)`, one per step; `.prediction` holds what the guess said.

    Raises:
        TypeError, ValueError: before the first step, if the grid, x, eta or solver is not what is
            expected.
        NotImplementedError: before the first step, if the solver is not one for the process.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> steps = trajectory(lambda x_t, t: 0 * x_t, process, [0.0, 0.5, 1.0], torch.ones(2))
    >>> [s for s, x_s, x_0_hat in steps]
    [0.5, 0.0]
    """
    process._check(x, "x")
    grid = _grid(timesteps)
    eta, draws = process._eta(eta), as_draws(generator)
    _check_grid(process, grid, x)
    if not callable(guess):
        raise TypeError(f"Expected guess to be callable; got {describe(guess)}.")
    run = guess.start() if isinstance(guess, RunGuess) else guess
    return _walk(run, process, grid, x, eta, draws, solver)


def sample_backward(
    guess: Guess,
    process: Process,
    timesteps: Any,
    x: State,
    *,
    eta: Any = 1.0,
    solver: Any = None,
    generator: Generator = None,
) -> State:
    """Draw a sample at the first time; see `trajectory`, which this runs without gradients.

    Returns:
        The state at the first time, like x.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> sample_backward(lambda x_t, t: 0 * x_t + 3, process, [0.0, 0.5, 1.0], torch.ones(2))
    tensor([3., 3.])
    """
    with torch.no_grad():
        for step in trajectory(
            guess, process, timesteps, x, eta=eta, solver=solver, generator=generator
        ):
            x = step.x_s
    return x


def _walk(
    guess: Guess,
    process: Process,
    grid: list[Any],
    x: State,
    eta: Any,
    draws: Draws,
    solver: Any = None,
) -> Iterator[Step]:
    """Start a run and return its steps; what a solver refuses raises here."""
    solver = together(process._each(_chosen, process._spread(solver, "solver"), eta))
    times = _expanded(process, grid, x)
    carry, corrections = solver.start(process, times), solver.corrections

    step, correct, half = exact(solver.step), exact(solver.correct), has_half(x)

    def rounded(x_s: State, x: State) -> State:
        return process._narrowed(x_s, x) if half else x_s

    def steps(carry: Any, x: State) -> Iterator[Step]:
        model_time = process._model_time(grid[-1], x)
        for i in range(len(grid) - 1, 0, -1):
            prediction, s, t = guess(x, model_time), times[i - 1], times[i]
            x_t = widened(x) if half else x
            carry, x_s, x_0_hat = step(carry, prediction, x_t, s, t, draws)
            x, x_0_hat = rounded(x_s, x), rounded(x_0_hat, x)
            if i > 1 or corrections:
                model_time = process._model_time(grid[i - 1], x)
            for _ in range(0 if corrections and _is_zero(grid[i - 1]) else corrections):
                prediction_s = guess(x, model_time)
                x_s = widened(x) if half else x
                carry, x_s = correct(carry, prediction_s, x_s, s, t, draws)
                x = rounded(x_s, x)
            done = Step(grid[i - 1], x, x_0_hat)
            done.prediction = prediction
            yield done

    return steps(carry, x)


def _check_grid(process: Process, grid: list[Any], x: State) -> None:
    """Raise unless the times increase from 0 or later; numbers are looked at all at once."""
    if all(isinstance(t, float) for t in grid):
        times = host(grid)
        if 0 <= grid[0] and bool((times.diff() >= 0).all()) and math.isfinite(grid[-1]):
            process._each(lambda part: part._check_time(times, "timesteps"))
            return
    process._times(x, **{f"timesteps[{i}]": t for i, t in enumerate(grid)})


def _expanded(process: Process, grid: list[Any], x: State) -> list[Any]:
    """Expand all times of a grid, numbers all at once."""
    if all(isinstance(t, float) for t in grid):
        times = host(grid).unbind()
        return [process._spread(t, "the time") for t in times]
    return [process._expand(t, x) for t in grid]


def _chosen(process: Process, solver: Any, eta: Any) -> Solver:
    if solver is None:
        return OwnStep(eta)
    if not isinstance(solver, Solver):
        raise TypeError(f"Expected solver to be a Solver or None; got {describe(solver)}.")
    if eta != 1:
        raise ValueError(f"Expected eta to be 1 beside a solver, which has its own; got {eta!r}.")
    if not solver.draws_noise:
        process._check_noise(repr(solver))
    return solver


def _is_zero(t: Any) -> bool:
    """Whether all of a time is known to be 0, without waiting for a device."""
    if isinstance(t, Tensor):
        return t.device.type == "cpu" and not bool(t.any())
    return t == 0 if isinstance(t, float) else all(map(_is_zero, leaves(t)))


def _grid(timesteps: Any) -> list[Any]:
    """Turn a grid, or a structure of grids, into a list of times; host numbers if (n,)."""
    if isinstance(timesteps, Mapping):
        rows = _together(list(timesteps.values()))
        return [dict(zip(timesteps, row, strict=True)) for row in rows]
    if isinstance(timesteps, tuple | list) and any(map(_is_grid, timesteps)):
        return _together(list(timesteps))
    if timesteps is None or isinstance(timesteps, str):
        raise TypeError(f"Expected timesteps to be numbers; got {describe(timesteps)}.")
    if isinstance(timesteps, Tensor):
        grid = timesteps.to(widest(timesteps.device))
    else:
        grid = torch.as_tensor(timesteps, dtype=torch.float64, device="cpu")
    if grid.ndim == 0 or len(grid) < 2:
        raise ValueError(
            f"Expected timesteps to hold at least 2 times; got {describe(timesteps)}."
        )
    return grid.tolist() if grid.ndim == 1 else list(grid)


def _is_grid(value: Any) -> bool:
    return not isinstance(value, Real) and (not isinstance(value, Tensor) or value.ndim > 0)


def _together(timesteps: list[Any]) -> list[tuple[Any, ...]]:
    grids = [_grid(part) for part in timesteps]
    lengths = sorted({len(grid) for grid in grids})
    if len(lengths) > 1:
        raise ValueError(
            f"Expected the grids of all parts to have one length; got lengths {lengths}."
        )
    return list(zip(*grids, strict=True))

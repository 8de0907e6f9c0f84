"""Solvers with all that a process can be: masked, on a clock, in a Joint, of structured noise."""

import numpy as np
import pytest
import torch

from bridges import (
    GivenDraws,
    Joint,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    Score,
    UniformDiscreteDiffusion,
    Velocity,
    WrappedBrownianDiffusion,
    sample_backward,
    trajectory,
)
from bridges.gaussian import BrownianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver
from bridges.one_step import DDIMSolver, EulerSolver, HeunSolver, PredictorCorrectorSolver
from bridges.sampler import _grid, _walk
from bridges.structured import StructuredDiffusion
from solver_cases import CURVES, DETERMINISTIC, DOUBLE, OU, RECTIFIED, SOLVERS, bend, every, rng
from test_no_sync import META, Counted

GRID = [0.0, 0.1, 0.4, 0.7, 1.0]
SEQ = UniformDiscreteDiffusion(1.0, 4)


def state(seed, *shape):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ times


@every
def test_times_per_example_are_runs_of_their_own(solver):
    """Rows that start late, stop early or wait go the way they go alone."""
    rows = torch.tensor([GRID, [0.0, 0.0, 0.2, 0.2, 0.8], [0.3] * 5, [0.05, 0.2, 0.3, 0.31, 1.0]])
    rows, x, normals = rows.double(), state(0, 4, 3), state(1, 12, 4, 3)
    together = sample_backward(
        bend, OU, rows.T, x, solver=solver, generator=GivenDraws(normals=list(normals))
    )
    assert torch.equal(together[2], x[2])
    for i, row in enumerate(rows):
        own, given = x[i : i + 1], GivenDraws(normals=list(normals[:, i : i + 1]))
        alone = sample_backward(bend, OU, row.unsqueeze(1), own, solver=solver, generator=given)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-12, atol=1e-12)
        if solver in DETERMINISTIC:
            numbers = sample_backward(bend, OU, row, own, solver=solver)
            torch.testing.assert_close(numbers, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [EulerSolver(), *map(HeunSolver, CURVES)], ids=str)
def test_a_solver_of_one_step_does_not_notice_waiting(solver):
    x = state(2, 3, 2)
    plain = sample_backward(bend, OU, [0.1, 0.5, 1.0], x, solver=solver)
    waiting = sample_backward(bend, OU, [0.1, 0.1, 0.5, 0.5, 1.0, 1.0], x, solver=solver)
    assert torch.equal(plain, waiting)


@pytest.mark.parametrize("curve", CURVES, ids=str)
@pytest.mark.parametrize("kind", [AdamsBashforthSolver, ExponentialSolver])
def test_waiting_takes_the_place_of_something_remembered(kind, curve):
    x = state(2, 3, 2)
    waiting = sample_backward(bend, OU, [0.1, 0.5, 0.5, 0.8, 1.0], x, solver=kind(3, curve))
    lower = sample_backward(bend, OU, [0.1, 0.5, 0.8, 1.0], x, solver=kind(2, curve))
    torch.testing.assert_close(waiting, lower, rtol=1e-12, atol=1e-12)


@every
def test_a_clock_is_other_times(solver):
    clock = PowerClock(2.0, 1.5)
    x, moved = state(3, 4, 3), [clock(torch.tensor(t, dtype=DOUBLE)).item() for t in GRID]

    def on_clock(x_t, t):
        return bend(x_t, clock(t))

    found = sample_backward(on_clock, OU.on(clock), GRID, x, solver=solver, generator=rng(4))
    exact = sample_backward(bend, OU, moved, x, solver=solver, generator=rng(4))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ masks, noise, predictions


@every
def test_a_mask_keeps_the_rest_bit_for_bit(solver):
    mask = torch.tensor([[True, False, True]]).expand(4, 3)
    x = state(5, 4, 3)
    x[0, 1] = torch.nan

    def nan_off_mask(x_t, t):
        return torch.where(mask, bend(x_t.nan_to_num(), t), torch.nan)

    for stop in (0, 1):
        found = sample_backward(
            nan_off_mask, OU.where(mask), GRID[stop:], x, solver=solver, generator=rng(6)
        )
        exact = sample_backward(bend, OU, GRID[stop:], x, solver=solver, generator=rng(6))
        torch.testing.assert_close(found[~mask], x[~mask], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found[mask], exact[mask])


@pytest.mark.parametrize("solver", [DDIMSolver(1.0), PredictorCorrectorSolver(1, 0.2)], ids=str)
def test_a_temperature_scales_the_noise(solver):
    x, normals = torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, 1)

    def moved(process, scale):
        noise = GivenDraws(normals=list(scale * normals))
        zero = lambda x_t, t: 0 * x_t  # noqa: E731
        return sample_backward(zero, process, [0.4, 0.7], x, solver=solver, generator=noise)

    torch.testing.assert_close(moved(OU.tempered(0.3), 1.0), moved(OU, 0.3))
    assert not torch.allclose(moved(OU, 1.0), moved(OU, 0.3))


@every
def test_structured_noise_stays_on_its_range(solver):
    """Atoms without a centre of mass: as numbers do, with the noise projected."""
    noise, numbers = ZeroCentreOfMass(5), OrnsteinUhlenbeckDiffusion(0.0, 1.2, 0.8)
    process = StructuredDiffusion(numbers, noise)
    x, normals = noise.project(state(7, 2, 5, 3)), state(8, 20, 2, 5, 3)

    def guess(x_t, t):
        return noise.project(bend(x_t, t))

    grids = GRID, torch.tensor([[0.0, 0.2], [0.4, 0.3], [0.9, 0.8]])
    for grid in grids:
        given = GivenDraws(normals=list(normals))
        found = sample_backward(guess, process, grid, x, solver=solver, generator=given)
        projected = GivenDraws(normals=[noise(normal) for normal in normals])
        exact = sample_backward(guess, numbers, grid, x, solver=solver, generator=projected)
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
        assert found.mean(-2).abs().max() < 1e-12


@pytest.mark.parametrize("kind", [Noise, Score, Velocity])
@pytest.mark.parametrize(
    "process", [OU, OU.on(PowerClock(2.0, 1.5)), BrownianDiffusion(1.3)], ids=str
)
@every
def test_a_guess_may_be_a_tangent_vector(solver, process, kind):
    x = state(9, 4, 3)

    def tangent(x_t, t):
        return process.convert(bend(x_t, t), kind, x_t, t)

    found = sample_backward(tangent, process, GRID, x, solver=solver, generator=rng(10))
    exact = sample_backward(bend, process, GRID, x, solver=solver, generator=rng(10))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_the_state_keeps_its_dtype_and_is_not_written_to():
    x = torch.randn(4, 3, generator=rng(11))
    before = x.clone()
    for solver in SOLVERS:
        half = lambda x_t, t: bend(x_t, t).bfloat16()  # noqa: E731
        for step in trajectory(half, OU, GRID, x, solver=solver):
            assert step.x_s.dtype == step.x_0_hat.dtype == torch.float32
    assert torch.equal(x, before)


# ------------------------------------------------------------------ several parts


def test_a_joint_takes_a_solver_for_each_part():
    """Each part goes its own way, under one guess of the whole state."""
    process = Joint(a=OU, b=Joint(SEQ, RECTIFIED), c=WrappedBrownianDiffusion(0.7))
    x = {"a": state(12, 3, 2), "b": (torch.tensor([0, 1, 2]), state(13, 3)), "c": state(14, 3)}
    solver = {"a": HeunSolver(), "b": (None, ExponentialSolver(2)), "c": None}
    eta, seen = {"a": 1.0, "b": (1.0, 1.0), "c": 0.0}, []

    def guess(x_t, t):
        seen.append(t[0].item())
        tokens = torch.zeros(3, 4, dtype=DOUBLE)
        return {"a": bend(x_t["a"], t), "b": (tokens, bend(x_t["b"][1], t)), "c": 0.5 * x_t["c"]}

    end = sample_backward(guess, process, GRID, x, eta=eta, solver=solver, generator=rng(15))
    assert seen == pytest.approx([1.0, 0.7, 0.7, 0.4, 0.4, 0.1, 0.1])
    alone = sample_backward(bend, OU, GRID, x["a"], solver=HeunSolver())
    torch.testing.assert_close(end["a"], alone)
    alone = sample_backward(bend, RECTIFIED, GRID, x["b"][1], solver=ExponentialSolver(2))
    torch.testing.assert_close(end["b"][1], alone)
    alone = sample_backward(
        lambda x_t, t: 0.5 * x_t, WrappedBrownianDiffusion(0.7), GRID, x["c"], eta=0.0
    )
    torch.testing.assert_close(end["c"], alone)


def test_one_solver_serves_all_parts_on_grids_of_their_own():
    """The second part waits, ends early and is not corrected then; the guess is of both."""
    process, x = Joint(OU, RECTIFIED), (state(16, 3), state(17, 3))
    grids, solver = (GRID, [0.0, 0.0, 0.3, 0.3, 0.6]), PredictorCorrectorSolver(1, 0.2)
    normals, seen = list(state(18, 4, 3)), []

    def guess(x_t, t):
        seen.append((t[0][0].item(), t[1][0].item()))
        return bend(x_t[0], t[0]), bend(x_t[1], t[1])

    given = GivenDraws(normals=normals)
    end = sample_backward(guess, process, grids, x, solver=solver, generator=given)
    times = [(1.0, 0.6), (0.7, 0.3), (0.7, 0.3), (0.4, 0.3), (0.4, 0.3), (0.1, 0.0), (0.1, 0.0)]
    np.testing.assert_allclose(seen, times)
    for i, (part, drawn) in enumerate(((OU, [0, 2, 3]), (RECTIFIED, [1]))):
        given = GivenDraws(normals=[normals[k] for k in drawn])
        alone = sample_backward(bend, part, grids[i], x[i], solver=solver, generator=given)
        torch.testing.assert_close(end[i], alone)


def test_a_part_corrects_no_more_than_its_solver():
    process, x = Joint(OU, RECTIFIED), (state(22, 3), state(23, 3))
    guess = lambda x_t, t: (bend(x_t[0], t), bend(x_t[1], t))  # noqa: E731
    solver = HeunSolver(), PredictorCorrectorSolver(3, 0.2)
    end, _ = sample_backward(guess, process, GRID, x, solver=solver, generator=rng(24))
    alone = sample_backward(bend, OU, GRID, x[0], solver=HeunSolver())
    assert torch.equal(end, alone)


# ------------------------------------------------------------------ gradients and devices


@every
def test_gradients_through_three_steps(solver):
    x = state(20, 2, 2).requires_grad_()
    weight = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def end(x, weight):
        guess = lambda x_t, t: torch.tanh(weight * x_t) * (1 - 0.3 * t[:, None])  # noqa: E731
        given = GivenDraws(normals=[state(21 + i, 2, 2) for i in range(9)])
        *_, last = trajectory(guess, OU, [0.1, 0.4, 0.8, 1.2], x, solver=solver, generator=given)
        return last.x_s

    assert torch.autograd.gradcheck(end, (x, weight))


@every
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_in_the_loop_reads_a_device(solver, masked):
    mask = torch.ones(4, 3, dtype=torch.bool, device=META)
    x = torch.empty(4, 3, device=META)
    grids = GRID, torch.empty(5, 4, dtype=DOUBLE, device=META)
    for grid in grids:
        clocked = OU.on(PowerClock(2.0, 1.5))
        warm = clocked.tempered(0.5) if solver.draws_noise else clocked
        for process in (OU, warm, RECTIFIED):
            process = process.where(mask) if masked else process
            guess = lambda x_t, t: torch.empty_like(x_t)  # noqa: E731
            walk = _walk(guess, process, _grid(grid), x, 1.0, Counted(40), solver)
            for step in walk:
                assert step.x_s.device == step.x_0_hat.device == META
                assert (step.x_s.shape, step.x_s.dtype) == (x.shape, x.dtype)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("process", "options", "sentence"),
    [
        (SEQ, {"solver": EulerSolver()}, "a Gaussian process for this solver; got UniformDis"),
        (
            WrappedBrownianDiffusion(1.0).on(PowerClock(2.0)),
            {"solver": HeunSolver()},
            "a Gaussian process for this solver; got WrappedBrownianDiffusion",
        ),
        (OU, {"solver": "heun"}, "solver to be a Solver or None; got 'heun'"),
        (OU, {"solver": EulerSolver}, "solver to be a Solver or None; got <class"),
        (OU, {"solver": EulerSolver(), "eta": 0.0}, "eta to be 1 beside a solver, which has its"),
        (OU, {"solver": (EulerSolver(),)}, "solver to be a Solver or None; got a tuple of len"),
        (Joint(OU, OU), {"solver": (None,)}, "solver to be a tuple of length 2; got a tuple of l"),
        (Joint(OU, SEQ), {"solver": EulerSolver()}, "a Gaussian process for this solver; got Uni"),
    ],
)
@pytest.mark.parametrize("run", [trajectory, sample_backward])
def test_what_a_run_refuses_raises_before_the_first_guess(run, process, options, sentence):
    def guess(x_t, t):
        raise AssertionError("the guess was called")

    x = process.sample_prior(((2,), (2,)) if isinstance(process, Joint) else (2,))
    with pytest.raises(
        (TypeError, ValueError, NotImplementedError), match=f"^Expected {sentence}"
    ):
        run(guess, process, GRID, x, **options)


def test_a_joint_refuses_a_prediction_of_another_structure():
    process, x = Joint(OU, OU), (torch.zeros(2), torch.zeros(2))
    for solver in (None, EulerSolver(), (EulerSolver(), None)):
        with pytest.raises(ValueError, match="^Expected the prediction to be a tuple of length 2"):
            sample_backward(lambda x_t, t: torch.zeros(2), process, GRID, x, solver=solver)

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import Joint, PowerClock, sample_backward, trajectory
from bridges._draw import as_draws
from bridges.curve import LineCurve, NoiseCurve
from bridges.gaussian import GaussianDiffusion
from bridges.one_step import DDIMSolver, EulerSolver, HeunSolver, PredictorCorrectorSolver
from bridges.schedule import DecaySchedule, RectifiedSchedule
from bridges.ve_schedule import VESchedule
from bridges.vp_schedule import CosineSchedule, OffsetCosineSchedule, VPSchedule
from linear_runs import RUNS, Walk, columns, law
from mixture_denoiser import DOUBLE, on_a_line
from solver_cases import OU, RECTIFIED, STOCHASTIC, NoDraws, bend, deterministic, every, rng

# ------------------------------------------------------------------ the formulas, by hand


def euler(walk):
    y = walk.start()
    for t, s in walk.steps():
        (a_t, s_t), (a_s, s_s) = walk.scales(t), walk.scales(s)
        y = a_s / a_t * y + a_s * (s_s / a_s - s_t / a_t) * walk.noise(y, t)
    return walk.done(y)


def ddim(eta):
    def run(walk):
        y = walk.start()
        for k, (t, s) in enumerate(walk.steps()):
            (a_t, s_t), (a_s, s_s) = walk.scales(t), walk.scales(s)
            tau = min(1.0, eta * (1 - (a_t / a_s * s_s / s_t) ** 2))
            kept = math.sqrt(1 - tau) * walk.noise(y, t)
            y = a_s * walk.guess(y, t) + s_s * (kept + math.sqrt(tau) * walk.draw(k))
        return walk.done(y)

    return run


def heun(walk):
    """Of EDM, on dy/du = ε with y/α."""
    y = walk.start()
    for t, s in walk.steps():
        (a_t, s_t), (a_s, s_s) = walk.scales(t), walk.scales(s)
        step = s_s / a_s - s_t / a_t
        first = walk.noise(y, t)
        ahead = a_s * (y / a_t + step * first)
        y = a_s * (y / a_t + step * (first + walk.noise(ahead, s)) / 2)
    return walk.done(y)


def heun_on_line(walk):
    """On the velocity ε − y_0 of a rectified flow, with y/(α + σ)."""
    y = walk.start()
    for t, s in walk.steps():
        (a_t, s_t), (a_s, s_s) = walk.scales(t), walk.scales(s)
        step = s_s / (a_s + s_s) - s_t / (a_t + s_t)
        first = walk.noise(y, t) - walk.guess(y, t)
        ahead = (a_s + s_s) * (y / (a_t + s_t) + step * first)
        last = walk.noise(ahead, s) - walk.guess(ahead, s)
        y = (a_s + s_s) * (y / (a_t + s_t) + step * (first + last) / 2)
    return walk.done(y)


def corrected(count, delta):
    """Euler's step, then Langevin steps that renew the share δ of the noise."""

    def run(walk):
        y, draws = walk.start(), iter(range(walk.draws))
        for t, s in walk.steps():
            a_s, s_s = walk.scales(s)
            y = a_s * walk.guess(y, t) + s_s * walk.noise(y, t)
            for _ in range(count):
                clean = a_s * walk.guess(y, s)
                kept = math.sqrt(1 - delta) * (y - clean)
                y = clean + kept + math.sqrt(delta) * s_s * walk.draw(next(draws))
        return walk.done(y)

    return run


BY_HAND = [
    (EulerSolver(), euler, 0),
    (DDIMSolver(0.0), euler, 0),
    (DDIMSolver(0.4), ddim(0.4), 1),
    (DDIMSolver(1.0), ddim(1.0), 1),
    (DDIMSolver(1.7), ddim(1.7), 1),
    (HeunSolver(NoiseCurve()), heun, 0),
    (HeunSolver(LineCurve()), heun_on_line, 0),
    (PredictorCorrectorSolver(2, 0.1), corrected(2, 0.1), 2),
]


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize(
    ("solver", "formula", "each"),
    BY_HAND,
    ids=lambda value: getattr(value, "__qualname__", str(value)),
)
def test_a_solver_is_its_formula_on_normal_data(name, solver, formula, each):
    process, grid = RUNS[name]
    draws = each * (len(grid) - 1)
    found, exact = columns(process, grid, solver, draws), formula(Walk(process, grid, draws))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12)
    for one, other in zip(law(found, 1.3), law(exact, 1.3), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def test_ddim_is_the_own_step_at_both_ends_of_eta():
    x, draws = torch.randn(5, 3, generator=rng(0), dtype=DOUBLE), rng(1)
    for eta in (0.0, 1.0):
        own = sample_backward(bend, OU, [0.0, 0.1, 1.0, 2.0], x, eta=eta, generator=rng(1))
        found = sample_backward(
            bend, OU, [0.0, 0.1, 1.0, 2.0], x, solver=DDIMSolver(eta), generator=draws
        )
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)


def test_small_steps_of_ddim_have_the_root_of_its_eta():
    """Shares of fresh noise: 1 − r^(2η²) of the own step with η = √0.3 against 0.3 (1 − r²)."""
    for r in (0.9, 0.99, 0.999):
        own, ddim = 1 - r ** (2 * 0.3), 0.3 * (1 - r**2)
        assert own / ddim - 1 == pytest.approx(0.7 * (1 - r), rel=0.2)


# ------------------------------------------------------------------ ends, schedules, noise


SCHEDULES = [
    RectifiedSchedule(),
    CosineSchedule(),
    OffsetCosineSchedule(),
    DecaySchedule(0.2),
    VPSchedule(),
    VESchedule(0.01, 50.0),
]
WAITING = [0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 1.0]


@every
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("grid", [[0.0, 1.0], [0.0, 0.01, 0.3, 0.8, 1.0], WAITING], ids=str)
def test_every_schedule_from_end_to_end(solver, schedule, grid):
    """No NaN from α_1 = 0 to σ_0 = 0, and the last guess comes out bit for bit."""
    process = GaussianDiffusion(schedule)
    x = process.sample_prior((4, 3), generator=rng(2))
    steps = list(trajectory(bend, process, grid, x, solver=solver, generator=rng(3)))
    assert all(step.x_s.isfinite().all() for step in steps)
    ended = [step for step in steps if step.s == 0]
    assert torch.equal(ended[0].x_s, ended[0].prediction)
    assert torch.equal(ended[-1].x_s, ended[0].x_s)


@deterministic
def test_a_deterministic_solver_draws_nothing(solver):
    x = torch.randn(4, 3, generator=rng(4))
    grids = [0.0, 0.3, 1.0], torch.tensor([[0.0] * 4, [0.3] * 4, [1.0] * 4])
    for grid in grids:
        for process in (RECTIFIED, OU):
            sample_backward(bend, process, grid, x, solver=solver, generator=NoDraws())


@deterministic
def test_a_temperature_is_refused_where_nothing_is_drawn(solver):
    """It would do nothing; so would it at η = 0."""
    x, grid = torch.zeros(4, 3), [0.0, 0.3, 1.0]
    cold = OU.tempered(0.5)
    sentence = "Expected a tempered process to draw noise, which it scales; got "
    for process in (cold, cold.on(PowerClock(2.0)), cold.where(torch.ones(4, 3).bool())):
        with pytest.raises(ValueError, match=sentence):
            sample_backward(bend, process, grid, x, solver=solver)
        with pytest.raises(ValueError, match=sentence + "eta = 0"):
            sample_backward(bend, process, grid, x, eta=0.0)
        with pytest.raises(ValueError, match=sentence + "eta = 0"):
            process.sample_bridge(x, x, 0.2, 0.5, eta=0)
    joint = Joint(a=cold, b=OU)
    both = lambda x_t, t: {k: 0 * v for k, v in x_t.items()}  # noqa: E731
    state = {"a": x, "b": x}
    with pytest.raises(ValueError, match=sentence):
        sample_backward(both, joint, grid, state, solver=solver)
    solvers = {"a": DDIMSolver(1.0), "b": solver}
    sample_backward(both, joint, grid, state, solver=solvers)
    sample_backward(both, joint, grid, state, eta={"a": 0.3, "b": 0.0})
    for other in (DDIMSolver(0.0), PredictorCorrectorSolver(0), PredictorCorrectorSolver(2, 0.0)):
        with pytest.raises(ValueError, match=sentence):
            sample_backward(bend, cold, grid, x, solver=other)


@pytest.mark.parametrize("steps", [4, 20])
@pytest.mark.parametrize(
    "options",
    [{"solver": solver} for solver in STOCHASTIC] + [{"eta": eta} for eta in (0.5, 1.0, 3.0)],
    ids=str,
)
def test_few_steps_stay_close_to_the_data(steps, options):
    denoiser = on_a_line(RECTIFIED)
    x = torch.randn(20_000, 1, generator=rng(5), dtype=DOUBLE)
    grid = torch.linspace(0, 1, steps + 1, dtype=DOUBLE)
    end = sample_backward(denoiser, RECTIFIED, grid, x, generator=rng(6), **options)
    data = denoiser.sample(20_000, rng(7))
    found = stats.wasserstein_distance(end.flatten(), data.flatten())
    assert found < {4: 0.5, 20: 0.25}[steps]


# ------------------------------------------------------------------ guesses


@pytest.mark.parametrize(
    ("solver", "each"), [(EulerSolver(), 1), (HeunSolver(), 2), (PredictorCorrectorSolver(3), 4)]
)
def test_guesses_per_step_and_none_at_zero(solver, each):
    x = torch.zeros(2, 3)
    for grid in ([0.0, 0.5, 1.0], [[0.0, 0.0], [0.5, 0.25], [1.0, 0.5]]):
        seen = []

        def guess(x_t, t, seen=seen):
            seen.append(t.tolist())
            return bend(x_t, t)

        sample_backward(guess, OU, torch.tensor(grid), x, solver=solver)
        first, half = (torch.tensor(row).expand(2).tolist() for row in (grid[2], grid[1]))
        assert seen == [first] + (each - 1) * [half] + [half]


@every
def test_a_step_is_a_function(solver):
    """The same carry gives the same step, whatever was done with it before."""
    times = [torch.tensor(t, dtype=DOUBLE) for t in (0.1, 0.4, 0.7, 1.0)]
    x, carry = torch.randn(4, 3, generator=rng(8)), solver.start(OU, times)

    def after(carry, seed):
        said, draws = bend(x, torch.ones(4)), as_draws(rng(seed))
        return solver.step(carry, said, x, times[2], times[3], draws)

    first, x_s, _ = after(carry, 9)
    solver.step(first, x_s, x_s, times[1], times[2], as_draws(rng(10)))
    again, x_again, _ = after(carry, 9)
    assert torch.equal(x_s, x_again)
    assert len(again.history) == len(first.history)
    assert all(map(torch.equal, again.history, first.history))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DDIMSolver(-0.1), "Expected eta to be at least 0; got -0.1."),
        (lambda: DDIMSolver("a"), "Expected eta to be a number; got 'a'."),
        (lambda: HeunSolver("u"), "Expected curve to be a Curve; got 'u'."),
        (
            lambda: PredictorCorrectorSolver(1.0),
            "Expected count to be an integer of at least 0; got 1.0.",
        ),
        (
            lambda: PredictorCorrectorSolver(1, 1.5),
            r"Expected delta to lie in \[0, 1\]; got 1.5.",
        ),
    ],
)
def test_constructors_say_what_they_expect(make, sentence):
    with pytest.raises((TypeError, ValueError), match=f"^{sentence}$"):
        make()

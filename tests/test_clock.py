import math

import pytest
import torch

from bridges import (
    Clock,
    GeometricClock,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    timeschedule,
)

DOUBLE = torch.float64
CLOCKS = pytest.mark.parametrize(
    ("clock", "formula"),
    [
        (LinearClock(2.5), lambda t: 2.5 * t),
        (LinearClock(), lambda t: t),
        (PowerClock(2.0, 0.7), lambda t: 0.7 * t**2),
        (PowerClock(0.5), math.sqrt),
        (GeometricClock(0.02, 3.0), lambda t: 0.02 * 150**t),
    ],
)
TIMES = torch.tensor([1e-9, 0.01, 0.4, 1.0, 1.7], dtype=DOUBLE)


@CLOCKS
def test_formula_and_inverse(clock, formula):
    exact = torch.tensor([formula(t) for t in TIMES.tolist()], dtype=DOUBLE)
    torch.testing.assert_close(clock(TIMES), exact, rtol=1e-13, atol=0)
    torch.testing.assert_close(clock.inverse(clock(TIMES)), TIMES, rtol=1e-9, atol=1e-14)


@CLOCKS
def test_starts_at_zero_exactly_and_increases(clock, formula):
    zero = torch.zeros(2, 3, dtype=DOUBLE)
    assert (clock(zero) == 0).all()
    assert (clock.inverse(zero) == 0).all()
    assert clock(zero).shape == (2, 3)
    assert clock(torch.tensor(0.0, dtype=DOUBLE)).item() == 0
    t = torch.linspace(0, 2, 101, dtype=DOUBLE)
    assert (clock(t)[1:] > clock(t)[:-1]).all()


@CLOCKS
def test_derivative_against_autograd(clock, formula):
    t = TIMES[1:].clone().requires_grad_()
    (slope,) = torch.autograd.grad(clock(t).sum(), t)
    torch.testing.assert_close(clock.derivative(TIMES[1:]), slope)


@CLOCKS
def test_a_linear_process_on_a_clock_has_its_variance(clock, formula):
    process = OrnsteinUhlenbeckDiffusion(0.0, 1.0, 0.5).on(clock)
    x = torch.zeros(5, dtype=DOUBLE)
    found = process.score(x + 1, x, TIMES)
    exact = torch.tensor([1 / math.expm1(-formula(t)) for t in TIMES.tolist()], dtype=DOUBLE)
    torch.testing.assert_close(found, exact)


def test_clocks_are_values():
    assert LinearClock(2.0) == LinearClock(2.0)
    assert hash(PowerClock(2.0)) == hash(PowerClock(2.0, 1.0))
    with pytest.raises(TypeError, match="abstract"):
        Clock()
    with pytest.raises(AttributeError):
        LinearClock(2.0).factor = 3.0


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_bad_clocks(bad):
    for make in (
        lambda: LinearClock(bad),
        lambda: PowerClock(bad),
        lambda: PowerClock(1.0, bad),
        lambda: GeometricClock(bad, 1.0),
        lambda: GeometricClock(0.5, bad),
    ):
        with pytest.raises(ValueError, match="^Expected (factor|power|low|high) to "):
            make()
    with pytest.raises(ValueError, match=r"Expected high to exceed low \(2.0\); got 2.0"):
        GeometricClock(2.0, 2.0)


def test_a_process_runs_on_clocks_only():
    with pytest.raises(TypeError, match="Expected clock to be a Clock; got 2.0"):
        OrnsteinUhlenbeckDiffusion(0.0).on(2.0)


# ------------------------------------------------------------------ timeschedule


def test_timeschedule_against_diffusions_jl():
    """f.(range(inverse(lb), inverse(ub), n)), log-spaced here."""
    grid = timeschedule(torch.exp, torch.log, 0.001, 30.0, 7)
    exact = [math.exp(math.log(0.001) + i / 6 * math.log(30_000)) for i in range(7)]
    assert grid.dtype == DOUBLE
    assert grid.tolist() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("lb", "ub"), [(0.1, 0.7), (1e-3, 1 / 3), (0.3, 1e3)])
@pytest.mark.parametrize("n", [2, 3, 50])
def test_both_ends_are_exact(lb, ub, n):
    for f, inverse in [(torch.exp, torch.log), (lambda u: u**3, lambda t: t ** (1 / 3))]:
        grid = timeschedule(f, inverse, lb, ub, n)
        assert grid.shape == (n,)
        assert (grid[0].item(), grid[-1].item()) == (lb, ub)
        assert (grid[1:] > grid[:-1]).all()


def test_a_grid_may_start_at_zero():
    grid = timeschedule(lambda u: u**2, torch.sqrt, 0.0, 4.0, 5)
    assert grid.tolist() == pytest.approx([0.0, 0.25, 1.0, 2.25, 4.0])
    assert grid[0].item() == 0


def test_timeschedule_leaves_its_arguments_alone():
    kept = []

    def f(u):
        kept.append((u, u.clone()))
        return u

    timeschedule(f, lambda t: t, 0.1, 0.7, 4)
    assert torch.equal(kept[0][0][1:-1], kept[0][1][1:-1])


@pytest.mark.parametrize("n", [1, 0, -3, 2.0, True])
def test_too_few_points(n):
    with pytest.raises(ValueError, match="Expected n to be an integer of at least 2; got "):
        timeschedule(torch.exp, torch.log, 0.1, 1.0, n)


@pytest.mark.parametrize(("lb", "ub"), [(1.0, 0.1), (0.5, 0.5)])
def test_times_that_do_not_increase(lb, ub):
    with pytest.raises(ValueError, match="Expected the times to increase from lb to ub; got "):
        timeschedule(torch.exp, torch.log, lb, ub, 5)

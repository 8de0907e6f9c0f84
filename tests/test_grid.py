import math

import numpy as np
import pytest
import torch

from bridges import (
    PowerClock,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    sample_backward,
    timeschedule,
)
from bridges._so3 import exp
from bridges.grid import (
    cosine_times,
    explicit_times,
    exponential_times,
    geometric_times,
    karras_times,
    quadratic_times,
    uniform_times,
)

DOUBLE = torch.float64
GRIDS = (
    uniform_times,
    geometric_times,
    karras_times,
    cosine_times,
    quadratic_times,
    exponential_times,
)
FROM_0 = tuple(grid for grid in GRIDS if grid is not geometric_times)
grids = pytest.mark.parametrize("grid", GRIDS)


def increases(times):
    return bool((times[1:] > times[:-1]).all())


# ---------------------------------------------------------------- timeschedule


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
        assert increases(grid)


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


# ---------------------------------------------------------------- the named grids


@grids
@pytest.mark.parametrize(("lb", "ub"), [(0.1, 0.7), (1e-3, 1 / 3), (0.3, 1e3), (2, 80)])
@pytest.mark.parametrize("n", [2, 3, 100])
def test_named_grids_run_from_end_to_end(grid, lb, ub, n):
    times = grid(lb, ub, n)
    assert (times.shape, times.dtype) == ((n,), DOUBLE)
    assert (times[0].item(), times[-1].item()) == (lb, ub)
    assert increases(times)


@pytest.mark.parametrize("grid", FROM_0)
def test_all_but_the_geometric_may_start_at_zero(grid):
    times = grid(0.0, 1.0, 200)
    assert times[0].item() == 0
    assert increases(times)


def test_against_numpy():
    np.testing.assert_allclose(uniform_times(0.2, 3.1, 12), np.linspace(0.2, 3.1, 12))
    np.testing.assert_allclose(geometric_times(2e-3, 80.0, 12), np.geomspace(2e-3, 80.0, 12))
    square = np.linspace(np.sqrt(0.2), np.sqrt(3.1), 12) ** 2
    np.testing.assert_allclose(quadratic_times(0.2, 3.1, 12), square)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras(rho):
    """Karras et al. 2022, eq. 5, which counts from the highest noise."""
    low, high, n = 0.002, 80.0, 18
    i = np.arange(n)
    root_low, root_high = low ** (1 / rho), high ** (1 / rho)
    sigma = (root_high + i / (n - 1) * (root_low - root_high)) ** rho
    np.testing.assert_allclose(karras_times(low, high, n, rho=rho), sigma[::-1], atol=1e-13)
    assert torch.equal(karras_times(low, high, n), karras_times(low, high, n, rho=7.0))


def test_ddim_quadratic():
    """Song, Meng & Ermon 2021, D.2: τ_i = c i²."""
    np.testing.assert_allclose(quadratic_times(0.0, 900.0, 31), np.arange(31) ** 2, atol=1e-12)


def test_cosine_is_the_grid_of_three_papers():
    steps = np.arange(21) / 20
    ours = cosine_times(0.0, 1.0, 21).numpy()
    md4 = np.cos(np.pi / 2 * (1 - steps))
    maskgit = np.cos(np.pi / 2 * steps)[::-1]
    sway = 1 - (steps - (np.cos(np.pi / 2 * steps) - 1 + steps))[::-1]
    for theirs in (md4, maskgit, sway):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rate", [0.3, 10.0, 30.0])
def test_exponential(rate):
    u = 1 - np.arange(21) / 20
    left = np.exp(-rate * u)
    exact = 0.2 + 3.0 * (left - left[0]) / -np.expm1(-rate)
    np.testing.assert_allclose(exponential_times(0.2, 3.2, 21, rate), exact, rtol=1e-14)


def test_exponential_at_the_ends_of_its_rate():
    slow = exponential_times(0.2, 3.2, 21, rate=1e-12)
    torch.testing.assert_close(slow, uniform_times(0.2, 3.2, 21), rtol=1e-11, atol=0)
    fast = exponential_times(0.0, 1.0, 21, rate=700.0)
    torch.testing.assert_close(fast[1:].log(), torch.arange(-19, 1, dtype=DOUBLE) * 35)


def test_exponential_is_frameflow_s_but_for_the_last_jump():
    """There 1 − κ(u) = e^{−10u} of the way is left at the time u, and nothing after the jump."""
    u = np.linspace(0, 1, 101)
    times = exponential_times(0.0, 1.0, 101).numpy()[::-1]
    assert np.abs(times - np.exp(-10 * u)).max() < 1.01 * math.exp(-10)
    np.testing.assert_allclose(times[1:50] / times[:49], math.exp(-0.1), rtol=1e-3)


def test_the_share_of_a_rotation_that_is_left():
    """On a quadratic clock, at eta = 0, a rotation is at the share t of its way to x_0."""
    process = RotationDiffusion(0.7).on(PowerClock(2.0))
    rotvec = torch.tensor([[0.3, -0.9, 0.4]], dtype=DOUBLE)
    x_0, x_1 = exp(0 * rotvec), exp(rotvec)
    times = exponential_times(0.0, 1.0, 11)
    for k in range(1, 10):
        x = sample_backward(lambda x_t, t: x_0, process, times[k:], x_1, eta=0.0)
        torch.testing.assert_close(x, exp(times[k] * rotvec), rtol=1e-9, atol=1e-12)


def test_a_grid_walks_to_the_guess():
    process = UniformDiscreteDiffusion(1.0, 5)
    x_0 = torch.tensor([3, 1, 4])
    x = sample_backward(lambda x_t, t: x_0, process, cosine_times(0.0, 2.0, 7), x_0 * 0)
    assert torch.equal(x, x_0)


@pytest.mark.parametrize("values", [[0, 0.5, 2], (0.0, 0.5, 2.0), torch.tensor([0.0, 0.5, 2.0])])
def test_explicit_times(values):
    assert torch.equal(explicit_times(values), torch.tensor([0.0, 0.5, 2.0], dtype=DOUBLE))


# ---------------------------------------------------------------- bad input


@grids
@pytest.mark.parametrize("n", [1, 0, -3, 2.0, True])
def test_too_few_points(grid, n):
    with pytest.raises(ValueError, match="Expected n to be an integer of at least 2; got "):
        grid(0.1, 1.0, n)


@grids
@pytest.mark.parametrize(("lb", "ub"), [(1.0, 0.1), (0.5, 0.5), (0.5, 0)])
def test_times_that_do_not_increase(grid, lb, ub):
    with pytest.raises(ValueError, match="Expected the times to increase from lb to ub; got "):
        grid(lb, ub, 5)


# fmt: off
@pytest.mark.parametrize(("error", "call", "words"), [
    (ValueError, lambda: geometric_times(0.0, 1.0, 5), "Expected lb to be positive; got 0.0."),
    (ValueError, lambda: uniform_times(-0.1, 1.0, 5), "Expected lb to be at least 0; got -0.1."),
    (ValueError, lambda: cosine_times(-0.1, 1.0, 5), "Expected lb to be at least 0; got -0.1."),
    (TypeError, lambda: uniform_times("0", 1.0, 5), "Expected lb to be a number; got '0'."),
    (TypeError, lambda: cosine_times(0.0, None, 5), "Expected ub to be a number; got None."),
    (ValueError, lambda: karras_times(0.0, math.inf, 5), "Expected ub to be finite; got inf."),
    (ValueError, lambda: karras_times(0.1, 1.0, 5, rho=0.0),
     "Expected rho to be positive; got 0.0."),
    (ValueError, lambda: exponential_times(0.1, 1.0, 5, rate=-1.0),
     "Expected rate to be positive; got -1.0."),
    (ValueError, lambda: exponential_times(0.1, 1.0, 5, rate=1e3),
     "Expected rate to be at most 700; got 1000.0."),
    (ValueError, lambda: explicit_times([0.1]),
     "Expected values to hold at least 2 numbers; got a list of length 1."),
    (ValueError, lambda: explicit_times(0.1), "Expected values to hold at least 2 numbers; got 0"),
    (ValueError, lambda: explicit_times("01"), "Expected values to hold at least 2 numbers; got"),
    (ValueError, lambda: explicit_times([-0.1, 1.0]), "Expected values to be at least 0; got -0."),
    (ValueError, lambda: explicit_times([0.1, 1.0, 1.0]),
     "Expected values to increase; got a list of length 3 that does not."),
    (ValueError, lambda: explicit_times([0.0, math.nan]),
     "Expected values[1] to be finite; got nan."),
    (TypeError, lambda: explicit_times([0.0, "1"]), "Expected values[1] to be a number; got '1'."),
    (TypeError, lambda: explicit_times(torch.ones(2, 3)),
     "Expected values[0] to be a number; got a list of length 3."),
])
# fmt: on
def test_bad_grids(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(words)

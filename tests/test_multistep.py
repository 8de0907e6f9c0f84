import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from bridges import multistep, sample_backward
from bridges.curve import CircleCurve, DataCurve, LineCurve, NoiseCurve, Scales
from bridges.gaussian import GaussianDiffusion
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver
from bridges.one_step import EulerSolver, HeunSolver
from bridges.schedule import RectifiedSchedule
from bridges.vp_schedule import VPSchedule
from linear_runs import RUNS, Walk, columns, law
from mixture_denoiser import DOUBLE, in_a_plane
from solver_cases import CURVES, OU, RECTIFIED, bend, rng

# ------------------------------------------------------------------ curves


@pytest.mark.parametrize("curve", CURVES, ids=str)
def test_a_curve_is_what_it_says(curve):
    """Its pair (α/S, σ/S) has the slopes in θ, θ the speed in l, by automatic derivatives."""
    log_ratio = torch.tensor([-4.0, -0.3, 0.0, 1.7], dtype=DOUBLE, requires_grad=True)
    for alpha in (torch.ones(4, dtype=DOUBLE), torch.sigmoid(-1.3 * log_ratio)):
        at = Scales(alpha, alpha * log_ratio.exp())
        size, place = curve.size(at), curve.place(at)
        torch.testing.assert_close(at.log_ratio, log_ratio)

        def slope(of):
            (found,) = torch.autograd.grad(of.sum(), log_ratio, retain_graph=True)
            return found

        torch.testing.assert_close(slope(place), curve.speed(log_ratio))
        for pair, exact in zip((at.alpha / size, at.sigma / size), curve.slopes(at), strict=True):
            if pair.grad_fn is not None:
                found = slope(pair) / slope(place)
                torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


def test_shares_at_no_noise_are_finite():
    at = Scales(torch.tensor([0.6, 1.0]), torch.tensor([0.5, 0.0]))
    of_y_t, of_y_0 = at.shares(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(of_y_t, torch.tensor([4.0, 0.0]))
    torch.testing.assert_close(of_y_0, torch.tensor([-1.4, 3.0]))


# ------------------------------------------------------------------ integrals


def basis(nodes, j):
    def value(x):
        others = [node for i, node in enumerate(nodes) if i != j]
        return math.prod((x - node) / (nodes[j] - node) for node in others)

    return value


SPEEDS = [lambda x: 1 + 0 * x, np.exp, lambda x: -np.exp(-x), lambda x: 0.5 / np.cosh(x)]
PLACES = [2.5, 2.1, 0.9, 0.2, -1.0, -1.6, -4.5]


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("memory", [1, 30, 2**20])
def test_integrals_of_lagrange_polynomials(speed, order, memory, monkeypatch):
    """Against SciPy; the first steps have fewer places."""
    monkeypatch.setattr(multistep, "MEMORY", memory)
    here, there = (torch.tensor(part, dtype=DOUBLE) for part in (PLACES[:-1], PLACES[1:]))
    torch_speed = lambda x: torch.from_numpy(speed(x.numpy()))  # noqa: E731
    found = multistep.lagrange_integrals(here, there, order, torch_speed)
    assert len(found) == order - 1
    for k in range(len(here)):
        nodes = PLACES[k::-1][:order]
        for j in range(1, order):
            exact = 0.0
            if j < len(nodes):
                area = lambda x, nodes=nodes, j=j: basis(nodes, j)(x) * speed(x)  # noqa: E731
                exact, _ = quad(area, PLACES[k], PLACES[k + 1], epsabs=1e-13, epsrel=1e-13)
            assert found[j - 1][k].item() == pytest.approx(exact, rel=1e-10, abs=1e-10)


def test_a_place_at_infinity_is_the_limit_and_a_place_not_left_is_passed_over():
    ones = torch.ones_like
    finite = torch.tensor([1e9, 2.0, 1.0, 0.4], dtype=DOUBLE)
    infinite = torch.tensor([math.inf, 2.0, 1.0, 0.4], dtype=DOUBLE)
    for order in (2, 3):
        near = multistep.lagrange_integrals(finite[:-1], finite[1:], order, ones)
        found = multistep.lagrange_integrals(infinite[:-1], infinite[1:], order, ones)
        for a, b in zip(found, near, strict=True):
            torch.testing.assert_close(a[1:], b[1:], rtol=0, atol=1e-8)
            assert a[0] == 0
    waiting = torch.tensor([2.0, 1.0, 1.0, 0.4], dtype=DOUBLE)
    first, second = multistep.lagrange_integrals(waiting[:-1], waiting[1:], 3, ones)
    moving = torch.tensor([2.0, 1.0, 0.4], dtype=DOUBLE)
    (exact,) = multistep.lagrange_integrals(moving[:-1], moving[1:], 2, ones)
    assert first.tolist() == [0.0, 0.0, 0.0]
    assert second.tolist() == [0.0, 0.0, exact[-1].item()]


# ------------------------------------------------------------------ the formulas, by hand


def published(order, place, slope, ahead, speed=None, variable=None):
    """Return a run of a multistep method as it is printed, with integrals by SciPy.

    Each is y_s = first(t, s) y_t + scale(s) Σ g_j ∫ L_j v, from `ahead` = (first, scale).
    """
    variable, speed = variable or place, speed or (lambda x: 1.0)

    def run(walk):
        y, slopes, places = walk.start(), [], []
        for t, s in walk.steps():
            slopes, places = [slope(walk, y, t), *slopes], [variable(*walk.scales(t)), *places]
            slopes, places = slopes[:order], places[:order]
            first, scale = ahead(walk.scales(t), walk.scales(s))
            y = first * y
            for j, g in enumerate(slopes):
                area = lambda x, j=j, nodes=places: basis(nodes, j)(x) * speed(x)  # noqa: E731
                end = variable(*walk.scales(s))
                y = y + scale * g * quad(area, places[0], end, epsabs=1e-14, epsrel=1e-13)[0]
        return walk.done(y)

    return run


def log_ratio(alpha, sigma):
    return math.log(sigma / alpha)


def velocity(walk, y, t):
    """Return x/σ − (1 + α/σ) x̂_0."""
    alpha, sigma = walk.scales(t)
    return y / sigma - (1 + alpha / sigma) * walk.guess(y, t)


def residual(walk, y, t):
    """Return f of Rosenbrock's method, with a = σ²/(α² + σ²)."""
    alpha, sigma = walk.scales(t)
    a = sigma**2 / (alpha**2 + sigma**2)
    return (1 - a) / (math.sqrt(a) * alpha) * y - walk.guess(y, t) / math.sqrt(a)


def by_alpha(t, s):
    return s[0] / t[0], s[0]


def by_sigma(t, s):
    return s[1] / t[1], -s[1]


def by_sum(t, s):
    return sum(s) / sum(t), sum(s)


def by_root(t, s):
    return math.hypot(*s) / math.hypot(*t), math.hypot(*s)


def by_hand(order):
    """List each method with its formula."""
    noise, line = (lambda a, s: s / a), (lambda a, s: s / (a + s))
    sech = lambda x: math.exp(x) / (1 + math.exp(2 * x))  # noqa: E731
    decay = lambda x: math.exp(-x)  # noqa: E731
    return [
        (AdamsBashforthSolver(order, NoiseCurve()), (noise, Walk.noise, by_alpha)),
        (AdamsBashforthSolver(order, LineCurve()), (line, velocity, by_sum)),
        (ExponentialSolver(order, NoiseCurve()), (log_ratio, Walk.noise, by_alpha, math.exp)),
        (ExponentialSolver(order, DataCurve()), (log_ratio, Walk.guess, by_sigma, decay)),
        (RosenbrockSolver(order), (log_ratio, residual, by_root, sech)),
    ]


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("i", range(5))
def test_a_solver_is_its_formula_on_normal_data(name, order, i):
    solver, formula = by_hand(order)[i]
    found = columns(*RUNS[name], solver)
    exact = published(order, *formula)(Walk(*RUNS[name]))
    for one, other in zip(law(found, 1.3), law(exact, 1.3), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


def test_first_orders_are_ddim_and_the_circle_is_rosenbrock():
    x = torch.randn(4, 3, generator=rng(0), dtype=DOUBLE)
    for process in (OU, RECTIFIED):
        for grid in ([0.1, 0.4, 1.0], [0.0, 0.4, 1.0]):

            def end(solver, process=process, grid=grid):
                return sample_backward(bend, process, grid, x, solver=solver)

            for curve in (NoiseCurve(), DataCurve(), LineCurve()):
                for solver in (AdamsBashforthSolver(1, curve), ExponentialSolver(1, curve)):
                    torch.testing.assert_close(end(solver), end(EulerSolver()))
            for order in (1, 2, 3):
                circle = ExponentialSolver(order, CircleCurve())
                assert torch.equal(end(RosenbrockSolver(order)), end(circle))


# ------------------------------------------------------------------ convergence


def flow(denoiser, x, first, last):
    """Return the end of the probability flow, by SciPy along σ/(α + σ)."""
    schedule = denoiser.schedule

    def scales(t):
        return schedule.alpha(t).item(), schedule.sigma(t).item()

    def slope(place, state):
        log_snr = -2 * math.log(place / (1 - place)) if place < 1 else -math.inf
        t = schedule.inverse_log_snr(torch.tensor(log_snr, dtype=DOUBLE))
        y = sum(scales(t)) * torch.from_numpy(state).reshape(x.shape)
        x_0 = denoiser(y, t.expand(len(y)))
        return ((y - scales(t)[0] * x_0) / scales(t)[1] - x_0).numpy().ravel()

    span = [scales(t)[1] / sum(scales(t)) for t in (last, first)]
    start = (x / sum(scales(last))).numpy().ravel()
    run = solve_ivp(slope, span, start, method="DOP853", rtol=1e-11, atol=1e-12)
    return sum(scales(first)) * torch.from_numpy(run.y[:, -1]).reshape(x.shape)


ORDERS = [
    (EulerSolver(), 0.95, 1.05),
    *((HeunSolver(curve), 1.9, 2.2) for curve in CURVES),
    *((AdamsBashforthSolver(2, curve), 1.8, 2.2) for curve in CURVES),
    *((ExponentialSolver(2, curve), 1.8, 2.2) for curve in CURVES),
    *((AdamsBashforthSolver(3, curve), 2.8, 3.3) for curve in CURVES),
    *((ExponentialSolver(3, curve), 2.8, 3.3) for curve in CURVES),
    (RosenbrockSolver(1), 0.95, 1.05),
    (RosenbrockSolver(2), 1.8, 2.2),
    (RosenbrockSolver(3), 2.8, 3.3),
]


@pytest.fixture(scope="module")
def log_snr_run():
    """Return a denoiser, a start and the exact end at log-SNR −8 to 6."""
    denoiser = in_a_plane(GaussianDiffusion(VPSchedule()))
    x = torch.randn(32, 2, generator=rng(1), dtype=DOUBLE)
    last, first = denoiser.schedule.inverse_log_snr(torch.tensor([-8.0, 6.0], dtype=DOUBLE))
    return denoiser, x, flow(denoiser, x, first, last)


@pytest.mark.parametrize(("solver", "low", "high"), ORDERS, ids=str)
def test_the_order_of_convergence(solver, low, high, log_snr_run):
    denoiser, x, exact = log_snr_run

    def error(n):
        log_snr = torch.linspace(6, -8, n + 1, dtype=DOUBLE)
        grid = denoiser.schedule.inverse_log_snr(log_snr)
        end = sample_backward(denoiser, denoiser.process, grid, x, solver=solver)
        return (end - exact).abs().mean().item()

    assert low <= math.log2(error(64) / error(256)) / 2 <= high


def test_ten_steps_of_a_rectified_flow():
    """The best is ten times closer than DDIM is with as many guesses, on either of their grids."""
    denoiser = in_a_plane(GaussianDiffusion(RectifiedSchedule()))
    x = torch.randn(256, 2, generator=rng(2), dtype=DOUBLE)
    first, last = torch.tensor([1e-7, 1.0], dtype=DOUBLE)
    exact = denoiser(flow(denoiser, x, first, last), first.expand(256))
    even = torch.linspace(0, 1, 11, dtype=DOUBLE)
    sine = torch.sin(even * math.pi / 2) ** 2

    def error(solver, grid):
        end = sample_backward(denoiser, RECTIFIED, grid, x, solver=solver)
        return (end - exact).abs().mean().item()

    best = error(AdamsBashforthSolver(4), sine)
    assert 10 * best < min(error(EulerSolver(), grid) for grid in (even, sine))


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize("kind", [AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver])
def test_constructors_say_what_they_expect(kind):
    for order in (0, 5, 2.0, True):
        with pytest.raises(
            ValueError, match=r"^Expected order to be an integer from 1 to 4; got "
        ):
            kind(order)
    if kind is not RosenbrockSolver:
        with pytest.raises(TypeError, match=r"^Expected curve to be a Curve; got 'noise'\.$"):
            kind(2, "noise")

import math
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch

from bridges import LinearClock, OrnsteinUhlenbeckDiffusion
from bridges.clock import LinearRateClock
from bridges.gaussian import GaussianDiffusion
from bridges.schedule import (
    DecaySchedule,
    ExplodingSchedule,
    RectifiedSchedule,
    ShiftedSchedule,
    StraightSchedule,
    VariancePreservingSchedule,
)
from bridges.ve_schedule import EDMSchedule, VESchedule
from bridges.vp_schedule import (
    OffsetCosineSchedule,
    TableSchedule,
    VPSchedule,
)
from gaussian_cases import BETAS, EXPLODING, SCHEDULES

DOUBLE = torch.float64
TIMES = [1e-12, 1e-7, 0.004, 0.03, 0.25, 0.51, 0.613, 0.907, 0.999, 1 - 1e-9]
BY_NAME = pytest.mark.parametrize("name", SCHEDULES)
GRID = torch.linspace(1e-6, 1 - 1e-6, 4001, dtype=DOUBLE)


def in_50_digits(f, times=TIMES):
    """Evaluate a formula of (t, module) with mpmath, and round at the end."""
    with mpmath.workdps(50):
        return torch.tensor([float(f(mpmath.mpf(t), mpmath)) for t in times], dtype=DOUBLE)


def check_digits(schedule, alpha, sigma):
    t = torch.tensor(TIMES, dtype=DOUBLE)
    for found, formula in ((schedule.alpha(t), alpha), (schedule.sigma(t), sigma)):
        exact = in_50_digits(formula)
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.float(), exact.float(), rtol=1e-6, atol=0)


@BY_NAME
def test_scales_keep_their_digits_everywhere(name):
    schedule, formulas = SCHEDULES[name]
    check_digits(schedule, *formulas)


@dataclass(frozen=True)
class Textbook(VariancePreservingSchedule):
    """σ = √(1 − α²) as it is usually written."""

    right: VPSchedule

    def alpha(self, t):
        return self.right.alpha(t)

    def sigma(self, t):
        return torch.sqrt(1 - self.alpha(t) ** 2)

    def alpha_dot(self, t):
        return self.right.alpha_dot(t)

    def inverse_log_snr(self, log_snr):
        return self.right.inverse_log_snr(log_snr)


def test_the_digits_of_the_textbook_are_refused():
    with pytest.raises(AssertionError):
        check_digits(Textbook(VPSchedule()), *SCHEDULES["vp"][1])


@BY_NAME
def test_log_snr_is_that_of_the_scales_and_falls(name):
    schedule, (alpha, sigma) = SCHEDULES[name]
    exact = in_50_digits(lambda t, m: 2 * m.log(alpha(t, m) / sigma(t, m)))
    found = schedule.log_snr(torch.tensor(TIMES, dtype=DOUBLE))
    torch.testing.assert_close(found, exact, rtol=1e-13, atol=1e-13)
    assert (schedule.log_snr(GRID).diff() < 0).all()


@BY_NAME
def test_log_snr_and_its_inverse_return(name):
    schedule, _ = SCHEDULES[name]
    t = torch.cat((GRID, torch.tensor(TIMES, dtype=DOUBLE)))
    log_snr = schedule.log_snr(t)
    back = schedule.inverse_log_snr(log_snr)
    torch.testing.assert_close(back, t, rtol=0, atol=1e-10)
    # Near 0 the time keeps its relative digits where the log-SNR shows them.
    early = t < 1e-3
    slack = 1e-9 * t + 1e-14 * log_snr.abs() / schedule.log_snr_dot(t).abs()
    assert ((back - t).abs() <= slack)[early].all()


@BY_NAME
def test_derivatives_against_differences_in_50_digits(name):
    schedule, (alpha, sigma) = SCHEDULES[name]
    t = torch.tensor(TIMES[2:], dtype=DOUBLE)

    def slope(f):
        def central(t, m):
            h = mpmath.mpf(10) ** -18
            return (f(t + h, m) - f(t - h, m)) / (2 * h)

        return in_50_digits(central, TIMES[2:])

    torch.testing.assert_close(schedule.alpha_dot(t), slope(alpha), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(schedule.sigma_dot(t), slope(sigma), rtol=1e-9, atol=1e-14)
    log_snr = slope(lambda t, m: 2 * m.log(alpha(t, m) / sigma(t, m)))
    torch.testing.assert_close(schedule.log_snr_dot(t), log_snr, rtol=1e-9, atol=1e-13)


@BY_NAME
def test_derivatives_are_those_of_autograd(name):
    schedule, _ = SCHEDULES[name]
    for f, dot in (
        (schedule.alpha, schedule.alpha_dot),
        (schedule.sigma, schedule.sigma_dot),
        (schedule.log_snr, schedule.log_snr_dot),
    ):
        t = GRID[17::100].clone().requires_grad_()
        (slope,) = torch.autograd.grad((f(t) + 0 * t).sum(), t)
        torch.testing.assert_close(dot(t.detach()), slope, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ ends

NOTHING_LEFT = ("cosine", "offset cosine", "rectified", "decay", "shifted rectified")


@BY_NAME
def test_ends(name):
    schedule, (alpha, sigma) = SCHEDULES[name]
    ends = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    found_alpha, found_sigma = schedule.alpha(ends), schedule.sigma(ends)
    assert found_alpha[0] == 1
    if name not in EXPLODING:
        assert found_sigma[0] == 0
        assert schedule.log_snr(ends)[0] == math.inf
    else:
        torch.testing.assert_close(found_sigma, in_50_digits(sigma, [0, 1]), rtol=1e-14, atol=0)
    if name in NOTHING_LEFT or name == "shifted cosine":
        assert found_alpha[1] == 0
        assert found_sigma[1] == 1
        assert schedule.log_snr(ends)[1] == -math.inf
        last = schedule.inverse_log_snr(torch.tensor(-math.inf, dtype=DOUBLE))
        assert last.item() == pytest.approx(1, abs=1e-15)
    last = schedule.alpha_dot(ends)[1], schedule.sigma_dot(ends)[1]
    assert all(slope.isfinite() for slope in last)


@BY_NAME
def test_infinite_log_snr_is_time_0(name):
    schedule, _ = SCHEDULES[name]
    if name not in EXPLODING:
        assert schedule.inverse_log_snr(torch.tensor(math.inf, dtype=DOUBLE)) == 0


@pytest.mark.parametrize("gamma", [1e-6, 0.1, 0.999999])
def test_both_ends_of_a_decay_are_exact(gamma):
    t = torch.tensor([0.0, 1e-9, 0.3, 1 - 1e-9, 1.0], dtype=DOUBLE)
    alpha, sigma = DecaySchedule(gamma).alpha(t), DecaySchedule(gamma).sigma(t)
    assert alpha[[0, -1]].tolist() == [1, 0]
    assert sigma[[0, -1]].tolist() == [0, 1]
    back = DecaySchedule(gamma).inverse_log_snr(DecaySchedule(gamma).log_snr(t))
    torch.testing.assert_close(back, t, rtol=0, atol=1e-10)


@BY_NAME
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_any_shape(name, shape):
    schedule, _ = SCHEDULES[name]
    t = torch.full(shape, 0.37, dtype=DOUBLE)
    methods = ("alpha", "sigma", "alpha_dot", "sigma_dot", "log_snr", "log_snr_dot")
    for value in [getattr(schedule, method)(t) for method in methods]:
        assert value.shape == shape
        assert value.dtype == DOUBLE
    assert schedule.inverse_log_snr(t).shape == shape


# ------------------------------------------------------------------ curves and shifts


@BY_NAME
def test_every_schedule_keeps_to_its_curve(name):
    schedule, _ = SCHEDULES[name]
    kind = schedule.schedule if isinstance(schedule, ShiftedSchedule) else schedule
    alpha, sigma = schedule.alpha(GRID), schedule.sigma(GRID)
    size = {
        VariancePreservingSchedule: torch.hypot(alpha, sigma),
        StraightSchedule: alpha + sigma,
        ExplodingSchedule: alpha,
    }[type(kind).__bases__[0]]
    torch.testing.assert_close(size, torch.ones_like(size), rtol=0, atol=1e-15)


@BY_NAME
@pytest.mark.parametrize("factor", [0.25, 1.0, 7.0])
def test_a_shift_divides_the_ratio(name, factor):
    schedule, _ = SCHEDULES[name]
    shifted = schedule.shifted(factor)
    ratio = schedule.alpha(GRID) / schedule.sigma(GRID) / factor
    torch.testing.assert_close(
        shifted.alpha(GRID) / shifted.sigma(GRID), ratio, rtol=1e-12, atol=0
    )
    torch.testing.assert_close(shifted.log_snr(GRID), 2 * ratio.log(), rtol=1e-12, atol=1e-12)
    twice = schedule.shifted(2.0).shifted(factor / 2)
    torch.testing.assert_close(twice.sigma(GRID), shifted.sigma(GRID), rtol=1e-14, atol=0)


def test_a_shifted_rectified_schedule_is_a_shift_of_time():
    """Esser et al. (2024), equation 23."""
    late = 3 * GRID / (1 + 2 * GRID)
    torch.testing.assert_close(RectifiedSchedule().shifted(3.0).sigma(GRID), late)


# ------------------------------------------------------------------ tables


def test_a_table_is_exact_at_its_points():
    for betas in (BETAS, torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE).tolist()):
        with mpmath.workdps(50):
            kept, exact = mpmath.mpf(1), []
            for beta in betas:
                kept *= 1 - mpmath.mpf(beta)
                exact.append([float(mpmath.sqrt(kept)), float(mpmath.sqrt(1 - kept))])
        t = torch.arange(1, len(betas) + 1, dtype=DOUBLE) / len(betas)
        schedule = TableSchedule(betas)
        found = torch.stack((schedule.alpha(t), schedule.sigma(t)), -1)
        torch.testing.assert_close(found, torch.tensor(exact, dtype=DOUBLE), rtol=1e-13, atol=0)


def test_a_table_is_linear_between_its_points():
    schedule = TableSchedule(torch.tensor([0.1, 0.5, 0.2, 0.9]))
    ends = schedule.log_snr(torch.tensor([0.5, 0.75], dtype=DOUBLE))
    middle = schedule.log_snr(torch.tensor([0.5625], dtype=DOUBLE))
    torch.testing.assert_close(middle, 0.75 * ends[:1] + 0.25 * ends[1:])
    early = torch.tensor([1e-9, 0.1, 0.25], dtype=DOUBLE)
    ratio = (schedule.sigma(early) / schedule.alpha(early)) ** 2
    torch.testing.assert_close(ratio, early / 0.25 * (0.1 / 0.9))


def test_the_table_of_ddpm():
    schedule = TableSchedule.linear(1000)
    assert schedule == TableSchedule(torch.linspace(1e-4, 0.02, 1000, dtype=DOUBLE))
    assert schedule.alpha(torch.ones(1, dtype=DOUBLE)).item() ** 2 == pytest.approx(
        4.0358e-5, 1e-4
    )


# ------------------------------------------------------------------ known relations and refusals


def test_vp_is_the_ornstein_uhlenbeck_process_on_a_clock():
    vp = GaussianDiffusion(VPSchedule(0.1, 20.0))
    ou = OrnsteinUhlenbeckDiffusion(0.0).on(LinearRateClock(0.1, 20.0))
    x_0, x_t = torch.tensor([0.3, -2.0], dtype=DOUBLE), torch.tensor([1.1, 0.4], dtype=DOUBLE)
    for s, t in ((1e-6, 0.3), (0.2, 0.21), (0.5, 1.0)):
        a, b = (
            process.sample_bridge(x_0, x_t, s, t, generator=torch.Generator().manual_seed(0))
            for process in (vp, ou)
        )
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        args = (x_t, x_0, t)
        torch.testing.assert_close(vp.log_prob(*args, start=s), ou.log_prob(*args, start=s))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPSchedule(-0.1, 20.0), "Expected beta_min to be at least 0"),
        (lambda: VPSchedule(0.3, 0.2), "Expected beta_max to be at least beta_min"),
        (lambda: VPSchedule.from_alpha_min(1.0), "Expected alpha_min to be below 1"),
        (lambda: VESchedule(1.0, 1.0), "Expected sigma_max to exceed sigma_min"),
        (lambda: EDMSchedule(rho=0.0), "Expected rho to be positive"),
        (lambda: OffsetCosineSchedule(0.0), "Expected offset to be positive"),
        (lambda: DecaySchedule(1.0), "Expected gamma to be below 1"),
        (lambda: TableSchedule([0.1]), "Expected betas to hold at least 2 numbers"),
        (lambda: TableSchedule([1.0, 0.1]), "Expected betas to lie between 0 and 1; got 1.0"),
        (lambda: RectifiedSchedule().shifted(0.0), "Expected factor to be positive"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_a_schedule_is_shifted_or_run():
    for make in (lambda x: ShiftedSchedule(x, 2.0), GaussianDiffusion):
        with pytest.raises(TypeError, match="Expected schedule to be a Schedule"):
            make(LinearClock())


def test_numpy_numbers_make_a_table():
    assert TableSchedule(list(np.array([0.1, 0.2]))) == TableSchedule((0.1, 0.2))

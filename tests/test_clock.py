"""Every clock against its formula in 50 digits, and processes on them against the named laws."""

import dataclasses
import math
import pickle

import mpmath
import numpy as np
import pytest
import torch

from bridges import Clock, GeometricClock, LinearClock, OrnsteinUhlenbeckDiffusion, PowerClock
from bridges.clock import LinearRateClock, LogarithmicClock
from bridges.share_clock import CDFClock
from bridges.table_clock import TableClock
from clock_cases import (
    DOUBLE,
    EPS,
    INSIDE,
    JUMPS,
    alpha_and_variance,
    double,
    every,
    exact,
    in_50_digits,
)


@exact
def test_formula_to_the_last_digits(clock, formula):
    torch.testing.assert_close(clock(INSIDE), in_50_digits(formula, INSIDE), rtol=1e-14, atol=0)


@exact
def test_inverse_to_the_last_digits(clock, formula):
    """A rounding of τ moves t by ετ/τ′, which nothing can mend; it is little but after a jump."""
    unknown = 2 * EPS * clock(INSIDE) / clock.derivative(INSIDE)
    if not isinstance(clock, JUMPS):
        assert (unknown < 1e-13 * INSIDE).all()
    assert ((clock.inverse(clock(INSIDE)) - INSIDE).abs() < 1e-12 * INSIDE + unknown).all()


@every
def test_starts_at_zero_exactly(clock, formula):
    zero = torch.zeros(2, 3, dtype=DOUBLE)
    assert (clock(zero) == 0).all()
    assert (clock.inverse(zero) == 0).all()
    assert clock(double(0.0)[0]).item() == 0


@every
def test_increases(clock, formula):
    t = torch.linspace(0, 1, 201, dtype=DOUBLE)
    assert (clock(t)[1:] > clock(t)[:-1]).all()
    tau = torch.linspace(0, 5, 101, dtype=DOUBLE)
    rises = clock.inverse(tau).diff()
    assert ((rises > 0) if not isinstance(clock, JUMPS) else (rises >= 0)).all()


@every
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 4)])
def test_shapes_and_dtype(clock, formula, shape):
    t = torch.full(shape, 0.6, dtype=DOUBLE)
    for found in (clock(t), clock.inverse(t), clock.derivative(t)):
        assert (found.shape, found.dtype) == (shape, DOUBLE)
    strided = torch.rand(4, 3, dtype=DOUBLE).mT
    assert torch.equal(clock(strided), clock(strided.contiguous()))


@exact
@pytest.mark.parametrize("shape", [(), (3,)])
def test_no_value_is_read(clock, formula, shape):
    """Nothing lies on the meta device, so that to read there is an error."""
    t = torch.empty(shape, dtype=DOUBLE, device="meta")
    for found in (clock(t), clock.inverse(t), clock.derivative(t)):
        assert (found.shape, found.device.type) == (shape, "meta")


@every
def test_derivative_against_autograd(clock, formula):
    t = double(1e-6, 0.01, 0.41, 0.99).requires_grad_()
    (slope,) = torch.autograd.grad(clock(t).sum(), t)
    torch.testing.assert_close(clock.derivative(t.detach()), slope, rtol=1e-9, atol=1e-13)


@exact
def test_derivative_against_the_formula(clock, formula):
    with mpmath.workdps(50):
        slope = double(*(float(mpmath.diff(formula, mpmath.mpf(t))) for t in INSIDE.tolist()))
    corner = INSIDE == 0.3 if isinstance(clock, TableClock) else INSIDE < 0
    torch.testing.assert_close(
        clock.derivative(INSIDE)[~corner], slope[~corner], rtol=1e-13, atol=0
    )


@every
def test_gradients_at_both_ends_are_numbers(clock, formula):
    """At t = 0 a root has slope ∞, as it should, but no clock has NaN."""
    t = double(0.0, 0.5, 0.999).requires_grad_()
    (slope,) = torch.autograd.grad(clock(t).sum(), t)
    if not isinstance(clock, CDFClock):
        assert not slope.isnan().any()
    assert slope[1:].isfinite().all()


@pytest.mark.parametrize("clock", [GeometricClock(0.02, 3.0), LogarithmicClock(0.1, 1.5)])
def test_a_jump_is_pinned(clock):
    start = clock(double(5e-324)[0]).item()
    assert start == pytest.approx(clock.low if clock.low < 0.1 else 0.01)
    tau = double(0.0, 1e-12, start / 2, start).requires_grad_()
    assert (clock.inverse(tau) == 0).all()
    (slope,) = torch.autograd.grad(clock.inverse(tau).sum(), tau)
    assert slope.isfinite().all()


# ---------------------------------------------------------------- the laws that they are named for


@every
def test_a_linear_process_on_a_clock_has_its_law(clock, formula):
    t = double(0.01, 0.3, 0.77)
    tau = in_50_digits(formula, t)
    alpha, variance = alpha_and_variance(clock, t)
    torch.testing.assert_close(variance, -torch.expm1(-tau), rtol=1e-11, atol=1e-16)
    torch.testing.assert_close(alpha, torch.exp(-tau / 2), rtol=1e-11, atol=1e-14)


def test_variance_preserving_sde():
    """Song et al. 2021, eq. 33: log α_t = −t²(β_max − β_min)/4 − tβ_min/2."""
    t = np.linspace(1e-5, 1, 7)
    log_alpha = -(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2
    alpha, variance = alpha_and_variance(LinearRateClock(0.1, 20.0), torch.from_numpy(t))
    np.testing.assert_allclose(alpha, np.exp(log_alpha), rtol=1e-10)
    np.testing.assert_allclose(variance, 1 - np.exp(2 * log_alpha), rtol=1e-10)


def test_framediff_rotations():
    t = np.linspace(0.01, 1, 7)
    sigma = np.log(t * np.exp(1.5) + (1 - t) * np.exp(0.1))
    clock = LogarithmicClock(0.1, 1.5)
    np.testing.assert_allclose(clock(torch.from_numpy(t)).sqrt(), sigma, rtol=1e-14)
    diffusion = 2 * (np.exp(1.5) - np.exp(0.1)) * sigma / np.exp(sigma)
    np.testing.assert_allclose(clock.derivative(torch.from_numpy(t)), diffusion, rtol=1e-14)


@every
def test_clocks_are_values(clock, formula):
    assert hash(clock) == hash(dataclasses.replace(clock))
    assert clock == dataclasses.replace(clock)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clock.low = 3.0
    assert torch.equal(pickle.loads(pickle.dumps(clock))(INSIDE), clock(INSIDE))


def test_a_clock_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Clock()


def test_a_process_runs_on_clocks_only():
    with pytest.raises(TypeError, match="Expected clock to be a Clock; got 2.0"):
        OrnsteinUhlenbeckDiffusion(0.0).on(2.0)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_numbers_that_no_clock_has(bad):
    for make in (
        lambda: LinearClock(bad),
        lambda: PowerClock(bad),
        lambda: PowerClock(1.0, bad),
        *(lambda kind=kind: kind(bad, 1.0) for kind in (*JUMPS, LinearRateClock)),
        *(lambda kind=kind: kind(0.5, bad) for kind in (*JUMPS, LinearRateClock)),
    ):
        with pytest.raises(ValueError, match="^Expected (factor|power|low|high) to "):
            make()


def test_an_empty_range():
    with pytest.raises(ValueError, match=r"Expected high to exceed low \(2.0\); got 2.0."):
        GeometricClock(2.0, 2.0)

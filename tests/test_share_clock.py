import math

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, LogNormal, Normal, Uniform
from torch.utils._python_dispatch import TorchDispatchMode

from bridges.share_clock import CDFClock, CosineClock, LogLinearClock
from clock_cases import LEFT, alpha_and_variance, by_cdf, double, in_50_digits, name


def test_cosine_schedule():
    """Nichol & Dhariwal 2021, eq. 17: ᾱ_t = f(t)/f(0)."""

    def f(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    t = np.linspace(0.01, 0.99, 7)
    alpha, variance = alpha_and_variance(CosineClock(0.008), torch.from_numpy(t))
    np.testing.assert_allclose(alpha**2, f(t) / f(0), rtol=1e-11)
    np.testing.assert_allclose(variance, 1 - f(t) / f(0), rtol=1e-11)


def test_log_linear_is_linear():
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(torch.exp(-LogLinearClock(1e-3)(t)), 1 - 0.999 * t)


@by_cdf
def test_formula_to_the_digits_of_the_distribution(clock, formula):
    t = double(0.01, 0.1, 0.4, 0.8, 1.1)
    torch.testing.assert_close(clock(t), in_50_digits(formula, t), rtol=1e-12, atol=1e-15)


@by_cdf
def test_inverse_of_a_distribution(clock, formula):
    t = double(0.05, 0.4, 0.8, 1.1)
    torch.testing.assert_close(clock.inverse(clock(t)), t, rtol=1e-12, atol=0)


@pytest.mark.parametrize("clock", [*LEFT, CDFClock(Uniform(0.0, 1.0))], ids=name)
def test_nothing_is_left_at_the_end(clock):
    end = 1 / (1 - getattr(clock, "epsilon", 0.0))
    assert (clock(double(end * (1 + 1e-15), 1.5, 7.0)) == math.inf).all()
    assert clock.inverse(double(math.inf)).item() == pytest.approx(end, rel=1e-14)
    assert not clock(double(0.0, 1.0, 2.0)).isnan().any()


class NoReads(TorchDispatchMode):
    """Raise where a value is read: what waits for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@by_cdf
def test_no_value_of_a_distribution_is_read(clock, formula):
    t = double(0.0, 0.4, 1.1)
    with NoReads():
        clock.derivative(clock.inverse(clock(t)))
    with NoReads(), pytest.raises(AssertionError):
        clock(t)[0].item()


def test_a_distribution_is_left_as_it_was():
    distribution = LogNormal(0.0, 1.0, validate_args=True)
    assert CDFClock(distribution)(double(0.0)).item() == 0
    with pytest.raises(ValueError, match="support"):
        distribution.cdf(torch.tensor(-1.0))


# fmt: off
@pytest.mark.parametrize(("error", "make", "words"), [
    (ValueError, lambda: CosineClock(-0.1), "Expected offset to be at least 0; got -0.1."),
    (TypeError, lambda: CosineClock("0"), "Expected offset to be a number; got '0'."),
    (ValueError, lambda: LogLinearClock(1.0), "Expected epsilon to lie in [0, 1); got 1.0."),
    (ValueError, lambda: LogLinearClock(-0.1), "Expected epsilon to lie in [0, 1); got -0.1."),
    (TypeError, lambda: CDFClock(0.5),
     "Expected distribution to be a torch.distributions.Distribution or a frozen one of "
     "scipy.stats; got 0.5."),
    (ValueError, lambda: CDFClock(Normal(0.0, 1.0)),
     "Expected distribution to have F(0) = 0; got 0.5."),
    (ValueError, lambda: CDFClock(Uniform(torch.zeros(2), torch.ones(2))),
     "Expected distribution to be scalar; got Uniform("),
    (TypeError, lambda: CDFClock(Gamma(2.0, 1.0)),
     "Expected distribution to have cdf, icdf and log_prob; got Gamma("),
])
# fmt: on
def test_bad_clocks(error, make, words):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(words)

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import expm

from bridges import LinearClock, OrnsteinUhlenbeckDiffusion
from bridges._draw import Draws

P_MIN = 1e-4
MEAN, VOLATILITY, REVERSION = 1.3, 0.7, 1.9
LOPSIDED = OrnsteinUhlenbeckDiffusion(MEAN, VOLATILITY, REVERSION)
DOUBLE = torch.float64


class Fixed(Draws):
    """Draws that return the same noise, and count how often they are asked."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def normal(self, shape, dtype, device):
        self.calls += 1
        return torch.full(tuple(shape), self.value, dtype=dtype)

    def uniform(self, shape, dtype, device):
        raise AssertionError("numbers need no uniform draw")


def affine(f):
    """Return the mean and the variance of a draw, from its answers to the noises 0 and 1."""
    mean = f(Fixed(0.0))
    return mean, (f(Fixed(1.0)) - mean) ** 2


def moments(s, t):
    """Return the factor and the variance of x_t given x_s, from the matrix exponential of the
    linear equations d(m, w)/dt = (−θ m, v² − 2θ w)."""
    generator = np.diag([-REVERSION, -2 * REVERSION, 0.0])
    generator[1, 2] = VOLATILITY**2
    flow = expm(generator * (t - s))
    return flow[0, 0], flow[1, 2]


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.3), (0.2, 0.9), (0.5, 40.0)])
def test_forward_moments(s, t):
    x = torch.tensor([-2.0, 0.5, 7.0], dtype=DOUBLE)
    mean, var = affine(lambda d: LOPSIDED.sample_forward(x, t, start=s, generator=d))
    a, w = moments(s, t)
    torch.testing.assert_close(mean, MEAN + a * (x - MEAN))
    torch.testing.assert_close(var, torch.full_like(x, w))


def test_forward_draws_are_normal():
    x = torch.full((100_000,), -2.0)
    x_t = LOPSIDED.sample_forward(x, 0.4, generator=torch.Generator().manual_seed(1))
    a, w = moments(0, 0.4)
    law = stats.norm(MEAN + a * (-2 - MEAN), math.sqrt(w))
    assert stats.kstest(x_t.double().numpy(), law.cdf).pvalue > P_MIN


@pytest.mark.parametrize(("s", "t"), [(0.1, 0.3), (0.25, 2.0), (0.9, 0.95), (1e-6, 3.0)])
def test_bridge_by_dense_conditioning(s, t):
    """Condition the joint normal law of (x_s, x_t) given x_0 on x_t."""
    x_0, x_t = torch.tensor([-2.0, 3.0], dtype=DOUBLE), torch.tensor([1.5, 0.2], dtype=DOUBLE)
    (a_s, v_s), (a_t, v_t), (a, _) = moments(0, s), moments(0, t), moments(s, t)
    covariance = np.array([[v_s, a * v_s], [a * v_s, v_t]])
    mean_s, mean_t = (MEAN + f * (x_0.numpy() - MEAN) for f in (a_s, a_t))
    gain = covariance[0, 1] / covariance[1, 1]
    exact = mean_s + gain * (x_t.numpy() - mean_t)
    schur = covariance[0, 0] - gain * covariance[1, 0]
    for times in [(s, t), (torch.tensor([s, s]), torch.tensor([t, t]).double())]:
        mean, var = affine(
            lambda d, times=times: LOPSIDED.sample_bridge(x_0, x_t, *times, generator=d)
        )
        torch.testing.assert_close(mean, torch.as_tensor(exact), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(var, torch.full_like(x_0, schur), rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0, 1.7, 5.0])
@pytest.mark.parametrize(("s", "t"), [(0.05, 0.1), (0.25, 2.0), (1e-7, 1.0)])
def test_eta_solves_the_reverse_equation_and_keeps_the_marginal(s, t, eta):
    x_0, x_t = torch.tensor([-2.0, 3.0], dtype=DOUBLE), torch.tensor([1.5, 0.2], dtype=DOUBLE)
    (a_s, v_s), (a_t, v_t), (a, _) = moments(0, s), moments(0, t), moments(s, t)
    r = a * math.sqrt(v_s / v_t)
    z = (x_t - MEAN - a_t * (x_0 - MEAN)) / math.sqrt(v_t)
    exact = MEAN + a_s * (x_0 - MEAN) + math.sqrt(v_s) * r ** (eta**2) * z
    mean, var = affine(lambda d: LOPSIDED.sample_bridge(x_0, x_t, s, t, eta=eta, generator=d))
    torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-12)
    expected = v_s * -math.expm1(2 * eta**2 * math.log(r))
    torch.testing.assert_close(var, torch.full_like(var, expected), rtol=1e-7, atol=1e-18)
    # x_t with variance v_t about its mean gives x_s the variance v_s, whatever eta.
    slope = (
        affine(lambda d: LOPSIDED.sample_bridge(x_0, x_t + 1, s, t, eta=eta, generator=d))[0]
        - mean
    )
    torch.testing.assert_close(slope**2 * v_t + var, torch.full_like(var, v_s), rtol=1e-9, atol=0)


def test_eta_zero_draws_no_noise():
    draws = Fixed(1.0)
    x = torch.randn(3)
    LOPSIDED.sample_bridge(x, x, 0.2, 0.5, eta=0.0, generator=draws)
    LOPSIDED.sample_step(
        x, x, torch.full((3,), 0.2), torch.full((3,), 0.5), eta=0.0, generator=draws
    )
    assert draws.calls == 0


def test_a_step_draws_each_normal_once():
    draws = Fixed(1.0)
    x = torch.randn(3)
    LOPSIDED.sample_step(x, x, 0.2, 0.5, generator=draws)
    LOPSIDED.sample_forward(x, 0.5, generator=draws)
    assert draws.calls == 2


@pytest.mark.parametrize("t", [1e-12, 1e-8, 1e-4])
def test_small_times_keep_their_digits_in_float32(t):
    x = torch.tensor([MEAN], dtype=torch.float32)
    tensor = torch.tensor([t], dtype=torch.float64)
    for time in (t, tensor):
        noise = LOPSIDED.sample_forward(x, time, generator=Fixed(1e6)) - x
        exact = 1e6 * math.sqrt(-math.expm1(-2 * REVERSION * t) * VOLATILITY**2 / (2 * REVERSION))
        assert noise.item() == pytest.approx(exact, rel=1e-5)
    # Half way to t the bridge has the variance t/4 of Brownian motion.
    x_s = LOPSIDED.sample_bridge(x, x, t / 2, t, generator=Fixed(1e6)) - x
    assert x_s.item() == pytest.approx(1e6 * VOLATILITY * math.sqrt(t / 4), rel=1e-3)
    scale = OrnsteinUhlenbeckDiffusion(0.0).loss_scale(t).item()
    assert scale == pytest.approx(math.sqrt(-math.expm1(-0.5 * t)), rel=1e-12)


def test_log_prob_and_score_against_scipy_and_autograd():
    x_0 = torch.tensor([[-2.0, 3.0], [0.0, 5.0]], dtype=DOUBLE)
    x_t = torch.tensor([[1.5, 0.2], [-3.0, 4.0]], dtype=DOUBLE, requires_grad=True)
    for t in (torch.tensor([0.1, 2.5], dtype=DOUBLE), 0.7):
        a, w = zip(*(moments(0, u) for u in torch.as_tensor(t).expand(2).tolist()), strict=True)
        a, w = (np.array(v)[:, None] for v in (a, w))
        law = stats.norm(MEAN + a * (x_0.numpy() - MEAN), np.sqrt(w))
        found = LOPSIDED.log_prob(x_t, x_0, t)
        torch.testing.assert_close(found, torch.as_tensor(law.logpdf(x_t.detach().numpy())))
        (slope,) = torch.autograd.grad(found.sum(), x_t)
        torch.testing.assert_close(LOPSIDED.score(x_t, x_0, t), slope)
    late = LOPSIDED.log_prob(x_t, x_0, 0.7, start=0.4)
    a, w = moments(0.4, 0.7)
    law = stats.norm(MEAN + a * (x_0.numpy() - MEAN), math.sqrt(w))
    torch.testing.assert_close(late, torch.as_tensor(law.logpdf(x_t.detach().numpy())))


def test_prior_is_the_far_law():
    mean, var = affine(lambda d: LOPSIDED.sample_prior((2, 3), generator=d, dtype=DOUBLE))
    assert mean.shape == (2, 3)
    torch.testing.assert_close(mean, torch.full((2, 3), MEAN, dtype=DOUBLE))
    torch.testing.assert_close(var, torch.full((2, 3), moments(0, 99)[1], dtype=DOUBLE))
    x = torch.tensor([50.0])
    for far in (1e3, 1e6, torch.tensor([1e6])):
        x_t = LOPSIDED.sample_forward(x, far, generator=Fixed(0.0))
        assert x_t.item() == pytest.approx(MEAN)
        back = LOPSIDED.sample_bridge(x, x_t, 500.0, far, generator=Fixed(0.0))
        assert back.item() == pytest.approx(MEAN)


def test_error_is_the_squared_difference():
    x_0, prediction = torch.tensor([1.0, -2.0]), torch.tensor([4.0, -2.5])
    torch.testing.assert_close(LOPSIDED.error(prediction, x_0), torch.tensor([9.0, 0.25]))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_gradients_through_a_bridge_with_pinned_rows(eta):
    """Rows at the ends take their gradient from the end that they are, not NaN."""
    x_0 = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    s, t = torch.tensor([0.0, 0.0, 0.5, 0.2]), torch.tensor([0.0, 1.0, 0.5, 1.0])
    x_s = LOPSIDED.sample_bridge(x_0, torch.ones(4), s, t, eta=eta, generator=Fixed(0.3))
    x_s.sum().backward()
    assert x_0.grad.isfinite().all()
    assert x_0.grad[:3].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("prediction_dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("s", [0.0, 0.4])
def test_the_state_keeps_its_dtype_whatever_the_models(prediction_dtype, s):
    """Under autocast a network answers in half precision; the state stays as it was."""
    x_t, prediction = torch.randn(4, 3), torch.ones(4, 3, dtype=prediction_dtype)
    for process in (LOPSIDED, LOPSIDED.where(torch.tensor(True)), LOPSIDED.on(LinearClock(2.0))):
        x_s, x_0_hat = process.sample_step(prediction, x_t, s, 1.0)
        assert x_s.dtype == torch.float32
        assert x_0_hat.dtype == torch.float32
        assert process.endpoint(prediction, x_t, 1.0).dtype == torch.float32

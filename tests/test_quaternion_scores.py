"""Unit quaternions: densities, scores, gradients, predictions, and nothing read from a device."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import GivenDraws, Mixture, Noise, PowerClock, Score, Velocity, standardloss
from bridges.quaternion import UnitQuaternionDiffusion
from quaternion_cases import FULL, about, angle, angle_cdf, inverse, kernel, times
from test_no_sync import META, Counted, alike
from test_no_sync import times as meta_times

DOUBLE = torch.float64
RATE = 0.7
UNIT = UnitQuaternionDiffusion(1.0)
PROCESS = UnitQuaternionDiffusion(RATE)
AXIS = np.array([0.6, 0.0, -0.8])
TANGENTS = (Score, Noise, Velocity)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
FAR = [1e-3, 1e-6, 0.0]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def uniform(n, seed, dtype=DOUBLE):
    return UNIT.sample_prior((n,), generator=rng(seed), dtype=dtype)


def turned(x, theta):
    """The state at an angle from x, about an axis off the others."""
    return torch.from_numpy(times(x.double().numpy(), about(AXIS, np.array(theta)))).to(x.dtype)


def slope(x_0, x_t, v, step):
    """The gradient of log_prob along x_t exp(ε/2), by central differences."""
    ways = step * torch.eye(3, dtype=DOUBLE)
    moves = [way.expand(len(x_t), 3) for way in torch.cat((ways, -ways))]
    ends = [UNIT.log_prob(UNIT._exp(x_t, move), x_0, v) for move in moves]
    return torch.stack([(ends[i] - ends[i + 3]) / (2 * step) for i in range(3)], -1)


# ------------------------------------------------------------------ densities and scores


@pytest.mark.parametrize("v", [0.05, 1.0, 4.5, 4.7, 12.0])
def test_log_prob_against_numpy(v):
    x_0, x_t = uniform(200, 1), uniform(200, 2)
    exact = np.log(kernel(angle(times(inverse(x_0), x_t)), v)).astype(float)
    for t in (v, torch.full((200,), v, dtype=DOUBLE)):
        found = UNIT.log_prob(x_t, x_0, t).numpy()
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9)


def test_log_prob_against_the_prior():
    """The normalised measure: log 0 far away, and a mean of 1 at every time."""
    x_0, x_t = uniform(1, 3).expand(200_000, 4), uniform(200_000, 4)
    assert UNIT.log_prob(x_t, x_0, 400.0).abs().max() < 1e-12
    density = UNIT.log_prob(x_t, x_0, 3.0).exp()
    assert density.mean().item() == pytest.approx(1, abs=4.5 * density.std().item() / 447)
    assert UNIT.log_prob(x_t[:1], x_0[:1], 0.3, start=0.3).isnan().all()


@pytest.mark.parametrize("sigmas", [1, 3, 6, 9, 12])
@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.25, 0.5])
def test_scores_against_differences(sigmas, sigma):
    x_0 = uniform(3, 5)
    x_t = turned(x_0, sigmas * sigma)
    expected = slope(x_0, x_t, sigma**2, 1e-4 * sigma)
    found = UNIT.score(x_t, x_0, sigma**2)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 / sigma)


@pytest.mark.parametrize("v", [0.05, 0.3, 1.0, 4.5, 4.7, 12.0])
@pytest.mark.parametrize("gap", FAR)
def test_scores_next_to_the_antipode(v, gap):
    x_0 = uniform(3, 6)
    x_t = turned(x_0, FULL - gap)
    expected = slope(x_0, x_t, v, 1e-5)
    for t in (v, torch.full((3,), v, dtype=DOUBLE)):
        found = UNIT.score(x_t, x_0, t)
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-5 / v)


@DTYPES
@pytest.mark.parametrize("v", [1e-6, 1e-3, 0.1, 4.5, 4.7, 50.0])
def test_gradients_are_finite_everywhere(v, dtype):
    for theta in (0.0, 1e-12, 1e-6, 1.0, math.pi, 5.0, *(FULL - gap for gap in FAR)):
        x_0 = torch.tensor([[1.0, 0, 0, 0]], dtype=dtype)
        x_0, x_t = (x.requires_grad_() for x in (x_0, turned(x_0, theta)))
        total = UNIT.log_prob(x_t, x_0, v) + UNIT.score(x_t, x_0, v).sum() + UNIT.error(x_t, x_0)
        grads = torch.autograd.grad(total.sum(), (x_0, x_t))
        assert all(g.isfinite().all() for g in (total, *grads))


@pytest.mark.parametrize("v", [0.05, 2.0, 4.5, 6.0])
@pytest.mark.parametrize("theta", [0.0, 1.1, 3.1, 6.0, FULL - 1e-3, FULL])
def test_gradcheck_of_log_prob(v, theta):
    x_0 = uniform(1, 7)
    x_t = turned(x_0, theta)

    def f(at_0, at_t):
        return UNIT.log_prob(UNIT._exp(x_t, at_t), UNIT._exp(x_0, at_0), v)

    inputs = [torch.zeros(1, 3, dtype=DOUBLE, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-4)


@DTYPES
def test_the_error_and_its_slope_keep_their_digits_at_the_antipode(dtype):
    x_0 = torch.tensor([[1.0, 0, 0, 0]], dtype=dtype)
    for gap in (1e-2, 1e-5, 1e-7):
        guess = torch.tensor([[-1.0, 0, gap / 2, 0]], dtype=dtype, requires_grad=True)
        error = UNIT.error(guess, x_0)
        error.sum().backward()
        assert error.item() == pytest.approx((FULL - gap) ** 2, rel=1e-5)
        assert guess.grad[0, 2].item() == pytest.approx(-4 * (FULL - gap), rel=1e-4)


def test_blind_error_and_loss_scale():
    x, y = uniform(200_000, 8), uniform(200_000, 9)
    blind = UNIT.error(x, y).mean().item()
    assert blind == pytest.approx(4 * math.pi**2 / 3 - 2, abs=0.1)
    scale = PROCESS.loss_scale(torch.tensor([0.0, 1e-9, 1e9], dtype=DOUBLE))
    expected = torch.tensor([0.0, math.sqrt(20 * RATE * 1e-9), 8.0], dtype=DOUBLE)
    torch.testing.assert_close(scale, expected)


# ------------------------------------------------------------------ predictions


def state(n=6):
    x_0 = uniform(n, 10)
    return x_0, PROCESS.sample_forward(x_0, 0.3, generator=rng(11))


def vector(n=6, seed=12):
    return 0.3 * torch.randn(n, 3, generator=rng(seed), dtype=DOUBLE)


@pytest.mark.parametrize("kind", TANGENTS)
@pytest.mark.parametrize("process", [PROCESS, PROCESS.on(PowerClock(1.7, 0.8))])
def test_conversions_return(kind, process):
    x_0, x_t = state()
    given = kind(vector())
    for other in TANGENTS:
        there = process.convert(given, other, x_t, 0.6)
        back = process.convert(there, kind, x_t, 0.6)
        torch.testing.assert_close(back.value, given.value)
        ends = [process.endpoint(said, x_t, 0.6) for said in (there, given)]
        torch.testing.assert_close(*ends, rtol=0, atol=1e-12)
    for point in (x_0, turned(x_t, FULL - 0.01)):
        said = process.convert(point, kind, x_t, 0.6)
        torch.testing.assert_close(process.endpoint(said, x_t, 0.6), point, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", TANGENTS)
def test_the_true_score_has_no_error(kind):
    x_0, x_t = state()
    said = PROCESS.convert(Score(PROCESS.score(x_t, x_0, 0.6)), kind, x_t, 0.6)
    assert PROCESS.error(said, x_0, x_t=x_t, t=0.6).abs().max() < 1e-20
    off = Score(PROCESS.score(x_t, x_0, 0.6) + torch.tensor([0.0, 0.3, -0.4]))
    error = PROCESS.error(off, x_0, x_t=x_t, t=0.6)
    torch.testing.assert_close(error, torch.full((6,), (RATE * 0.6 * 0.5) ** 2, dtype=DOUBLE))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_step_along_a_tangent_vector(eta):
    """Against the composition: contract by c, then the straight bridge, in the tangent space."""
    _, x_t = state()
    w, noise, s, t = vector(), vector(seed=13), 0.2, 0.5
    draws = GivenDraws(normals=[noise] if eta > 0 else [])
    said = Score(w / (RATE * t))
    x_s, x_0_hat = PROCESS.sample_step(said, x_t, s, t, eta=eta, generator=draws)
    c = (s / t) ** ((1 - eta**2) / 2)
    v, a = c**2 * RATE * t, RATE * s
    move = (1 - c) * w + (1 - a / v) * c * w + math.sqrt(a * max(v - a, 0.0) / v) * noise
    for found, way in ((x_s, move), (x_0_hat, w)):
        torch.testing.assert_close(found, PROCESS._exp(x_t, way), rtol=0, atol=1e-12)


def test_a_mixture_is_drawn_from_and_scored(p_min):
    n = 40_000
    one = torch.tensor([1.0, 0, 0, 0], dtype=DOUBLE).expand(n, 4)
    centre = torch.stack((one, -one), 1)
    logits = torch.tensor([0.0, math.log(2.0)], dtype=DOUBLE).expand(n, 2)
    variance = torch.tensor([0.02, 0.05], dtype=DOUBLE).expand(n, 2)
    said = Mixture(logits, 3 * centre, variance)
    x = PROCESS.endpoint(said, one, 0.5, generator=rng(14))
    theta = angle(x)
    near = theta < math.pi
    assert stats.binomtest(int(near.sum()), n, 1 / 3).pvalue > p_min
    assert stats.kstest(theta[near], angle_cdf(0.02)).pvalue > p_min
    assert stats.kstest(FULL - theta[~near], angle_cdf(0.05)).pvalue > p_min
    density = kernel(theta, 0.02) / 3 + 2 * kernel(FULL - theta, 0.05) / 3
    found = PROCESS.error(said, x).numpy()
    np.testing.assert_allclose(found, -np.log(density).astype(float), rtol=1e-9, atol=1e-9)


def test_losses_of_every_kind_have_gradients():
    x_0, x_t = state()
    kinds = (Score(vector()), Noise(vector()), Velocity(vector()), x_0 + 0.3 * x_t)
    for said in kinds:
        leaf = (said if isinstance(said, torch.Tensor) else said.value).requires_grad_()
        standardloss(PROCESS, 0.6, said, x_0, x_t=x_t).total.backward()
        assert leaf.grad.isfinite().all()
        assert (leaf.grad != 0).any()


@DTYPES
@pytest.mark.parametrize("pair", [(0.01, 0.02), (0.5, 1.0), (2.0, 4.0), (3.0, 9.0)])
def test_gradients_go_through_a_step(pair, dtype):
    """At opposite ends too, where the straight way is proposed beside the one that is taken."""
    x_0 = uniform(200, 15, dtype)
    walked = UNIT.sample_forward(x_0, pair[1], generator=rng(17))
    for x_t in (x_0, -x_0, turned(x_0, FULL - 1e-3), walked):
        guess = x_0.clone().requires_grad_()
        x_s, _ = UNIT.sample_step(guess, x_t, *pair, generator=rng(16))
        x_s[:, 1].sum().backward()
        assert guess.grad.isfinite().all()


# ------------------------------------------------------------------ nothing waits for a device


@pytest.mark.parametrize("kind", ["host", "per example", "mixed"])
def test_nothing_reads_a_value(kind, monkeypatch):
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda share: 2)
    x = UNIT.sample_prior((4, 3), device=META)
    pairs = [(0.0, 0.0), (0.0, 0.1), (0.01, 0.02), (1.0, 2.5), (2.0, 9.0), (6.0, 14.0)]
    for pair in pairs if kind == "host" else pairs[-1:]:
        s, t = meta_times(PROCESS, x, *pair, kind)
        for eta in (0.0, 0.6):
            for found in PROCESS._step(x, x, s, t, eta, Counted(60)):
                alike(found, x)
        alike(PROCESS._forward(x, s, t, Counted(60)), x)
        assert PROCESS._error(x, x, None, t).shape == (4, 3)
        if pair[1] > 0:
            assert PROCESS._log_prob(x, x, s, t).shape == (4, 3)
            assert PROCESS._score(x, x, t).shape == (4, 3, 3)

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import expm

from bridges import UniformDiscreteDiffusion
from bridges._draw import Draws

P_MIN = 1e-4
RATE, K = 0.8, 5
LOPSIDED = UniformDiscreteDiffusion(RATE, K)
Q = RATE * (np.full((K, K), 1 / K) - np.eye(K))
DOUBLE = torch.float64
TIMES = [(0.2, 0.9), (1e-3, 2.0), (1.5, 1.6), (3.0, 40.0), (1e-9, 1e-8)]


class Even(Draws):
    """Draws whose uniform numbers cover an interval of [0, 1) evenly."""

    def __init__(self, low=0.0, high=1.0):
        self.low, self.high, self.dtypes = low, high, []

    def normal(self, shape, dtype, device):
        raise AssertionError("tokens need no normal draw")

    def uniform(self, shape, dtype, device):
        self.dtypes.append(dtype)
        n = math.prod(shape)
        u = self.low + (self.high - self.low) * (torch.arange(n, dtype=dtype) + 0.5) / n
        return u.reshape(tuple(shape))


def rng(seed):
    return torch.Generator().manual_seed(seed)


def chi2(tokens, law):
    """Return the p-value of counts against a law, cells that expect under five put together."""
    n = len(tokens)
    found, expected = torch.bincount(tokens, minlength=len(law)).numpy(), n * np.asarray(law)
    small = expected < 5
    if small.any():
        found = np.append(found[~small], found[small].sum())
        expected = np.append(expected[~small], expected[small].sum())
    keep = expected > 1e-9
    assert (found[~keep] == 0).all()
    if keep.sum() == 1:
        return 1.0
    return stats.chisquare(found[keep], expected[keep] * n / expected[keep].sum()).pvalue


def bridge_law(x, y, s, t):
    law = expm(Q * s)[x] * expm(Q * (t - s))[:, y]
    return law / law.sum()


@pytest.mark.parametrize(("s", "t"), [*TIMES, (0.0, 0.7)])
def test_forward_against_the_matrix_exponential(s, t):
    x_s = torch.full((100_000,), 3)
    law = expm(Q * (t - s))[3]
    for time in (t, torch.full((100_000,), t, dtype=DOUBLE)):
        x_t = LOPSIDED.sample_forward(x_s, time, start=s, generator=rng(1))
        assert x_t.dtype == torch.int64
        assert chi2(x_t, law) > P_MIN
    # Evenly spaced uniforms give each token its share to within one count.
    x_t = LOPSIDED.sample_forward(x_s, t, start=s, generator=Even())
    np.testing.assert_allclose(torch.bincount(x_t, minlength=K) / 1e5, law, atol=2.1e-5)


@pytest.mark.parametrize(("x", "y"), [(2, 2), (0, 4), (3, 1), (2, 0)])
@pytest.mark.parametrize(("s", "t"), TIMES)
def test_bridge_against_the_matrix_exponential(x, y, s, t):
    n = 100_000
    x_0, x_t = torch.full((n,), x), torch.full((n,), y)
    law = bridge_law(x, y, s, t)
    probs = LOPSIDED.bridge_probs(x_0[:2], x_t[:2], s, t)
    assert probs.dtype == DOUBLE
    np.testing.assert_allclose(probs, [law, law], rtol=1e-6, atol=1e-15)
    for time in (s, torch.full((n,), s, dtype=DOUBLE)):
        x_s = LOPSIDED.sample_bridge(x_0, x_t, time, t, generator=rng(2))
        assert chi2(x_s, law) > P_MIN
        x_s = LOPSIDED.sample_bridge(x_0, x_t, time, t, generator=Even())
        np.testing.assert_allclose(torch.bincount(x_s, minlength=K) / n, law, atol=2.1e-5)


def test_small_times_keep_their_digits():
    """At t = 1e-8 a token jumps with probability 8e-9: evenly spaced draws below 1e-7 show it."""
    x_0 = torch.full((100_000,), 3)
    for t in (1e-8, torch.tensor(1e-8), torch.full((100_000,), 1e-8)):
        x_t = LOPSIDED.sample_forward(x_0, t, generator=Even(0.0, 1e-7))
        jumped = (x_t != x_0).double().mean().item()
        assert jumped == pytest.approx(RATE * 1e-8 * (K - 1) / K / 1e-7, rel=1e-3)
        moved = LOPSIDED.log_prob(torch.zeros_like(x_0), x_0, t)[0].item()
        assert moved == pytest.approx(math.log(RATE * 1e-8 / K), rel=1e-6)


@pytest.mark.parametrize("t", [0.01, 0.7, 30.0])
def test_log_prob_against_the_matrix_exponential(t):
    x_0, x_t = torch.arange(K).unsqueeze(1), torch.arange(K).unsqueeze(0)
    x_0, x_t = (x.expand(K, K).contiguous() for x in (x_0, x_t))
    exact = torch.as_tensor(np.log(expm(Q * t)))
    for time in (t, torch.full((K,), t, dtype=DOUBLE), torch.full((K, K), t, dtype=DOUBLE)):
        found = LOPSIDED.log_prob(x_t, x_0, time)
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    late = LOPSIDED.log_prob(x_t, x_0, t + 0.3, start=0.3)
    torch.testing.assert_close(late.double(), exact, rtol=1e-6, atol=1e-6)


def test_prior_is_uniform():
    x = LOPSIDED.sample_prior((100, 1000), generator=rng(3), dtype=torch.float16)
    assert x.shape == (100, 1000)
    assert x.dtype == torch.int64
    assert chi2(x.flatten(), np.full(K, 1 / K)) > P_MIN
    assert LOPSIDED.sample_prior((10,), generator=Even()).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
    ]


# ------------------------------------------------------------------ from logits


def test_endpoint_draws_from_the_logits():
    p = np.array([0.5, 0.02, 0.3, 0.0, 0.18])
    logits = torch.tensor(p).log().expand(100_000, K)
    for dtype in (torch.float32, DOUBLE, torch.bfloat16):
        x_t = torch.zeros(100_000, dtype=torch.int64)
        x_0 = LOPSIDED.endpoint(logits.to(dtype), x_t, 0.5, generator=rng(4))
        law = torch.softmax(logits[0].to(dtype).double(), -1).numpy()
        assert x_0.dtype == torch.int64
        assert chi2(x_0, law) > P_MIN


def test_rare_tokens_keep_their_probability():
    """Tokens of probability 2⁻³⁰ and 2⁻⁴⁰: beyond what float32 noise can draw."""
    n, process = 1 << 16, UniformDiscreteDiffusion(1.0, 3)
    logits = torch.tensor([0.0, -30 * math.log(2), -40 * math.log(2)]).expand(n, 3)
    draws = Even(1 - 2.0**-28, 1.0)
    x = process.endpoint(logits, torch.zeros(n, dtype=torch.int64), 1.0, generator=draws)
    assert draws.dtypes == [DOUBLE]
    share = torch.bincount(x, minlength=3).double() / n * 2.0**-28
    assert share[1].item() == pytest.approx(2.0**-30, rel=1e-3)
    assert share[2].item() == pytest.approx(2.0**-40, rel=0.1)


def test_the_tail_is_drawn_as_often_as_it_should():
    """Of 4·10⁶ tokens, one in a million is rare: count them."""
    n, process = 4_000_000, UniformDiscreteDiffusion(1.0, 2)
    logits = torch.tensor([0.0, math.log(1e-5)]).expand(n, 2)
    x = process.endpoint(logits, torch.zeros(n, dtype=torch.int64), 1.0, generator=rng(5))
    assert stats.binomtest(int(x.sum()), n, 1e-5 / (1 + 1e-5)).pvalue > P_MIN


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 2.0**-53])
def test_impossible_tokens_are_never_drawn(u):
    class At(Even):
        def uniform(self, shape, dtype, device):
            return torch.full(tuple(shape), u, dtype=dtype)

    inf = math.inf
    logits = torch.tensor(
        [
            [-inf, 0.0, -inf, 0.0, -inf],
            [-inf, -inf, -inf, -inf, 3.0],
            [700.0, -inf, -inf, -inf, -inf],
            [-inf, -1e4, -inf, -1e4, -inf],
            [-inf, -88.0, 0.3, 0.1, -inf],
        ]
    )
    x = LOPSIDED.endpoint(logits, torch.zeros(5, dtype=torch.int64), 0.5, generator=At())
    assert logits.gather(1, x.unsqueeze(1)).isfinite().all()
    x_s = LOPSIDED.sample_step(logits, x, 0.0, 0.5, generator=At())[0]
    assert logits.gather(1, x_s.unsqueeze(1)).isfinite().all()


def test_logits_are_never_written_to():
    logits = torch.randn(4, 3, K, generator=rng(6))
    before = logits.clone()
    x_t = LOPSIDED.sample_prior((4, 3), generator=rng(7))
    LOPSIDED.sample_step(logits, x_t, 0.2, 0.7, generator=rng(8))
    LOPSIDED.tempered(0.5).sample_step(logits, x_t, 0.2, 0.7, generator=rng(8))
    LOPSIDED.where(torch.tensor(True)).endpoint(logits, x_t, 0.7)
    LOPSIDED.error(logits, x_t)
    assert torch.equal(logits, before)


def test_temperature_divides_the_logits():
    p = np.array([0.5, 0.02, 0.3, 0.1, 0.08])
    logits = torch.tensor(p).log().expand(50_000, K)
    x_t = torch.zeros(50_000, dtype=torch.int64)
    x_0 = LOPSIDED.tempered(0.5).endpoint(logits, x_t, 0.5, generator=rng(9))
    assert chi2(x_0, p**2 / (p**2).sum()) > P_MIN


def test_step_from_logits_has_the_mixed_law():
    """A posterior that is right by Bayes takes the law at t to the law at s."""
    data, (s, t), n = np.array([0.6, 0.3, 0.1, 0.0, 0.0]), (0.5, 1.7), 200_000
    joint = data[:, None] * expm(Q * t)
    x_t = torch.multinomial(torch.tensor(joint.sum(0)), n, True, generator=rng(10))
    logits = torch.tensor(joint / joint.sum(0)).log().T[x_t]
    x_s, x_0 = LOPSIDED.sample_step(logits, x_t, s, t, generator=rng(11))
    assert chi2(x_0, data) > P_MIN
    assert chi2(x_s, data @ expm(Q * s)) > P_MIN


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integer_predictions_are_points(dtype):
    x_t, point = torch.tensor([0, 1, 2]), torch.tensor([4, 3, 2])
    x_s, x_0_hat = LOPSIDED.sample_step(point.to(dtype), x_t, 0.0, 1.0, generator=rng(12))
    for x in (x_s, x_0_hat):
        assert x.dtype == torch.int64
        assert torch.equal(x, point)


def test_error_is_the_cross_entropy():
    logits = torch.randn(4, 3, K, generator=rng(13), dtype=DOUBLE, requires_grad=True)
    x_0 = LOPSIDED.sample_prior((4, 3), generator=rng(14))
    exact = -torch.log_softmax(logits, -1).gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
    error = LOPSIDED.error(logits, x_0)
    torch.testing.assert_close(error, exact)
    (slope,) = torch.autograd.grad(error.sum(), logits)
    torch.testing.assert_close(slope, logits.softmax(-1) - torch.nn.functional.one_hot(x_0, K))


@pytest.mark.parametrize("eta", [0.0, 0.5, 2.0])
def test_only_eta_one(eta):
    x = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="Expected eta to be 1 for tokens"):
        LOPSIDED.sample_bridge(x, x, 0.2, 0.5, eta=eta)
    with pytest.raises(ValueError, match="Expected eta to be 1 for tokens"):
        LOPSIDED.sample_step(x, x, 0.2, 0.5, eta=eta)

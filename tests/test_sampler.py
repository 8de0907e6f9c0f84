import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    Joint,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    Step,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
    selfconditioned,
    timeschedule,
    trajectory,
)

P_MIN = 1e-4
K = 4
POS = OrnsteinUhlenbeckDiffusion(0.5, 1.2, 0.8)
SEQ = UniformDiscreteDiffusion(1.0, K)
ROT = RotationDiffusion(0.9)
GRID = [0.0, 0.2, 0.7, 2.0]
DOUBLE = torch.float64


def rng(seed):
    return torch.Generator().manual_seed(seed)


def zeros(x_t, t):
    return torch.zeros_like(x_t)


def ou(t):
    """α_t and σ_t² of POS."""
    return math.exp(-0.8 * t), 1.2**2 / 1.6 * -math.expm1(-1.6 * t)


# ------------------------------------------------------------------ known targets


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_exact_denoiser_reproduces_a_normal_target(eta):
    """x_0 ~ N(m, c²): the posterior mean is linear, and the steps shrink to the law."""
    m, c, n = -2.0, 0.3, 40_000
    grid = timeschedule(lambda u: u**3, lambda t: t ** (1 / 3), 0.0, 6.0, 401)

    def denoise(x_t, t):
        a, w = (torch.as_tensor([ou(u)[i] for u in t[:1].tolist()]) for i in (0, 1))
        y = x_t - 0.5 * (1 - a)
        return m + a * c**2 / (a**2 * c**2 + w) * (y - a * m)

    x = POS.sample_prior((n,), generator=rng(1), dtype=DOUBLE)
    x_0 = sample_backward(denoise, POS, grid, x, eta=eta, generator=rng(2))
    exact = stats.norm(m, c).ppf((np.arange(n) + 0.5) / n)
    assert np.abs(np.sort(x_0.numpy()) - exact).mean() < 0.015
    assert x_0.mean().item() == pytest.approx(m, abs=0.01)
    assert x_0.std().item() == pytest.approx(c, abs=0.01)


@pytest.mark.parametrize("grid", [[0.0, 9.0], [0.0, 0.1, 1.0, 9.0]])
def test_the_exact_posterior_reproduces_tokens_at_any_number_of_steps(grid):
    data, n = torch.tensor([0.55, 0.3, 0.1499, 1e-4]), 400_000

    def posterior(x_t, t):
        a = torch.exp(-t)
        same = torch.eye(K) * a[0] + (1 - a[0]) / K
        return (data.log() + same.log())[x_t]

    x = SEQ.sample_prior((n,), generator=rng(3))
    x_0 = sample_backward(posterior, SEQ, grid, x, generator=rng(4))
    counts = torch.bincount(x_0, minlength=K).numpy()
    assert (
        stats.chisquare(counts, n * data.double().numpy() / data.double().sum().item()).pvalue
        > P_MIN
    )


def test_a_point_on_each_space_is_reached():
    process = Joint(POS, SEQ, ROT, WrappedBrownianDiffusion(0.7))
    shapes = ((5, 2), (5, 3), (5,), (5, 2))
    target = process.sample_prior(shapes, generator=rng(5))
    x = process.sample_prior(shapes, generator=rng(6))
    x_0 = sample_backward(lambda x_t, t: target, process, GRID, x, generator=rng(7))
    for found, exact in zip(x_0, target, strict=True):
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ what a run yields


def test_the_first_time_zero_gives_the_last_guess_exactly():
    logits = torch.randn(6, K, generator=rng(8))
    process = Joint(a=POS, b=SEQ, c=ROT)
    x = process.sample_prior({"a": (6, 2), "b": (6,), "c": (6,)}, generator=rng(9))
    guess = {"a": torch.randn(6, 2), "b": logits, "c": torch.randn(6, 3, 3)}
    *_, last = trajectory(lambda x_t, t: guess, process, GRID, x, generator=rng(10))
    assert torch.equal(last.x_s["a"], guess["a"])
    assert all(torch.equal(last.x_s[k], last.x_0_hat[k]) for k in "abc")


def test_a_run_that_stops_early_stays_noised():
    x = torch.zeros(50_000)
    x_s = sample_backward(zeros, POS, [0.3, 1.0], x, generator=rng(11))
    (a, v), (a_t, v_t) = ou(0.3), ou(1.0)
    r = math.exp(-0.8 * 0.7) * math.sqrt(v / v_t)
    mean = 0.5 - 0.5 * a + math.sqrt(v / v_t) * r * (-0.5 + 0.5 * a_t)
    assert (
        stats.kstest(x_s.double().numpy(), stats.norm(mean, math.sqrt(v * (1 - r**2))).cdf).pvalue
        > P_MIN
    )


def test_trajectory_yields_each_step():
    x, seen = torch.randn(3, 2, generator=rng(12)), []

    def guess(x_t, t):
        seen.append((x_t, t, torch.randn(3, 2, 1, generator=rng(len(seen)))[..., 0]))
        return seen[-1][2]

    steps = []
    for step in trajectory(guess, POS, GRID, x, generator=rng(13)):
        assert isinstance(step, Step)
        s, x_s, x_0_hat = step
        assert x_s is step.x_s
        assert step.prediction is seen[-1][2]
        assert torch.equal(x_0_hat, step.prediction)
        steps.append(step)
    assert [step.s for step in steps] == [0.7, 0.2, 0.0]
    assert [t.tolist() for _, t, _ in seen] == [[pytest.approx(t)] * 3 for t in (2.0, 0.7, 0.2)]
    for before, (x_t, _, _) in zip([x, *(step.x_s for step in steps)], seen, strict=False):
        assert torch.equal(before, x_t)
    end = sample_backward(lambda x_t, t: seen.pop(0)[2], POS, GRID, x, generator=rng(13))
    assert torch.equal(end, steps[-1].x_s)


def test_the_raw_prediction_is_the_logits():
    logits = torch.randn(6, K, generator=rng(14))
    x = SEQ.sample_prior((6,), generator=rng(15))
    for step in trajectory(lambda x_t, t: logits, SEQ, GRID, x, generator=rng(16)):
        assert step.prediction is logits
        assert step.x_0_hat.dtype == torch.int64
        assert step.x_0_hat.shape == (6,)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("grid", [GRID, torch.tensor(GRID), np.array(GRID), tuple(GRID)])
def test_the_guess_gets_a_time_per_example_in_the_states_dtype(dtype, grid):
    def guess(x_t, t):
        assert t.shape == (3,)
        assert t.dtype == dtype
        assert t.device == x_t.device
        return x_t * 0

    x = torch.ones(3, 2, 4, dtype=dtype)
    assert sample_backward(guess, POS, grid, x).dtype == dtype


def test_tokens_alone_get_the_default_dtype():
    def guess(x_t, t):
        assert t.shape == (3,)
        assert t.dtype == torch.get_default_dtype()
        return x_t

    sample_backward(guess, SEQ, GRID, torch.zeros(3, 2, dtype=torch.int64))


def test_a_state_without_a_batch():
    def guess(x_t, t):
        assert t.shape == ()
        return x_t * 0

    assert sample_backward(guess, POS, GRID, torch.tensor(1.0)) == 0


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_grids_with_a_time_per_element(shape):
    """Row i of the grid holds every element's i-th time; elements go at their own pace."""
    ends = torch.linspace(0.5, 2.0, math.prod(shape), dtype=DOUBLE).reshape(shape)
    grid = torch.stack([0 * ends, 0.3 * ends, ends])
    seen = []

    def guess(x_t, t):
        seen.append(t)
        return x_t * 0 + 3

    x = torch.randn(3, 2, generator=rng(17))
    steps = list(trajectory(guess, POS, grid, x, generator=rng(18)))
    assert torch.equal(steps[-1].x_s, torch.full((3, 2), 3.0))
    torch.testing.assert_close(seen, [ends.float(), 0.3 * ends.float()])
    torch.testing.assert_close(steps[0].s, 0.3 * ends)
    exact = POS.sample_bridge(torch.full((3, 2), 3.0), x, 0.3 * ends, ends, generator=rng(18))
    assert torch.equal(steps[0].x_s, exact)


def test_elements_that_wait_at_one_time_stay():
    """A grid that does not move for an element leaves it as it is, at time 0 too."""
    grid = torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.5, 0.3], [0.0, 1.0, 0.3]])
    x = torch.tensor([1.0, 2.0, 3.0])
    x_s = sample_backward(lambda x_t, t: torch.full((3,), -7.0), POS, grid, x, generator=rng(19))
    assert x_s.tolist() == [1.0, -7.0, 3.0]


def test_a_start_noised_in_part():
    """From the clean state noised to t the run is the bridge, whatever stands above t."""
    x_0 = torch.full((50_000,), 2.0)
    x_t = POS.sample_forward(x_0, 0.6, generator=rng(20))
    x_s = sample_backward(lambda x, t: x_0, POS, [0.25, 0.4, 0.6], x_t, generator=rng(21))
    a, v = ou(0.25)
    law = stats.norm(0.5 + a * 1.5, math.sqrt(v))
    assert stats.kstest(x_s.double().numpy(), law.cdf).pvalue > P_MIN


# ------------------------------------------------------------------ randomness and gradients


def test_the_generator_is_the_only_randomness():
    process = Joint(POS, SEQ, ROT, WrappedBrownianDiffusion(0.7))
    shapes = ((5, 2), (5, 3), (5,), (5, 2))
    logits = torch.randn(5, 3, K, generator=rng(22))

    def run(seed):
        draws = rng(seed)
        x = process.sample_prior(shapes, generator=draws)
        guess = lambda x_t, t: (x_t[0], logits, x_t[2], x_t[3])  # noqa: E731
        return sample_backward(guess, process, [0.1, 0.7, 2.0], x, generator=draws)

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again, other = run(23), run(23), run(24)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_gradients_flow_through_a_trajectory_but_not_through_sample_backward():
    weight = torch.tensor(2.0, requires_grad=True)
    x = torch.randn(3, generator=rng(25))
    guess = lambda x_t, t: weight * x_t  # noqa: E731
    *_, last = trajectory(guess, POS, GRID, x, generator=rng(26))
    (slope,) = torch.autograd.grad(last.x_s.sum(), weight)
    assert slope.isfinite()
    assert slope != 0
    assert not sample_backward(guess, POS, GRID, x, generator=rng(26)).requires_grad


def test_the_callers_state_is_never_written_to():
    x = torch.randn(3, generator=rng(27))
    before = x.clone()
    sample_backward(zeros, POS.on(LinearClock(2.0)), GRID, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timesteps": [0.0]},
        {"timesteps": [1.0, 0.5]},
        {"timesteps": [-0.1, 0.5]},
        {"timesteps": [0.0, math.nan, 1.0]},
        {"timesteps": torch.zeros(3, 2)},
        {"timesteps": 0.5},
        {"x": torch.zeros(3, dtype=torch.int64)},
        {"eta": -1.0},
        {"generator": 7},
    ],
)
@pytest.mark.parametrize("run", [trajectory, sample_backward])
def test_bad_input_raises_before_the_first_guess(arguments, run):
    def guess(x_t, t):
        raise AssertionError("the guess was called")

    given = {"timesteps": GRID, "x": torch.zeros(3)} | arguments
    timesteps, x = given.pop("timesteps"), given.pop("x")
    for model in (guess, selfconditioned(guess, None)):
        with pytest.raises((TypeError, ValueError), match="^Expected "):
            run(model, POS, timesteps, x, **given)

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import Draws, UniformDiscreteDiffusion, WrappedBrownianDiffusion, testing
from bridges._shapes import map_structure
from cases import CASES, GAUSSIAN_ORACLE, OU, SPACES, Case
from oracles import DenseJumps, GridAngle

DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def of(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def given(case: Case, device, dtype=torch.float32):
    point = map_structure(lambda x: x.to(device), case.point(dtype))
    return case.process, point, case.view


# ---------------------------------------------------------------- one function per law


@of(CASES)
def test_pinned_ends(case, device):
    testing.check_pinned_ends(*given(case, device), case.times)


@of([case for case in CASES if case.near])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.get)
def test_near_limit(case, dtype, device):
    testing.check_near_limit(*given(case, device, dtype), case.times, near=case.near)


@of(CASES)
def test_semigroup(case, device):
    testing.check_semigroup(*given(case, device), case.times)


@of(CASES)
def test_joint_law_of_two_times(case, device):
    testing.check_two_times(*given(case, device), case.times)


@of(CASES)
def test_joint_law_of_two_times_far_apart(case, device):
    testing.check_two_times(*given(case, device, torch.float64), case.wide, seed=1)


@of(CASES)
@pytest.mark.parametrize("which", ["times", "wide"])
def test_density_of_the_bridge(case, which, device):
    testing.check_density(*given(case, device), getattr(case, which))


@of(CASES)
def test_time_of_every_row(case, device):
    testing.check_times(*given(case, device), case.times)


@of(SPACES)
def test_time_of_every_row_far_apart(case, device):
    testing.check_times(*given(case, device), case.wide, seed=1)


@of(CASES)
def test_nonlinear_clock(case, device):
    testing.check_clock(*given(case, device), case.times)


@of([case for case in CASES if case.has_prior])
def test_prior_is_the_far_limit(case, device):
    testing.check_prior(*given(case, device), case.far)


@of([case for case in CASES if case.general])
def test_special_equals_general(case, device):
    testing.check_general(*given(case, device), case.times, general=case.general)


@of([case for case in SPACES if case.general])
def test_special_equals_general_far_apart(case, device):
    testing.check_general(*given(case, device), case.wide, general=case.general, seed=1)


@of(CASES)
def test_bridge_with_less_noise(case, device):
    testing.check_eta(*given(case, device), case.times)


@of(CASES)
def test_score_is_the_gradient_of_the_density(case, device):
    for times in (case.times, case.wide):
        testing.check_score(*given(case, device), times)


@of(CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPES.get)
def test_error_is_0_at_the_truth_alone(case, dtype, device):
    testing.check_error(*given(case, device, dtype), case.times)


@of(CASES)
def test_loss_scale_does_not_fall(case, device):
    far = case.far if case.has_prior else None
    testing.check_loss_scale(*given(case, device), case.times, far=far)


@of(CASES)
def test_log_snr_falls(case, device):
    far = case.far if case.has_prior else None
    testing.check_log_snr(*given(case, device), case.times, far=far)


@of(CASES)
def test_results_lie_on_the_space(case, device):
    for times in (case.times, case.wide):
        testing.check_space(*given(case, device), times)


@of(CASES)
def test_shape_dtype_and_device(case, device):
    testing.check_shapes(*given(case, device), case.times)


@of(CASES)
def test_generator_is_the_only_source(case, device):
    testing.check_randomness(*given(case, device), case.times)


@pytest.mark.slow
@of(CASES)
def test_every_law(case, device):
    process, point, view = given(case, device, torch.float64)
    testing.check_process(
        process,
        point=point,
        view=view,
        general=case.general,
        prior=case.has_prior,
        times=case.times,
        near=case.near,
        far=case.far,
        seed=2,
    )


def test_a_view_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="Expected view"):
        testing.check_two_times(OU, torch.zeros(100), lambda x: x)


# ---------------------------------------------------------------- law 7, digit by digit


class Fixed(Draws):
    """Hands out given numbers in place of random ones."""

    def __init__(self, numbers):
        self.numbers = numbers

    def normal(self, shape, dtype, device):
        return self.numbers.to(dtype).expand(shape)

    uniform = normal


TIMES = [(0.13, 0.71), (0.7, 0.71), (1e-6, 0.71), (2.3, 9.0), (1e-7, 3e-7)]


@pytest.mark.parametrize(("s", "t"), TIMES)
def test_gaussian_bridge_equals_dense_conditioning(s, t):
    x_0, x_t = torch.tensor([2.1, -0.4], dtype=torch.float64), torch.tensor([0.3, 1.9]).double()
    to_0, to_t, variance = GAUSSIAN_ORACLE.conditioned(s, t)
    mean = OU.mean + to_0 * (x_0 - OU.mean) + to_t * (x_t - OU.mean)
    for noise in (0.0, 1.0, -2.5):
        draws = Fixed(torch.tensor(noise, dtype=torch.float64))
        x_s = OU.sample_bridge(x_0, x_t, s, t, generator=draws)
        spread = math.sqrt(variance)
        assert torch.allclose((x_s - mean) / spread, x_s.new_tensor(noise), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("s", "t"), TIMES)
@pytest.mark.parametrize("k", [2, 3, 5, 20])
def test_uniform_bridge_equals_the_product_of_matrices(k, s, t):
    process, oracle = UniformDiscreteDiffusion(0.8, k), DenseJumps.uniform(0.8, k)
    x_0, x_t = torch.cartesian_prod(torch.arange(k), torch.arange(k)).unbind(-1)
    probs = process.bridge_probs(x_0, x_t, s, t).reshape(k, k, k)
    # Where s is tiny, the oracle itself loses digits to the subtraction in its exponential.
    assert torch.allclose(probs, oracle.bridge_table(s, t), rtol=0, atol=max(1e-12, 1e-16 / s))
    assert torch.allclose(probs.sum(-1), torch.ones(k, k, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("s", "t"), [(0.13, 0.71), (0.7, 0.71), (2.3, 9.0)])
@pytest.mark.parametrize("k", [2, 3, 5, 20])
def test_uniform_sampler_draws_what_it_says(k, s, t):
    process, grid = UniformDiscreteDiffusion(0.8, k), 20_000
    uniforms = (torch.arange(grid, dtype=torch.float64) + 0.5) / grid
    x_0, x_t = torch.cartesian_prod(torch.arange(k), torch.arange(k)).unbind(-1)
    pairs = (x.unsqueeze(-1).expand(-1, grid) for x in (x_0, x_t))
    x_s = process.sample_bridge(*pairs, s, t, generator=Fixed(uniforms))
    counts = torch.stack([(x_s == state).sum(-1) for state in range(k)], -1)
    # A state is drawn from at most three stretches of [0, 1).
    miss = (counts / grid - process.bridge_probs(x_0, x_t, s, t)).abs().max()
    assert miss <= 3 / grid


@pytest.mark.parametrize(("k", "pair"), [(4, (2, 0)), (4, (0, 2)), (5, (3, 1))])
def test_the_state_after_x_0_is_drawn(k, pair):
    process = UniformDiscreteDiffusion(0.8, k)
    probs = process.bridge_probs(*map(torch.tensor, pair), 0.3, 0.9)
    others = [probs[z].item() for z in range(k) if z not in pair]
    assert min(others) == max(others) > 0


@pytest.mark.parametrize("v", [1e-3, 0.3, 2.4, 2.5, 9.0, 60.0])
@pytest.mark.parametrize("period", [2 * math.pi, 1.0])
def test_angle_density_equals_the_sum_over_images(period, v, device):
    scale = (period / (2 * math.pi)) ** 2
    process, oracle = WrappedBrownianDiffusion(scale, period), GridAngle(scale, period)
    turn = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)[:-1] * period
    x_0 = torch.zeros_like(turn)
    expected = np.log(1e-300 + oracle.density(turn.numpy(), scale * v))
    for t in (v, torch.full(turn.shape, v, dtype=torch.float64, device=device)):
        log_prob = process.log_prob(turn.to(device), x_0.to(device), t).cpu().numpy()
        keep = expected > -600
        assert np.allclose(log_prob[keep], expected[keep], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("s", "t"), [(0.13, 0.71), (0.6, 2.9), (3.0, 40.0), (1e-4, 40.0)])
def test_angle_bridge_has_the_law_of_the_images(s, t, p_min, device):
    process, oracle = WrappedBrownianDiffusion(1.7), GridAngle(1.7, 2 * math.pi)
    x_0, x_t, n = 2.7, -1.9, 40_000
    ends = (torch.full((n,), x, dtype=torch.float64, device=device) for x in (x_0, x_t))
    generator = torch.Generator(device).manual_seed(0)
    x_s = process.sample_bridge(*ends, s, t, generator=generator).cpu().numpy()
    edges = np.linspace(-math.pi, math.pi, 200_001)
    middle = 0.5 * (edges[1:] + edges[:-1])
    weight = oracle.density(wrapped(middle - x_0), 1.7 * s)
    weight = weight * oracle.density(wrapped(x_t - middle), 1.7 * (t - s))
    cdf = np.concatenate([[0], weight.cumsum()]) / weight.sum()
    assert stats.kstest(x_s, lambda x: np.interp(x, edges, cdf)).pvalue > p_min


def wrapped(x):
    return (x + math.pi) % (2 * math.pi) - math.pi

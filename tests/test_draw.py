import math

import pytest
import torch
from scipy import stats

from bridges import (
    Draws,
    Joint,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
)
from bridges._draw import (
    GeneratorDraws,
    GivenDraws,
    StreamDraws,
    TemperedDraws,
    as_draws,
    first_accepted,
)

P_MIN = 1e-4
CPU = torch.device("cpu")


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Given(Draws):
    """Noise given as tensors."""

    def __init__(self, *noise):
        self.noise = list(noise)

    def normal(self, shape, dtype, device):
        return self.noise.pop(0).expand(tuple(shape)).to(dtype)

    uniform = normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_from_a_generator(dtype):
    draws = as_draws(rng(1))
    normal, uniform = (f((50_000,), dtype, CPU) for f in (draws.normal, draws.uniform))
    assert normal.dtype == uniform.dtype == dtype
    assert stats.kstest(normal.double().numpy(), "norm").pvalue > P_MIN
    assert stats.kstest(uniform.double().numpy(), "uniform").pvalue > P_MIN
    again = as_draws(rng(1)).normal((50_000,), dtype, CPU)
    assert torch.equal(normal, again)


def test_none_is_the_global_state():
    torch.manual_seed(2)
    a = as_draws(None).normal((3,), torch.float32, CPU)
    torch.manual_seed(2)
    assert torch.equal(a, torch.randn(3))


def test_draws_pass_through_and_others_raise():
    draws = Given()
    assert as_draws(draws) is draws
    for bad in (3, "cpu", torch.zeros(2), torch.randn):
        with pytest.raises(
            TypeError, match="Expected generator to be a torch.Generator, a Draws ob"
        ):
            as_draws(bad)
    with pytest.raises(TypeError, match="abstract"):
        Draws()


def test_noise_may_be_given():
    process = OrnsteinUhlenbeckDiffusion(0.0)
    x = torch.zeros(3)
    x_t = process.sample_forward(x, 0.7, generator=Given(torch.tensor([1.0, -2.0, 0.5])))
    exact = math.sqrt(-math.expm1(-0.7)) * torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(x_t, exact)


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_categorical_shapes(shape):
    tokens = as_draws(rng(3)).categorical(torch.zeros(*shape, 4))
    assert tokens.shape == shape
    assert tokens.dtype == torch.int64
    assert ((tokens >= 0) & (tokens < 4)).all()


@pytest.mark.parametrize("k", [1, 2, 1000])
def test_categorical_inverts_the_distribution_function(k):
    p = torch.rand(k, generator=rng(4), dtype=torch.float64) ** 4
    p = p / p.sum()
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5).unsqueeze(-1) / 20_000
    tokens = Given(u).categorical(p.log().expand(20_000, k))
    share = torch.bincount(tokens, minlength=k) / 20_000
    torch.testing.assert_close(share.double(), p, rtol=0, atol=1.01e-4)


def test_the_uniform_numbers_for_tokens_are_finer_than_float32():
    seen = []

    class Spy(Given):
        def uniform(self, shape, dtype, device):
            seen.append(torch.rand(tuple(shape), dtype=dtype, generator=rng(5)))
            return seen[-1]

    Spy().categorical(torch.zeros(1000, 3))
    assert (seen[0] * 2.0**24 % 1 != 0).float().mean() > 0.99


def test_tempered_draws():
    draws = TemperedDraws(as_draws(rng(6)), 3.0)
    plain = as_draws(rng(6))
    for name in ("normal", "uniform"):
        a, b = (getattr(d, name)((5,), torch.float64, CPU) for d in (draws, plain))
        assert torch.equal(a, 3 * b if name == "normal" else b)
    logits = torch.tensor([0.0, 2.0, -1.0]).expand(1000, 3)
    u = ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).unsqueeze(-1)
    hot = TemperedDraws(Given(u), 4.0).categorical(logits)
    assert torch.equal(hot, Given(u).categorical(logits / 4))
    twice = TemperedDraws(TemperedDraws(Given(u), 2.0), 2.0).categorical(logits)
    assert torch.equal(hot, twice)
    for bad in (0.0, -1.0):
        with pytest.raises(ValueError, match="Expected scale to be positive"):
            TemperedDraws(as_draws(None), bad)


# ------------------------------------------------------------------ given noise


def test_given_noise_is_used_in_order_and_must_fit():
    noise = GivenDraws([torch.ones(2), torch.zeros(3)], [torch.full((2,), 0.5)])
    assert torch.equal(noise.normal((2,), torch.float64, CPU), torch.ones(2).double())
    assert torch.equal(noise.uniform((2,), torch.float32, CPU), torch.full((2,), 0.5))
    with pytest.raises(
        ValueError, match=r"Expected normals to hold a tensor of shape \(2,\); got a"
    ):
        noise.normal((2,), torch.float32, CPU)
    with pytest.raises(ValueError, match=r"Expected uniforms to hold .* \(2,\); got none left"):
        noise.uniform((2,), torch.float32, CPU)


# ------------------------------------------------------------------ a stream per sample

PARTS = {
    "pos": OrnsteinUhlenbeckDiffusion(0.5),
    "seq": UniformDiscreteDiffusion(1.0, 4),
    "angle": WrappedBrownianDiffusion(0.7),
    "rot": RotationDiffusion(4.0),
}


def generate(process, samples, length=3):
    """Draw from the prior, noise and sample back to a target that is a function of the state."""
    draws, n = StreamDraws(11, torch.tensor(samples)), len(samples)
    x = process.sample_prior({k: (n, length) for k in PARTS}, generator=draws)
    x = process.sample_forward(x, torch.full((n,), 0.4), generator=draws)

    def guess(x_t, t):
        logits = torch.stack([x_t["pos"], x_t["angle"], 0 * x_t["pos"], -x_t["pos"]], -1)
        return dict(x_t, seq=logits)

    return sample_backward(guess, process, [0.0, 0.2, 0.9, 2.0], x, generator=draws)


def test_a_sample_depends_on_its_number_alone():
    """Not on the batch it is in, nor on how often its neighbours' rotations are proposed."""
    process = Joint(**PARTS)
    together = generate(process, [5, 0, 7, 123_456_789])
    for i, number in enumerate([5, 0, 7, 123_456_789]):
        alone = generate(process, [number])
        swapped = generate(process, [8, number])
        for key in PARTS:
            assert torch.equal(together[key][i], alone[key][0])
            assert torch.equal(together[key][i], swapped[key][1])
            assert not torch.equal(together[key][i], swapped[key][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(50_000,), (5, 10_000), (500, 10, 10)])
def test_streams_are_uniform_normal_and_unrelated(shape, dtype):
    draws = StreamDraws(12, torch.arange(shape[0]))
    uniform, normal = draws.uniform(shape, dtype, CPU), draws.normal(shape, dtype, CPU)
    other = StreamDraws(13, torch.arange(shape[0])).uniform(shape, dtype, CPU)
    assert uniform.dtype == normal.dtype == dtype
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert stats.kstest(uniform.double().flatten().numpy(), "uniform").pvalue > P_MIN
    assert stats.kstest(normal.double().flatten().numpy(), "norm").pvalue > P_MIN
    flat = uniform.flatten()
    for a, b in [(flat[1:], flat[:-1]), (flat, other.flatten()), (flat, normal.flatten())]:
        assert stats.spearmanr(a, b).pvalue > P_MIN
    mixed = torch.stack([flat[1:], flat[:-1]])
    grid = torch.histogramdd(mixed.T.double(), [8, 8], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert stats.chisquare(grid.flatten().numpy()).pvalue > P_MIN


def test_a_stream_draws_the_law_of_rotations():
    x = torch.eye(3, dtype=torch.float64).expand(40_000, 3, 3)
    rot = RotationDiffusion(1.0)
    streams, plain = StreamDraws(14, torch.arange(40_000)), rng(15)
    traces = []
    for draws in (streams, plain):
        x_t = rot.sample_forward(x, 2.5, generator=draws)
        x_s = rot.sample_bridge(x, x_t, 1.1, 2.5, generator=draws)
        traces.append([y.diagonal(dim1=-2, dim2=-1).sum(-1).numpy() for y in (x_t, x_s)])
    for a, b in zip(*traces, strict=True):
        assert stats.ks_2samp(a, b).pvalue > P_MIN


# ------------------------------------------------------------------ rejection


def test_first_accepted_has_the_law_of_what_is_kept():
    """Uniform numbers kept below the row's own limit are uniform up to it."""
    limit = torch.tensor([0.02, 0.5, 1.0]).repeat_interleave(20_000)

    def propose(draws, limit):
        u = draws.uniform(limit.shape, limit.dtype, CPU)
        return u.unsqueeze(-1), u < limit

    for draws in (as_draws(rng(7)), StreamDraws(7, torch.arange(60_000))):
        kept = first_accepted(propose, (limit,), draws, 1).squeeze(-1)
        for part in (kept / limit).split(20_000):
            assert stats.kstest(part.double().numpy(), "uniform").pvalue > P_MIN


def test_rows_that_accept_are_proposed_once():
    asked = []

    def propose(draws, row):
        asked.append(row.tolist())
        return row.unsqueeze(-1) + len(asked), row < len(asked)

    rows = (torch.tensor([0.0, 2.0, 1.0, 0.0]),)
    kept = first_accepted(propose, rows, as_draws(None), 1)
    assert asked == [[0.0, 2.0, 1.0, 0.0], [2.0, 1.0], [2.0]]
    assert kept.squeeze(-1).tolist() == [1.0, 5.0, 3.0, 1.0]


def test_no_rows():
    process = RotationDiffusion(1.0)
    x = torch.eye(3).expand(0, 3, 3)
    assert process.sample_forward(x, 2.0).shape == (0, 3, 3)
    assert process.sample_bridge(x, x, 0.3, 2.0).shape == (0, 3, 3)
    assert process.sample_prior((0,)).shape == (0, 3, 3)


def test_the_global_state_is_untouched_by_a_generator():
    before = torch.get_rng_state()
    GeneratorDraws(rng(8)).categorical(torch.zeros(5, 3))
    x = RotationDiffusion(1.0).sample_prior((5,), generator=rng(9))
    RotationDiffusion(1.0).sample_bridge(x, x, 1.0, 2.0, generator=rng(10))
    assert torch.equal(torch.get_rng_state(), before)

"""Arguments that mean what others mean: NumPy's numbers and arrays, weights of any sum, SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import bridges as br
from bridges import recipes
from bridges.nn import RandomFourierFeatures

DOUBLE = torch.float64
CPU = torch.device("cpu")
VP = br.VPSchedule()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


INTEGERS = {
    "k of uniform": lambda n: br.UniformDiscreteDiffusion(1.0, n),
    "k of masks": lambda n: br.MaskingDiscreteDiffusion(1.0, n),
    "k by substitutions": lambda n: br.UniformDiscreteDiffusion.from_substitution_rate(1.0, n),
    "ordinal": lambda n: br.GeneralDiscreteDiffusion.ordinal(n, 1.0).rates,
    "steps of D3PM": lambda n: br.DiscreteTimeDiffusion.uniform([0.1] * 3, n).matrices,
    "real": lambda n: br.GeneralDiscreteDiffusion(torch.eye(9).roll(1, 1) - torch.eye(9), n).k,
    "atoms": lambda n: br.ZeroCentreOfMass(n, n).point_shape,
    "pairs": lambda n: br.SymmetricNoise(n).point_shape,
    "chain": lambda n: br.CovarianceFactor.chain(n, 0.5, n).point_shape,
    "order": lambda n: br.AdamsBashforthSolver(n),
    "corrections": lambda n: br.PredictorCorrectorSolver(n).corrections,
    "step index": lambda n: br.StepIndex(n),
    "DDPM": lambda n: br.DenoiseDiffusion(lambda x, t: x, n).n_steps,
    "sampler": lambda n: br.DDPMSampler(br.NormalDenoiser(VP, 0.0, 1.0), n).steps,
    "grid": lambda n: br.uniform_times(0.0, 1.0, n),
    "table": lambda n: br.TableSchedule.linear(n).betas,
    "times": lambda n: br.UniformTimes()(n, generator=rng()),
    "features": lambda n: RandomFourierFeatures(n, 8, 1.0, generator=rng()).weight,
    "shape": lambda n: br.UniformDiscreteDiffusion(1.0, 5).sample_prior((n, 2), generator=rng()),
    "stream": lambda n: br.StreamDraws(n, torch.arange(3)).normal((3,), DOUBLE, CPU),
    "RFdiffusion": lambda n: recipes.rfdiffusion(n + 20).sample_prior(
        {"pos": (2, 3), "rot": (2,)}, generator=rng()
    ),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    return a == b and repr(a) == repr(b)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_numpy_are_integers(name):
    make = INTEGERS[name]
    for kind in (np.int64, np.int32, np.uint8):
        assert same(make(kind(3)), make(3))


@pytest.mark.parametrize("name", [n for n in INTEGERS if n not in ("stream", "RFdiffusion")])
@pytest.mark.parametrize("bad", [True, np.True_, 3.0, np.float64(3.0), "3", None, -1])
def test_what_is_no_integer_is_refused(name, bad):
    if name == "real" and bad is None:
        return
    with pytest.raises((TypeError, ValueError), match=r"^Expected .* to .*; got .*\.$"):
        INTEGERS[name](bad)


def test_steps_of_ddpm_by_numpy():
    diffusion, x = br.DenoiseDiffusion(lambda x, t: 0.1 * x, 10), torch.ones(2, 3)
    for t in (np.int64(0), np.int32(4)):
        found = diffusion.p_sample(x, t, generator=rng())
        assert torch.equal(found, diffusion.p_sample(x, int(t), generator=rng()))


@pytest.mark.parametrize("kind", [np.float32, np.float64, int])
def test_numbers_of_numpy_are_numbers(kind):
    x_0, t = torch.ones(4), 2
    for make in (
        lambda r: br.OrnsteinUhlenbeckDiffusion(0.0, r, r),
        br.BrownianDiffusion,
        br.WrappedBrownianDiffusion,
    ):
        found, right = (make(r).sample_forward(x_0, t, generator=rng()) for r in (kind(2), 2.0))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, right)
        assert make(kind(2)).loss_scale(kind(1)).dtype == DOUBLE


# ------------------------------------------------------------------ weights of any sum


@pytest.mark.parametrize(
    "weights",
    [
        [3, 1, 4],
        [3e-9, 1e-9, 4e-9],
        [3e300, 1e300, 4e300],
        np.array([3, 1, 4]),
        torch.tensor([3, 1, 4]),
    ],
)
def test_weights_are_normalised(weights):
    right = torch.tensor([3, 1, 4], dtype=DOUBLE) / 8
    exchange = torch.ones(3, 3)
    for process in (
        br.IndependentDiscreteDiffusion(1.0, weights),
        br.MixtureDiscreteDiffusion(1.0, weights, 0.3),
        br.IndependentDiscreteDiffusion.from_substitution_rate(1.0, weights),
    ):
        torch.testing.assert_close(process.pi, right, rtol=1e-15, atol=0)
    general = br.GeneralDiscreteDiffusion.from_exchangeabilities(exchange, weights, 1.0)
    x = torch.zeros(3, dtype=torch.int64)
    law = general.log_prob(torch.arange(3), x, 1e3).exp().double()
    torch.testing.assert_close(law, right, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "weights", [[0.0, 0.0], [0.5, -0.1], [math.inf, 1.0], [math.nan, 1.0], [1.0]]
)
def test_what_are_no_weights(weights):
    with pytest.raises(ValueError, match=r"^Expected pi to .*; got .*\.$"):
        br.IndependentDiscreteDiffusion(1.0, weights)


def test_the_loss_scale_of_a_law_is_diffusions_jl_s():
    """√(1 − e^{−rt}) (K − 1)/K / 1.44, whatever π is."""
    t = torch.tensor([0.1, 1.0, 7.0], dtype=DOUBLE)
    for pi in ([0.9, 0.1], [0.5, 0.5], [0.98, 0.01, 0.01], [1.0, 0.0, 0.0, 0.0]):
        k = len(pi)
        scale = br.IndependentDiscreteDiffusion(0.7, pi).loss_scale(t)
        right = (1 - torch.exp(-0.7 * t)).sqrt() * (k - 1) / k / 1.44
        torch.testing.assert_close(scale, right, rtol=2e-3, atol=0)
    uniform = br.UniformDiscreteDiffusion(0.7, 4).loss_scale(t)
    torch.testing.assert_close(scale, uniform, rtol=1e-12, atol=0)


# ------------------------------------------------------------------ clocks of SciPy's laws

LAWS = [
    stats.weibull_min(2.0),
    stats.beta(2, 3),
    stats.expon(scale=0.4),
    stats.gamma(1.7, scale=0.3),
    stats.uniform(),
    stats.lognorm(0.8),
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.dist.name)
def test_a_clock_of_a_frozen_law(law):
    clock = br.CDFClock(law)
    t = torch.tensor([0.0, 1e-6, 0.1, 0.5, 0.93], dtype=DOUBLE)
    torch.testing.assert_close(
        clock(t), torch.tensor(-law.logsf(t.numpy())), rtol=1e-14, atol=1e-300
    )
    assert clock(t)[0] == 0
    later = t[2:]
    torch.testing.assert_close(clock.inverse(clock(later)), later, rtol=1e-9, atol=0)
    h = 1e-6
    slope = (clock(later + h) - clock(later - h)) / (2 * h)
    torch.testing.assert_close(clock.derivative(later), slope, rtol=1e-6, atol=0)
    process = br.UniformDiscreteDiffusion(1.0, 4).on(clock)
    x = torch.zeros(20_000, dtype=torch.int64)
    share = (process.sample_forward(x, 0.5, generator=rng()) > 0).double().mean().item()
    assert share == pytest.approx(0.75 * law.cdf(0.5), abs=0.015)


def test_a_clock_of_scipy_is_that_of_torch():
    mine = br.CDFClock(
        torch.distributions.Weibull(
            torch.tensor(1.0, dtype=DOUBLE), torch.tensor(2.0, dtype=DOUBLE)
        )
    )
    theirs = br.CDFClock(stats.weibull_min(2.0))
    t = torch.tensor([[0.1, 0.5], [1.0, 2.0]], dtype=DOUBLE)
    torch.testing.assert_close(theirs(t), mine(t), rtol=1e-10, atol=0)
    assert theirs(t.float()).dtype == torch.float32
    assert theirs(torch.tensor(0.5)).shape == ()


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (stats.norm(), "to have F(0) = 0; got 0.5"),
        (stats.weibull_min, "or a frozen one of scipy.stats; got "),
        (stats.poisson(3), "or a frozen one of scipy.stats; got "),
        (stats.weibull_min([1.0, 2.0]), "to be scalar; got "),
        ("beta", "or a frozen one of scipy.stats; got 'beta'"),
    ],
)
def test_laws_that_are_no_clock(law, words):
    with pytest.raises((TypeError, ValueError)) as caught:
        br.CDFClock(law)
    assert words in str(caught.value)


# ------------------------------------------------------------------ tables

LAST = br.TableSchedule([0.1, 0.3, 1.0])


def test_a_table_may_end_in_noise_alone():
    t = torch.tensor([0.0, 0.2, 1 / 3, 0.5, 2 / 3, 0.7, 0.9, 1.0], dtype=DOUBLE)
    alpha, sigma = LAST.alpha(t), LAST.sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    kept = torch.tensor([0.9, 0.63], dtype=DOUBLE).sqrt()
    torch.testing.assert_close(alpha[[2, 4]], kept, rtol=1e-14, atol=0)
    assert (alpha[-1], sigma[-1]) == (0, 1)
    assert (alpha.diff() < 0).all()
    torch.testing.assert_close(LAST.inverse_log_snr(LAST.log_snr(t)), t)
    ratio = (alpha / sigma)[4:]
    torch.testing.assert_close(ratio, ratio[0] * 3 * (1 - t[4:]))


def test_its_slopes_are_those_of_the_scales():
    t = torch.tensor([0.2, 0.5, 0.7, 0.9, 0.999], dtype=DOUBLE, requires_grad=True)
    for scale, dot in ((LAST.alpha, LAST.alpha_dot), (LAST.sigma, LAST.sigma_dot)):
        (slope,) = torch.autograd.grad(scale(t).sum(), t)
        torch.testing.assert_close(slope, dot(t.detach()))
    (slope,) = torch.autograd.grad(LAST.log_snr(t).sum(), t)
    torch.testing.assert_close(slope, LAST.log_snr_dot(t.detach()))
    one = torch.ones((), dtype=DOUBLE)
    assert LAST.alpha_dot(one).isfinite()
    assert LAST.sigma_dot(one) == 0
    shifted = LAST.shifted(2.0)
    assert (shifted.alpha(one), shifted.sigma(one)) == (0, 1)


def test_noise_says_nothing_at_its_end():
    process, x = br.GaussianDiffusion(LAST), torch.randn(3, generator=rng())
    for kind in (br.Noise, br.Score):
        for call in (
            lambda said: process.endpoint(said, x, 1.0),
            lambda said: process.sample_step(said, x, 0.5, 1.0),
            lambda said: process.error(said, x, x_t=x, t=1.0),
            lambda said: process.convert(said, br.Velocity, x, 1.0),
            lambda said: process.endpoint(said, x, torch.tensor([0.5, 1.0, 0.2])),
            lambda said: br.sample_backward(lambda x, t: said, process, [0.0, 0.5, 1.0], x),
        ):
            with pytest.raises(ValueError, match="nothing of x_0; got " + kind.__name__):
                call(kind(x))
        assert process.endpoint(kind(x), x, 0.999).isfinite().all()
    for denoiser in (br.NoiseDenoiser, br.ScoreDenoiser):
        with pytest.raises(ValueError, match="Expected a point or a velocity at t = 1"):
            denoiser(lambda x, t: x, LAST)(x, 1.0)
    for denoiser in (br.VDenoiser, br.VelocityDenoiser, br.FlowDenoiser):
        assert denoiser(lambda x, t: x, LAST)(x, 1.0).mean.isfinite().all()
    run = br.sample_backward(lambda x, t: br.Velocity(x), process, [0.0, 0.5, 1.0], x)
    assert run.isfinite().all()
    assert torch.equal(process.sample_bridge(x, x, 0.0, 1.0), x)


@pytest.mark.parametrize(
    "betas", [[1.0, 0.5], [0.5, 1.0, 1.0], [0.0, 1.0], [0.5, 1.5], [0.5, math.nan]]
)
def test_tables_that_are_refused(betas):
    with pytest.raises(ValueError, match="Expected betas"):
        br.TableSchedule(betas)


def test_arrays_are_tables_and_grids():
    array = np.linspace(0.01, 0.2, 5)
    assert br.TableSchedule(array).betas == br.TableSchedule(array.tolist()).betas
    assert torch.equal(br.explicit_times(array), br.explicit_times(array.tolist()))
    assert br.TableClock(np.array([0.0, 1.0]), np.array([0.0, 2.0])).values == (0.0, 2.0)
    process, x = br.OrnsteinUhlenbeckDiffusion(0.0), torch.ones(3)
    for grid in (array, array.astype(np.float32), torch.tensor(array), array.tolist()):
        end = br.sample_backward(lambda x, t: 0 * x, process, grid, x, generator=rng())
        assert end.shape == (3,)


# ------------------------------------------------------------------ compiled code


def test_compiled_noising_takes_a_second_batch_size():
    """With no generator, and shapes that vary from the second call on."""
    torch._dynamo.reset()
    for process in (
        br.OrnsteinUhlenbeckDiffusion(0.0),
        br.WrappedBrownianDiffusion(1.0),
        br.UniformDiscreteDiffusion(1.0, 4),
    ):
        t = torch.tensor(0.3, dtype=DOUBLE)

        def noised(x, process=process, t=t):
            return process._forward(x, 0 * t, t, br._draw.as_draws(None))

        compiled = torch.compile(noised, backend="eager")
        for n in (3, 5, 8):
            x = process.sample_prior((n,), generator=rng())
            assert compiled(x).shape == (n,)


@pytest.mark.parametrize("kind", ["numbers", "tokens"])
def test_compiled_public_noising_takes_a_second_batch_size(kind):
    torch._dynamo.reset()
    process = br.OrnsteinUhlenbeckDiffusion(0.0)
    if kind == "tokens":
        process = br.UniformDiscreteDiffusion(1.0, 4)
    compiled = torch.compile(lambda x, t: process.sample_forward(x, t))
    for n in (3, 5, 8):
        x = process.sample_prior((n,), generator=rng())
        assert compiled(x, torch.rand(n)).shape == (n,)

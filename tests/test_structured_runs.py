"""What structured noise keeps over whole runs, its predictions, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    GivenDraws,
    Joint,
    Mixture,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    Score,
    StreamDraws,
    UniformDiscreteDiffusion,
    Velocity,
    sample_backward,
    standardloss,
)
from bridges.correlated_noise import SymmetricNoise
from bridges.gaussian import GaussianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.prediction import Gaussian
from bridges.schedule import RectifiedSchedule
from bridges.structured import StructuredDiffusion
from bridges.vp_schedule import VPSchedule
from gaussian_cases import MASS, NOISES, structured

DOUBLE = torch.float64
BY_NAME = pytest.mark.parametrize("name", NOISES)
TANGENTS = (Score, Noise, Velocity)
OU = OrnsteinUhlenbeckDiffusion(0.0, 0.7, 1.9)
VP = GaussianDiffusion(VPSchedule())
MASK = torch.tensor([[True, True, False, True], [False, True, True, True], [True] * 4])
MOLECULES = StructuredDiffusion(VP, ZeroCentreOfMass(4, 3, MASK, MASS))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def range_state(noise, shape=(5,), seed=0, dtype=DOUBLE):
    return noise(torch.randn(*shape, *noise.point_shape, generator=rng(seed), dtype=dtype))


def check_kept(noise, x):
    """The state lies on the range to 1e-6 of its size, and padding is 0."""
    miss = (x - noise.project(x)).abs().max()
    assert miss <= 1e-6 * x.abs().max()
    if isinstance(noise, ZeroCentreOfMass) and noise.mask is not None:
        assert not x[~noise.mask.expand(x.shape[:-1])].any()


# ------------------------------------------------------------------ what is kept


@BY_NAME
@pytest.mark.parametrize("run", [VP, GaussianDiffusion(RectifiedSchedule())])
def test_a_run_of_100_steps_stays_on_the_range(name, run):
    noise = NOISES[name][0]
    process = StructuredDiffusion(run, noise)
    x = process.sample_prior((6,), generator=rng())
    check_kept(noise, x)
    x_0 = range_state(noise, (6,), 1, torch.float32)
    x_t = process.sample_forward(x_0, 0.4, generator=rng())
    check_kept(noise, x_t)
    check_kept(noise, process.sample_bridge(x_0, x_t, 0.1, 0.4, generator=rng()))
    grid, net = torch.linspace(0, 1, 101), torch.randn(noise.point_shape, generator=rng(2))
    for eta in (0.0, 1.0):
        # A guess that knows nothing of the range, and moves off it.
        end = sample_backward(
            lambda x_t, t: 5 + torch.tanh(x_t * net) + net,
            process,
            grid,
            x,
            eta=eta,
            generator=rng(),
        )
        check_kept(noise, end)


def test_masks_of_atoms_in_a_joint_on_a_clock():
    process = Joint(pos=MOLECULES, seq=UniformDiscreteDiffusion(1.0, 5)).on(PowerClock(1.5))
    x = process.sample_prior({"pos": (3,), "seq": (3, 4)}, generator=rng())

    def guess(x_t, t):
        return {"pos": x_t["pos"].tanh() + 2, "seq": torch.zeros(3, 4, 5)}

    x = sample_backward(guess, process, torch.linspace(0, 1, 101), x, generator=rng())
    check_kept(MOLECULES.noise, x["pos"])
    assert x["seq"].shape == (3, 4)


def test_where_leaves_examples_alone():
    chosen = torch.tensor([True, False, True])
    process = MOLECULES.where(chosen)
    x_0 = range_state(MOLECULES.noise, (3,), dtype=torch.float32)
    x_0[1] = math.nan
    x_t = process.sample_forward(x_0, 0.8, generator=rng())
    assert x_t[1].isnan().all()
    x = sample_backward(
        lambda x_t, t: x_t + 1, process, torch.linspace(0, 0.8, 20), x_t, generator=rng()
    )
    assert x[1].isnan().all()
    check_kept(ZeroCentreOfMass(4, 3, MASK[chosen], MASS), x[chosen])
    assert process.error(x_0 + 1, x_0).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert process.log_prob(x_t, x_0, 0.8)[1] == 0


def test_a_loss_counts_examples():
    x_0 = range_state(MOLECULES.noise, (3,), dtype=torch.float32)
    t = torch.tensor([0.0, 0.4, 0.9])
    loss = standardloss(MOLECULES, t, x_0 + 0.5 * MOLECULES.noise(torch.ones(3, 4, 3)), x_0)
    assert loss.counts == 2
    assert loss.total.isfinite()


def test_one_stream_of_numbers_per_sample():
    process = StructuredDiffusion(VP, ZeroCentreOfMass(4, 3))
    both = process.sample_prior((2,), generator=StreamDraws(7, torch.tensor([4, 9])))
    one = process.sample_prior((1,), generator=StreamDraws(7, torch.tensor([9])))
    assert torch.equal(both[1], one[0])


def test_a_temperature_scales_the_noise():
    x_0 = range_state(MOLECULES.noise, (3,))
    z = torch.randn(3, 4, 3, dtype=DOUBLE, generator=rng())
    mean, full, cool = (
        process.sample_bridge(x_0, x_0, 0.2, 0.5, generator=GivenDraws(normals=[noise]))
        for process, noise in (
            (MOLECULES, 0 * z),
            (MOLECULES, z),
            (MOLECULES.tempered(0.5), z),
        )
    )
    torch.testing.assert_close(cool - mean, 0.5 * (full - mean))


# ------------------------------------------------------------------ predictions


@BY_NAME
def test_tangent_vectors_by_the_matrix(name):
    """α x̂_0 = x_t + σ² A Aᵀ s, and the noise is A ε."""
    process, dense = structured(name)
    noise, t = process.noise, 0.4
    alpha, sigma = dense.scales(t)
    x_t, made = range_state(noise, seed=1), range_state(noise, seed=2)
    score = torch.randn(5, *noise.point_shape, generator=rng(3), dtype=DOUBLE)
    pull = score.flatten(1) @ torch.from_numpy(dense.covariance)
    exact = (x_t + sigma**2 * pull.reshape(x_t.shape)) / alpha
    torch.testing.assert_close(process.endpoint(Score(score), x_t, t), exact)
    exact = (x_t - sigma * made) / alpha
    torch.testing.assert_close(process.endpoint(Noise(made), x_t, t), exact)
    x_0 = range_state(noise, seed=4)
    found = process.convert(x_0, Score, x_t, t).value
    torch.testing.assert_close(found, process.score(x_t, x_0, t))


@BY_NAME
@pytest.mark.parametrize("kind", TANGENTS)
@pytest.mark.parametrize("clock", [None, PowerClock(1.7, 0.8)], ids=["own", "clock"])
def test_every_pair_of_conversions_returns(name, kind, clock):
    noise = NOISES[name][0]
    process = StructuredDiffusion(OU, noise)
    process = process if clock is None else process.on(clock)
    x_0, x_t = range_state(noise, seed=1), range_state(noise, seed=2)
    given = process.convert(x_0, kind, x_t, 0.6)
    for other in TANGENTS:
        there = process.convert(given, other, x_t, 0.6)
        torch.testing.assert_close(process.endpoint(there, x_t, 0.6), x_0)
        torch.testing.assert_close(process.convert(there, kind, x_t, 0.6).value, given.value)


def test_velocity_is_the_slope_of_the_path():
    noise = MOLECULES.noise
    x_0, z = range_state(noise, (3,)), torch.randn(3, 4, 3, dtype=DOUBLE, generator=rng(3))

    def path(t):
        return MOLECULES.sample_forward(x_0, t, generator=GivenDraws(normals=[z]))

    slope = (path(0.5 + 1e-6) - path(0.5 - 1e-6)) / 2e-6
    found = MOLECULES.convert(Noise(noise(z)), Velocity, path(0.5), 0.5).value
    torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-7)


@BY_NAME
def test_a_score_says_the_posterior_mean(name):
    """Data of covariance c² A Aᵀ: x_t has a normal law, and x̂_0 is linear in x_t."""
    process, dense = structured(name)
    c, t = 0.8, 0.4
    alpha, sigma = dense.scales(t)
    x_t = range_state(process.noise, seed=1)
    v = (alpha * c) ** 2 + sigma**2
    score = Score(-process.noise.precision(x_t) / v)
    mean = alpha * c**2 / v * x_t
    torch.testing.assert_close(process.endpoint(score, x_t, t), mean)


@BY_NAME
def test_a_point_off_the_range_is_brought_onto_it(name):
    process, _ = structured(name)
    noise = process.noise
    x_t = range_state(noise)
    prediction = torch.randn(5, *noise.point_shape, dtype=DOUBLE, generator=rng(5)) + 3
    x_0_hat = process.endpoint(prediction, x_t, 0.5)
    torch.testing.assert_close(x_0_hat, noise.project(prediction))
    error = process.error(prediction, x_t)
    assert error.shape == (5,)
    torch.testing.assert_close(error, process.error(x_0_hat, x_t))
    for kind in TANGENTS:
        said = process.convert(prediction, kind, x_t, 0.5)
        torch.testing.assert_close(process.endpoint(said, x_t, 0.5), x_0_hat)
        torch.testing.assert_close(process.error(said, x_t, x_t=x_t, t=0.5), error)
    width = Gaussian(prediction, torch.ones_like(prediction))
    torch.testing.assert_close(process.endpoint(width, x_t, 0.5), x_0_hat)
    torch.testing.assert_close(process.error(width, x_t), error)


@BY_NAME
def test_a_blind_guess_costs_1(name):
    noise = NOISES[name][0]
    k = math.prod(noise.point_shape)
    # The mean over z of |A z|² is the sum over unit vectors.
    x_0 = noise(torch.eye(k, dtype=DOUBLE).reshape(k, *noise.point_shape))
    error = StructuredDiffusion(OU, noise).error(torch.zeros_like(x_0), x_0)
    assert error.sum().item() == pytest.approx(1)


def test_a_mixture_has_normals_of_the_noise(p_min):
    process, dense = structured("masses and padding")
    noise, n = process.noise, 4000
    centre = noise(torch.randn(2, 4, 2, dtype=DOUBLE, generator=rng(1))) * 3
    logits, v = torch.tensor([0.3, -0.5], dtype=DOUBLE), torch.tensor([0.2, 1.5], dtype=DOUBLE)
    mixture = Mixture(logits.expand(n, 2), centre.expand(n, 2, 4, 2), v.expand(n, 2))
    x_0 = process.endpoint(mixture, torch.zeros(n, 4, 2, dtype=DOUBLE), 0.5, generator=rng(2))
    laws = [
        stats.multivariate_normal(
            c.flatten().numpy(), scale * dense.covariance, allow_singular=True
        )
        for c, scale in zip(centre, v.tolist(), strict=True)
    ]
    weights = torch.softmax(logits, 0).numpy()
    flat = x_0.flatten(1).numpy()
    exact = -np.log(sum(w * law.pdf(flat) for w, law in zip(weights, laws, strict=True)))
    np.testing.assert_allclose(process.error(mixture, x_0).numpy(), exact, rtol=1e-6, atol=1e-6)
    # One number of the draws has a mixture of two normals for its law.
    spread = np.sqrt(dense.covariance[0, 0] * v.numpy())
    place = centre[:, 0, 0].numpy()

    def cdf(x):
        return (weights * stats.norm.cdf(x[:, None], place, spread)).sum(-1)

    assert stats.kstest(flat[:, 0], cdf).pvalue > p_min


# ------------------------------------------------------------------ refusals


def test_states_off_the_range_are_refused():
    process = StructuredDiffusion(OU, ZeroCentreOfMass(4, 3))
    x = range_state(process.noise, (5,), dtype=torch.float32)
    x[3] += 0.25
    message = "Expected x to have its centre of mass at 0.*off by 0.25, at a size of"
    with pytest.raises(ValueError, match=message):
        process.sample_forward(x, 0.5)
    with pytest.raises(ValueError, match="Expected x_0 to be symmetric"):
        StructuredDiffusion(OU, SymmetricNoise(3)).log_prob(
            torch.zeros(3, 3), torch.arange(9.0).reshape(3, 3), 0.5
        )


def test_padding_that_is_not_zero_is_refused():
    x = range_state(MOLECULES.noise, (3,), dtype=torch.float32)
    x[0, 2] = 1.0
    with pytest.raises(ValueError, match="and 0 off the mask; got one that is off by 1"):
        MOLECULES.sample_forward(x, 0.5)


@pytest.mark.parametrize("shape", [(4, 2), (5, 3), (3,), (2, 4, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="Expected x to have"):
        MOLECULES.sample_forward(torch.zeros(shape), 0.5)


def test_other_parts_are_refused():
    noise = ZeroCentreOfMass(4)
    with pytest.raises(ValueError, match="Expected process to have mean 0; got 1.3"):
        StructuredDiffusion(OrnsteinUhlenbeckDiffusion(1.3), noise)
    with pytest.raises(TypeError, match="Expected process to be a Gaussian process"):
        StructuredDiffusion(UniformDiscreteDiffusion(1.0, 5), noise)
    with pytest.raises(TypeError, match="Expected noise to be a LinearNoise"):
        StructuredDiffusion(OU, torch.eye(3))

"""`error` and `endpoint` read one prediction in one way, on every space and for every kind."""

import math

import pytest
import roma
import torch

import bridges as br

DOUBLE = torch.float64
B, L, K = 5, 4, 4
PI = [0.4, 0.3, 0.2, 0.1]
RATES = torch.tensor([[-2.0, 2, 0, 0], [0, -1, 1, 0], [1, 0, -2, 1], [1, 1, 1, -3]])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


# ------------------------------------------------------------------ numbers

OU = br.OrnsteinUhlenbeckDiffusion(0.7, 0.9, 1.3)
NUMBERS = {
    "ornstein-uhlenbeck": OU,
    "brownian": br.BrownianDiffusion(0.8),
    "schedule": br.GaussianDiffusion(br.CosineSchedule()),
    "clocked": OU.on(br.PowerClock(2.0)),
    "masked": OU.where(torch.rand(B, L, generator=rng()) > 0.3),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_error_on_numbers_is_the_squared_distance_to_the_endpoint(name):
    process, x_0, t = NUMBERS[name], normal(B, L, seed=2), 0.6
    x_t = process.sample_forward(x_0, t, generator=rng(3))
    said = normal(B, L, seed=4)
    var = torch.full((B, L), 0.3, dtype=DOUBLE)
    kinds = [said, said.float(), br.Gaussian(said, var)]
    for prediction in (*kinds, *(kind(said) for kind in (br.Score, br.Noise, br.Velocity))):
        point = process.endpoint(prediction, x_t, t)
        error = process.error(prediction, x_0, x_t=x_t, t=t)
        torch.testing.assert_close(
            error, (point - x_0) ** 2 * process._counted(x_0, torch.ones(()))
        )


@pytest.mark.parametrize(
    "noise", [br.ZeroCentreOfMass(4), br.SymmetricNoise(4), br.CovarianceFactor.chain(4, 0.6, 2)]
)
def test_the_error_of_structured_numbers_is_that_of_the_endpoint(noise):
    process = br.StructuredDiffusion(br.OrnsteinUhlenbeckDiffusion(0.0), noise)
    x_0 = process.sample_prior((B,), generator=rng(2), dtype=DOUBLE)
    x_t = process.sample_forward(x_0, 0.6, generator=rng(3))
    said = normal(*x_0.shape, seed=4)
    trace = noise.trace(x_0.device)
    for prediction in (said, *(kind(said) for kind in (br.Score, br.Noise, br.Velocity))):
        point = process.endpoint(prediction, x_t, 0.6)
        error = process.error(prediction, x_0, x_t=x_t, t=0.6)
        torch.testing.assert_close(error, (point - x_0).square().sum((-2, -1)) / trace)


# ------------------------------------------------------------------ curved spaces


def geodesic(name, x, y):
    if name == "rotation":
        return roma.rotmat_geodesic_distance(x, y)
    if name == "angle":
        return torch.remainder(x - y + math.pi, 2 * math.pi) - math.pi
    cos = (x * y).sum(-1)
    angle = torch.atan2((y - cos.unsqueeze(-1) * x).norm(dim=-1), cos)
    return 2 * angle if name == "quaternion" else angle


CURVED = {
    "angle": (br.WrappedBrownianDiffusion(0.8), ()),
    "rotation": (br.RotationDiffusion(0.8), (3, 3)),
    "sphere": (br.SphereDiffusion(0.8), (3,)),
    "quaternion": (br.UnitQuaternionDiffusion(0.8), (4,)),
}


@pytest.mark.parametrize("scale", [0.0, 1e-20, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("name", CURVED)
def test_the_error_of_a_point_is_the_squared_angle_to_the_endpoint(name, scale):
    """Whatever a network says: also a head that starts at 0, and one that says large numbers."""
    process, point = CURVED[name]
    x_0 = process.sample_prior((B, L), generator=rng(1), dtype=DOUBLE)
    for seed in (2, 3):
        said = (scale * normal(B, L, *point, seed=seed)).requires_grad_()
        end = process.endpoint(said, x_0, 0.7)
        error = process.error(said, x_0)
        torch.testing.assert_close(error, geodesic(name, end, x_0) ** 2, rtol=1e-6, atol=1e-9)
        (slope,) = torch.autograd.grad(error.sum(), said)
        assert slope.isfinite().all()


@pytest.mark.parametrize("name", CURVED)
def test_the_error_of_a_tangent_vector_is_that_of_its_end(name):
    """Two vectors at x_t, to the end that was said and to the end of the score; no point."""
    process, point = CURVED[name]
    x_0 = process.sample_prior((B, L), generator=rng(1), dtype=DOUBLE)
    x_t = process.sample_forward(x_0, 0.3, generator=rng(2))
    for kind in (br.Score, br.Noise, br.Velocity):
        right = process.convert(br.Score(process.score(x_t, x_0, 0.3)), kind, x_t, 0.3)
        torch.testing.assert_close(
            process.error(right, x_0, x_t=x_t, t=0.3), torch.zeros(B, L, dtype=DOUBLE)
        )
        score = process.convert(right, br.Score, x_t, 0.3)
        torch.testing.assert_close(
            process.endpoint(right, x_t, 0.3), process.endpoint(score, x_t, 0.3)
        )


@pytest.mark.parametrize("name", CURVED)
def test_the_centres_of_a_mixture_are_read_as_points(name):
    process, point = CURVED[name]
    x_0 = process.sample_prior((B, L), generator=rng(1), dtype=DOUBLE)
    said = 3 * normal(B, L, 1, *point, seed=2)
    one = torch.zeros(B, L, 1, dtype=DOUBLE)
    narrow = br.Mixture(one, said, one + 1e-10)
    end = process.endpoint(said.squeeze(2), x_0, 0.7)
    drawn = process.endpoint(narrow, x_0, 0.7, generator=rng(3))
    assert geodesic(name, drawn, end).abs().max() < 1e-3
    wide = br.Mixture(one, said, one + 0.4)
    log_prob = process.log_prob(x_0, end, 0.4 / 0.8)
    torch.testing.assert_close(process.error(wide, x_0), -log_prob)


# ------------------------------------------------------------------ tokens

TOKENS = {
    "uniform": (br.UniformDiscreteDiffusion(0.8, K), 0.7),
    "independent": (br.IndependentDiscreteDiffusion(0.8, PI), 0.7),
    "never": (br.IndependentDiscreteDiffusion(0.8, [0.5, 0.5, 0.0, 0.0]), 0.7),
    "masking": (br.MaskingDiscreteDiffusion(0.8, K), 0.7),
    "mixture": (br.MixtureDiscreteDiffusion(0.8, PI, 0.5), 0.7),
    "general": (br.GeneralDiscreteDiffusion(RATES), 0.7),
    "steps": (br.DiscreteTimeDiffusion.uniform([0.3, 0.4, 0.5], K), 3),
    "absorbing": (br.DiscreteTimeDiffusion.absorbing([0.3, 0.4, 0.5], K), 3),
}


@pytest.mark.parametrize("name", TOKENS)
def test_the_error_of_logits_is_minus_the_log_of_what_endpoint_draws(name):
    """With x_t and t, which may rule x_0 out: what they leave is what is drawn and what counts."""
    process, t = TOKENS[name]
    x_0 = torch.randint(0, K, (B, L), generator=rng(1))
    x_t = process.sample_forward(x_0, t, generator=rng(2))
    logits = normal(B, L, K, seed=3)
    for said in (logits, br.PlugIn(logits)):
        law = process.reverse_probs(said, x_t, 0, t)[..., :K]
        error = process.error(said, x_0, x_t=x_t, t=t)
        right = -law.gather(-1, x_0.unsqueeze(-1)).squeeze(-1).log()
        torch.testing.assert_close(error, right, rtol=1e-6, atol=1e-9)
    drawn = process.endpoint(
        logits[0, 0].expand(20_000, K), x_t[0, 0].expand(20_000), t, generator=rng(4)
    )
    share = torch.bincount(drawn, minlength=K).double() / 20_000
    first = process.reverse_probs(logits[0, 0], x_t[0, 0], 0, t)[:K]
    torch.testing.assert_close(share, first, rtol=0, atol=0.015)


# ------------------------------------------------------------------ losses leave out t = 0


@pytest.mark.parametrize(
    "schedule", [br.VPSchedule(), br.CosineSchedule(), br.RectifiedSchedule()]
)
def test_the_loss_of_a_denoiser_leaves_out_numbers_without_noise(schedule):
    """At σ = 0 the network is asked for noise that is not there: there is nothing to learn."""
    said = torch.zeros(6, 3, requires_grad=True)
    denoiser = br.PreconditionedDenoiser(lambda x, noise: said[: len(x)], schedule, 0.7)
    x = torch.randn(6, 3, generator=rng(2))
    t = torch.tensor([0.0, 0.3, 0.0, 0.7, 1.0, 0.1])
    loss = denoiser.loss(x, t, generator=rng(1))
    (slope,) = torch.autograd.grad(loss, said)
    assert not slope[t == 0].any()
    assert slope[t > 0].abs().min() > 0
    noise = torch.randn(6, 3, generator=rng(1))
    alpha, sigma = (f(t.double()).unsqueeze(-1) for f in (schedule.alpha, schedule.sigma))
    target = (sigma * x - alpha * 0.7 * noise) / (0.7 * (alpha**2 * 0.7 + sigma**2)).sqrt()
    right = (said - target)[t > 0].square().mean()
    torch.testing.assert_close(loss, right.float())
    nothing = denoiser.loss(x, 0.0, generator=rng(1))
    assert nothing == 0
    assert not torch.autograd.grad(nothing, said)[0].any()


def test_what_is_left_out_may_be_anything():
    x = torch.tensor([[math.nan, 1.0], [0.5, 1.0]])
    denoiser = br.PreconditionedDenoiser(lambda x, noise: 0 * x, br.VPSchedule())
    loss = denoiser.loss(x, torch.tensor([0.0, 0.5]), generator=rng())
    assert loss.isfinite()

"""Networks that say ε, a score or a velocity, as denoisers."""

import math

import pytest
import torch

from bridges import sample_backward
from bridges.analytic_denoiser import NormalDenoiser
from bridges.denoiser import PreconditionedDenoiser
from bridges.gaussian import GaussianDiffusion
from bridges.network_denoiser import (
    FlowDenoiser,
    NetworkDenoiser,
    NoiseDenoiser,
    RescheduledDenoiser,
    ScoreDenoiser,
    StepIndex,
    VDenoiser,
    VelocityDenoiser,
)
from bridges.schedule import RectifiedSchedule
from bridges.ve_schedule import EDMSchedule, VESchedule
from bridges.vp_schedule import CosineSchedule, TableSchedule, VPSchedule
from schedules import schedules

DOUBLE = torch.float64
B = 5
TIMES = torch.tensor([1e-3, 0.2, 0.5, 0.9, 0.99], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def said(kind, schedule, x_0, noise, t):
    """Return what an oracle of x_0 and ε says, by the definition of each word."""
    alpha, sigma, alpha_dot, sigma_dot = (
        f(t).unsqueeze(-1)
        for f in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    return {
        NoiseDenoiser: noise,
        ScoreDenoiser: -noise / sigma,
        VelocityDenoiser: alpha_dot * x_0 + sigma_dot * noise,
        VDenoiser: (alpha * noise - sigma * x_0) / torch.hypot(alpha, sigma),
        FlowDenoiser: noise - x_0,
    }[kind]


KINDS = [NoiseDenoiser, ScoreDenoiser, VelocityDenoiser, VDenoiser, FlowDenoiser]
kinds = pytest.mark.parametrize("kind", KINDS)


@schedules
@kinds
def test_what_is_said_becomes_x_0(kind, schedule):
    x_0, noise = (torch.randn(B, 3, generator=rng(s), dtype=DOUBLE) for s in (1, 2))
    alpha, sigma = (f(TIMES).unsqueeze(-1) for f in (schedule.alpha, schedule.sigma))
    value = said(kind, schedule, x_0, noise, TIMES)
    law = kind(lambda x_t, t: value, schedule)(alpha * x_0 + sigma * noise, TIMES)
    torch.testing.assert_close(law.mean, x_0, rtol=1e-9, atol=1e-9)
    var = sigma**2 / (alpha**2 + sigma**2)
    torch.testing.assert_close(law.var, var, rtol=1e-12, atol=0)


@schedules
@kinds
def test_one_estimate_said_in_any_form_has_one_answer(kind, schedule):
    """Not only the truth: any x̂_0, with the ε that goes with it and x_t."""
    x_t, x_0_hat = (torch.randn(B, 3, generator=rng(s), dtype=DOUBLE) for s in (3, 4))
    alpha, sigma = (f(TIMES).unsqueeze(-1) for f in (schedule.alpha, schedule.sigma))
    value = said(kind, schedule, x_0_hat, (x_t - alpha * x_0_hat) / sigma, TIMES)
    found = kind(lambda x_t, t: value, schedule)(x_t, TIMES).mean
    torch.testing.assert_close(found, x_0_hat, rtol=1e-8, atol=1e-8)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@schedules
def test_answers_are_finite_at_both_ends(schedule, kind, dtype):
    x_t = torch.randn(4, 3, generator=rng(5)).to(dtype)
    denoiser = kind(lambda x_t, t: 0.3 * x_t + t.reshape(-1, 1), schedule)
    for t in (0.0, 1.0, torch.tensor([0.0, 1e-9, 0.5, 1.0])):
        law = denoiser(x_t, t)
        assert law.mean.dtype == law.var.dtype == dtype
        assert law.mean.isfinite().all()
    if schedule.sigma(torch.zeros(1).double()) == 0:
        torch.testing.assert_close(denoiser(x_t, 0.0).mean, x_t)


def test_a_schedule_that_starts_with_noise_is_denoised_at_time_0():
    x_t, noise = torch.tensor([2.0], dtype=DOUBLE), torch.tensor([0.4], dtype=DOUBLE)
    for kind, value in ((NoiseDenoiser, noise), (ScoreDenoiser, -noise / 0.01)):
        found = kind(lambda x_t, t, value=value: value, VESchedule(0.01, 30.0))(x_t, 0.0).mean
        torch.testing.assert_close(found, x_t - 0.01 * noise)


def test_the_abstract_class_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        NetworkDenoiser(lambda x_t, t: x_t, VPSchedule())


# ------------------------------------------------------------------ what networks are told


def test_the_network_is_told_t_or_what_is_made_of_it():
    told = []

    def network(x_t, t, label=None):
        told.append((t, label))
        return 0 * x_t

    x_t = torch.zeros(4, 2)
    NoiseDenoiser(network, VPSchedule())(x_t, 0.3)
    NoiseDenoiser(network, VPSchedule())(x_t, torch.rand(4, dtype=DOUBLE), label=3)
    NoiseDenoiser(network, VPSchedule(), StepIndex(10))(x_t, torch.tensor([0.1, 0.3, 0.9, 1.0]))
    FlowDenoiser(network, RectifiedSchedule(), lambda t: 1000 * t)(x_t.double(), 0.3)
    assert [t.dtype for t, _ in told] == [torch.float32, torch.float32, torch.int64, DOUBLE]
    assert [t.shape for t, _ in told] == [(4,)] * 4
    assert told[1][1] == 3
    assert told[2][0].tolist() == [0, 2, 8, 9]
    assert told[3][0].tolist() == [300] * 4


@pytest.mark.parametrize("n", [2, 10, 999, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_every_index_comes_back_from_its_time(n, dtype):
    k = torch.arange(1, n + 1)
    assert torch.equal(StepIndex(n)((k / n).to(dtype)), k - 1)
    assert StepIndex(n)(torch.zeros(())) == 0


# ------------------------------------------------------------------ other schedules


@pytest.mark.parametrize("own", [VPSchedule(), CosineSchedule(), TableSchedule.linear(1000)])
@pytest.mark.parametrize("other", [VPSchedule(), RectifiedSchedule(), EDMSchedule()])
def test_a_denoiser_on_another_schedule(own, other):
    """Against a closed form that is right on every schedule."""
    mean, var = torch.tensor([1.0, -2.0], dtype=DOUBLE), 0.7
    t = torch.tensor([0.2, 0.4, 0.5, 0.6, 0.7], dtype=DOUBLE)
    x_t = torch.randn(B, 2, generator=rng(6), dtype=DOUBLE)
    moved = RescheduledDenoiser(NormalDenoiser(own, mean, var), other)(x_t, t)
    exact = NormalDenoiser(other, mean, var)(x_t, t)
    torch.testing.assert_close(moved.mean, exact.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.var, exact.var, rtol=1e-8, atol=1e-10)


def test_noise_beyond_the_own_schedule_is_that_of_its_end():
    asked = []
    inner = NoiseDenoiser(lambda x_t, t: asked.append(t) or 0 * x_t, TableSchedule.linear(100))
    moved = RescheduledDenoiser(inner, VESchedule(1e-6, 1e6))
    x_t = torch.randn(2, 3, dtype=DOUBLE)
    assert all(moved(x_t, t).mean.isfinite().all() for t in (0.0, 1.0))
    assert (asked[0] < 1e-4).all()
    assert (asked[1] == 1).all()


def test_every_denoiser_is_a_guess():
    """An exact ε-network on DDPM's schedule, walked on EDM's, ends where data are."""
    own, other = TableSchedule.linear(1000), EDMSchedule(0.002, 80.0)
    exact = NormalDenoiser(own, torch.tensor([1.0, -2.0], dtype=DOUBLE), 0.25)

    def network(x_t, t):
        x_0_hat = exact(x_t, t).mean
        alpha, sigma = (f(t.double()).unsqueeze(-1) for f in (own.alpha, own.sigma))
        return (x_t - alpha * x_0_hat) / sigma

    guess = RescheduledDenoiser(NoiseDenoiser(network, own), other)
    x = 80 * torch.randn(5000, 2, generator=rng(7), dtype=DOUBLE)
    for eta in (0.0, 1.0):
        end = sample_backward(
            guess,
            GaussianDiffusion(other),
            torch.linspace(0, 1, 200),
            x,
            eta=eta,
            generator=rng(8),
        )
        torch.testing.assert_close(end.mean(0), exact.mean, rtol=0, atol=0.04)
        assert end.std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_other_denoisers_are_guesses_too():
    x = torch.randn(4, 2)
    for guess in (
        PreconditionedDenoiser(lambda x, noise: 0 * x, RectifiedSchedule()),
        FlowDenoiser(lambda x_t, t: 0 * x_t, RectifiedSchedule()),
    ):
        process = GaussianDiffusion(guess.schedule)
        assert sample_backward(guess, process, [0.0, 0.5, 1.0], x).shape == (4, 2)


def test_bad_input():
    with pytest.raises(ValueError, match="n_steps to be a positive integer"):
        StepIndex(0)
    with pytest.raises(TypeError, match="time to be callable"):
        NoiseDenoiser(lambda x_t, t: x_t, VPSchedule(), 1000)
    with pytest.raises(TypeError, match="denoiser to be a GaussianDenoiser"):
        RescheduledDenoiser(lambda x_t, t: x_t, VPSchedule())
    assert math.isclose(NoiseDenoiser(print, VPSchedule(), var_x=0.3).var_x, 0.3)

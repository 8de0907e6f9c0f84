"""Preconditioning of networks on numbers."""

import math

import pytest
import torch
from torch import nn

from bridges import standardloss
from bridges.denoiser import GaussianDenoiser, PreconditionedDenoiser, estimate_var
from bridges.gaussian import GaussianDiffusion
from bridges.schedule import ExplodingSchedule, RectifiedSchedule, Schedule
from bridges.vp_schedule import VPSchedule
from bridges.weight import EDMWeight
from schedules import SCHEDULES, schedules

DOUBLE = torch.float64
B, C, L = 5, 3, 4
TIMES = torch.tensor([1e-3, 0.2, 0.5, 0.9, 0.999], dtype=DOUBLE)
per_channel = torch.tensor([0.3, 1.7, 4.0], dtype=DOUBLE).reshape(C, 1)
variances = pytest.mark.parametrize("var_x", [1.0, 0.3, per_channel], ids=["1", "0.3", "channels"])


def rng(seed):
    return torch.Generator().manual_seed(seed)


def state(seed=0, dtype=DOUBLE):
    return torch.randn(B, C, L, generator=rng(seed), dtype=DOUBLE).to(dtype)


class Network(nn.Module):
    """A network of the input and of the noise, which remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=DOUBLE))

    def forward(self, x, noise, shift=0.0):
        self.seen = x, noise
        noise = noise.reshape(*noise.shape, *[1] * (x.ndim - noise.ndim))
        return torch.tanh(self.scale.to(x.dtype) * x + 0.3 * noise) + shift


# ------------------------------------------------------------------ the abstract module


def test_the_abstract_denoiser_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        GaussianDenoiser(VPSchedule())
    assert issubclass(GaussianDenoiser, nn.Module)


# ------------------------------------------------------------------ the formulas


@schedules
@variances
def test_the_published_coefficients(schedule, var_x):
    network, x_t = Network(), state()
    law = PreconditionedDenoiser(network, schedule, var_x)(x_t, TIMES)
    alpha, sigma = (f(TIMES).reshape(B, 1, 1) for f in (schedule.alpha, schedule.sigma))
    total = alpha**2 * var_x + sigma**2
    shown, noise = network.seen
    torch.testing.assert_close(shown, x_t / total.sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(noise, (sigma / alpha).log().reshape(B), rtol=1e-9, atol=1e-9)
    sigma_x = torch.as_tensor(var_x, dtype=DOUBLE).sqrt()
    mean = alpha * var_x / total * x_t + sigma * sigma_x / total.sqrt() * network(shown, noise)
    torch.testing.assert_close(law.mean, mean, rtol=1e-12, atol=1e-14)
    var = var_x * sigma**2 / (var_x * alpha**2 + sigma**2)
    torch.testing.assert_close(law.var.expand_as(x_t), var.expand_as(x_t), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [VPSchedule(), RectifiedSchedule()])
@variances
def test_both_ends(schedule, var_x):
    """Nothing to denoise at 0; at 1 with α = 0 all is the network's, of the size of the data."""
    network, x_t = Network(), state()
    denoiser = PreconditionedDenoiser(network, schedule, var_x)
    start = denoiser(x_t, 0.0)
    torch.testing.assert_close(start.mean, x_t, rtol=1e-15, atol=0)
    assert (start.var == 0).all()
    assert (network.seen[1] == -20).all()
    end = denoiser(x_t, torch.ones(B, dtype=DOUBLE))
    assert end.mean.isfinite().all()
    if isinstance(schedule, RectifiedSchedule):
        sigma_x = torch.as_tensor(var_x, dtype=DOUBLE).sqrt()
        value = network(*network.seen)
        assert (network.seen[1] == 20).all()
        torch.testing.assert_close(end.mean, sigma_x * value)


class Halved(ExplodingSchedule):
    """Without noise at time 0, where x_0 is halved."""

    def alpha(self, t):
        return 0.5 * torch.ones_like(t)

    def sigma(self, t):
        return t

    def sigma_dot(self, t):
        return torch.ones_like(t)

    def inverse_log_snr(self, log_snr):
        return 0.5 * torch.exp(-0.5 * log_snr)


def test_without_noise_the_answer_is_the_state_over_alpha():
    found = PreconditionedDenoiser(Network(), Halved(), 0.7)(state(), 0.0).mean
    torch.testing.assert_close(found, 2 * state(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@schedules
def test_dtypes_shapes_and_finite_values(schedule, dtype):
    network = Network()
    denoiser = PreconditionedDenoiser(network, schedule)
    for t in (0.0, 1e-12, 0.5, 1.0, torch.tensor(0.5), torch.rand(B), torch.rand(B, C)):
        law = denoiser(state(dtype=dtype), t)
        assert (law.mean.dtype, law.var.dtype) == (dtype, dtype)
        assert law.mean.shape == (B, C, L)
        assert network.seen[1].shape == (torch.as_tensor(t).shape or (B,))
        assert network.seen[1].dtype == network.scale.dtype
        assert law.mean.isfinite().all()
        assert law.var.isfinite().all()


def test_keywords_go_to_the_network_and_any_function_is_one():
    network = Network()
    denoiser = PreconditionedDenoiser(network, VPSchedule())
    plain, shifted = denoiser(state(), 0.5), denoiser(state(), 0.5, shift=1.0)
    torch.testing.assert_close(shifted.mean - plain.mean, plain.var.sqrt().expand(B, C, L))
    assert dict(denoiser.named_parameters()) == {"backbone.scale": network.scale}
    assert list(denoiser.state_dict()) == ["var_x", "backbone.scale"]
    PreconditionedDenoiser(lambda x, noise: x, VPSchedule())(state(), 0.5)


# ------------------------------------------------------------------ schedules that are twins


class Twin(Schedule):
    """A schedule at another scale: x_t is multiplied by a function of t."""

    def __init__(self, schedule, scale):
        self.schedule, self.scale = schedule, scale

    def alpha(self, t):
        return self.scale(t) * self.schedule.alpha(t)

    def sigma(self, t):
        return self.scale(t) * self.schedule.sigma(t)

    alpha_dot = sigma_dot = inverse_log_snr = _size_slopes = None


@schedules
@pytest.mark.parametrize("scale", ["exploding", "growing"])
@variances
def test_a_rescaled_twin_of_the_schedule_changes_no_answer(schedule, scale, var_x):
    factor = (lambda t: 1 / schedule.alpha(t)) if scale == "exploding" else (lambda t: 1 + 3 * t)
    denoiser = PreconditionedDenoiser(Network(), schedule, var_x)
    own = denoiser(state(), TIMES)
    denoiser.schedule = Twin(schedule, factor)
    other = denoiser(factor(TIMES).reshape(B, 1, 1) * state(), TIMES)
    torch.testing.assert_close(other.mean, own.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.var, own.var, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------ the loss


@schedules
@variances
def test_the_loss_is_the_published_one(schedule, var_x):
    denoiser, x = PreconditionedDenoiser(Network(), schedule, var_x), state(1)
    found = denoiser.loss(x, TIMES, generator=rng(2))
    noise = torch.randn(B, C, L, generator=rng(2), dtype=DOUBLE)
    alpha, sigma = (f(TIMES).reshape(B, 1, 1) for f in (schedule.alpha, schedule.sigma))
    law = denoiser(alpha * x + sigma * noise, TIMES)
    torch.testing.assert_close(
        found, ((law.mean - x) ** 2 / law.var).mean(), rtol=1e-8, atol=1e-10
    )


def test_the_loss_is_standardloss_with_edm_weights():
    schedule, x = VPSchedule(), state(1)
    denoiser, process = (
        PreconditionedDenoiser(Network(), schedule, 0.3),
        GaussianDiffusion(schedule),
    )
    x_t = process.sample_forward(x, TIMES, generator=rng(2))
    scaler = EDMWeight(math.sqrt(0.3))
    other = standardloss(process, TIMES, denoiser(x_t, TIMES), x, scaler=scaler).total
    torch.testing.assert_close(denoiser.loss(x, TIMES, generator=rng(2)), other)


def test_the_loss_and_its_gradient_are_finite_at_every_time():
    t = torch.tensor([0.0, 1e-12, 1e-4, 1.0, 1.0])
    for schedule in SCHEDULES:
        network = Network()
        loss = PreconditionedDenoiser(network, schedule).loss(state(dtype=torch.float32), t)
        loss.backward()
        assert loss.isfinite()
        assert network.scale.grad.isfinite()


def test_a_network_of_zeros_has_a_loss_of_one_on_normal_data():
    """What preconditioning promises: a target of size 1 at every noise."""
    x = math.sqrt(0.3) * torch.randn(200_000, generator=rng(3))
    for t in (0.01, 0.3, 0.99):
        denoiser = PreconditionedDenoiser(lambda x, noise: torch.zeros_like(x), VPSchedule(), 0.3)
        assert denoiser.loss(x, t, generator=rng(4)).item() == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------ the variance of data


def test_the_variance_of_data_by_channel():
    x = torch.tensor([0.5, 2.0, 5.0]).reshape(C, 1) * torch.randn(4000, C, L, generator=rng(5)) + 7
    var = estimate_var(x, (0, 2))
    assert var.shape == (C, 1)
    torch.testing.assert_close(
        var.squeeze(-1), x.transpose(0, 1).flatten(1).var(1, correction=0), rtol=1e-5, atol=0
    )
    assert estimate_var(x, (0, 1, 2)).shape == ()
    assert PreconditionedDenoiser(Network(), VPSchedule(), var).var_x.dtype == DOUBLE


# ------------------------------------------------------------------ devices and errors


def test_nothing_is_read_from_the_device():
    x_t, network = torch.empty(B, C, L, device="meta"), nn.Linear(L, L, device="meta")
    denoiser = PreconditionedDenoiser(lambda x, noise: network(x), VPSchedule(), per_channel)
    denoiser = denoiser.to("meta")
    for t in (0.3, torch.empty(B, device="meta"), torch.empty(B, C, device="meta")):
        assert denoiser(x_t, t).mean.device.type == "meta"
        assert denoiser.loss(x_t, t).device.type == "meta"


def test_bad_input():
    ints = per_channel.int()
    for arguments, error, words in [
        ((3, VPSchedule()), TypeError, "backbone to be callable"),
        ((Network(), 0.1), TypeError, "schedule to be a Schedule"),
        ((Network(), VPSchedule(), 0.0), ValueError, "var_x to be positive"),
        ((Network(), VPSchedule(), -per_channel), ValueError, "var_x to be positive"),
        ((Network(), VPSchedule(), ints), TypeError, "var_x to be floating"),
    ]:
        with pytest.raises(error, match=words):
            PreconditionedDenoiser(*arguments)
    denoiser = PreconditionedDenoiser(Network(), VPSchedule())
    with pytest.raises(TypeError, match="Expected x_t to be a floating tensor"):
        denoiser(torch.ones(3, dtype=torch.int64), 0.5)
    with pytest.raises(ValueError, match="leading part"):
        denoiser(state(), torch.rand(B + 1))

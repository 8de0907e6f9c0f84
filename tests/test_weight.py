"""Weights of losses, against the losses that papers write down."""

import math

import pytest
import torch

from bridges import (
    Joint,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    Score,
    UniformDiscreteDiffusion,
    Velocity,
    standardloss,
)
from bridges.gaussian import GaussianDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.ve_schedule import EDMSchedule, VESchedule
from bridges.vp_schedule import CosineSchedule, TableSchedule, VPSchedule
from bridges.weight import (
    EDMWeight,
    FlowWeight,
    MinSNRWeight,
    SNRWeight,
    UniformWeight,
    VWeight,
    Weight,
)

DOUBLE = torch.float64
B = 6
SCHEDULES = [
    VPSchedule(),
    CosineSchedule(),
    RectifiedSchedule(),
    VESchedule(0.01, 30.0),
    EDMSchedule(),
    TableSchedule.linear(100),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
WEIGHTS = [UniformWeight(), SNRWeight(), VWeight(), FlowWeight(), MinSNRWeight(5.0), EDMWeight()]
TIMES = torch.tensor([0.01, 0.1, 0.3, 0.5, 0.8, 0.97], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def noised(schedule, seed=0):
    """Return x_0, ε and x_t, and α and σ."""
    x_0, noise = (torch.randn(B, 3, generator=rng(seed + i), dtype=DOUBLE) for i in (1, 2))
    alpha, sigma = (f(TIMES).unsqueeze(-1) for f in (schedule.alpha, schedule.sigma))
    return x_0, noise, alpha * x_0 + sigma * noise, alpha, sigma


# ------------------------------------------------------------------ the published losses


@schedules
def test_one_output_has_one_gradient_in_every_form(schedule):
    """A network's output θ is read as ε, v, flow velocity or x_0; its own loss is the weighted one
    of x_0, in value and in gradient."""
    x_0, noise, x_t, alpha, sigma = noised(schedule)
    output = torch.randn(B, 3, generator=rng(5), dtype=DOUBLE, requires_grad=True)
    size = torch.hypot(alpha, sigma)
    flow, v = noise - x_0, (alpha * noise - sigma * x_0) / size
    readings = {
        SNRWeight(): (noise, (x_t - sigma * output) / alpha),
        # At the scale of the schedule: α² + σ² = 1 in the definition of v.
        VWeight(): (v, (alpha * x_t - sigma * size * output) / size**2),
        FlowWeight(): (flow, (x_t - sigma * output) / (alpha + sigma)),
        UniformWeight(): (x_0, output),
    }
    process = GaussianDiffusion(schedule)
    for weight, (target, x_0_hat) in readings.items():
        own = (output - target).square().mean()
        loss = standardloss(process, TIMES, x_0_hat, x_0, scaler=weight).total
        torch.testing.assert_close(loss, own, rtol=1e-8, atol=1e-10)
        slopes = [torch.autograd.grad(f, output, retain_graph=True)[0] for f in (loss, own)]
        torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-10)


@schedules
@pytest.mark.parametrize("kind", [Noise, Score, Velocity])
def test_tangent_vectors_and_points_have_the_same_weighted_loss(schedule, kind):
    x_0, _, x_t, _, _ = noised(schedule)
    process = GaussianDiffusion(schedule)
    x_0_hat = torch.randn(B, 3, generator=rng(6), dtype=DOUBLE, requires_grad=True)
    said = process.convert(x_0_hat, kind, x_t, TIMES)
    for weight in WEIGHTS:
        losses = [
            standardloss(process, TIMES, prediction, x_0, x_t=x_t, scaler=weight).total
            for prediction in (said, x_0_hat)
        ]
        torch.testing.assert_close(*losses, rtol=1e-7, atol=1e-9)
        slopes = [torch.autograd.grad(f, x_0_hat, retain_graph=True)[0] for f in losses]
        torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-8)


def test_the_formulas():
    log_snr = torch.linspace(-6, 6, 13, dtype=DOUBLE)
    snr, ratio = log_snr.exp(), (0.5 * log_snr).exp()
    sigma = 1 / ratio
    exact = [
        torch.ones(13, dtype=DOUBLE),
        snr,
        1 + snr,
        (1 + ratio) ** 2,
        snr.clamp(max=5.0),
        (sigma**2 + 0.25) / (sigma * 0.5) ** 2,
    ]
    for weight, value in zip(WEIGHTS, exact, strict=True):
        torch.testing.assert_close(weight.weight(log_snr), value, rtol=1e-13, atol=0)
        torch.testing.assert_close(weight(Told(log_snr), None), 1 / value, rtol=1e-13, atol=0)


class Told:
    """Stands for a process of which only the log-SNR is asked."""

    def __init__(self, log_snr):
        self.value = log_snr

    def log_snr(self, t):
        return self.value


def test_score_matching_on_a_curved_space_weighs_as_noise_does():
    process = RotationDiffusion(0.9)
    x_0 = process.sample_prior((B,), generator=rng(7), dtype=DOUBLE)
    x_t = process.sample_forward(x_0, TIMES, generator=rng(8))
    said = torch.randn(B, 3, generator=rng(9), dtype=DOUBLE)
    truth = process.convert(Score(process.score(x_t, x_0, TIMES)), Noise, x_t, TIMES).value
    loss = standardloss(process, TIMES, Noise(said), x_0, x_t=x_t, scaler=SNRWeight())
    torch.testing.assert_close(loss.elements, (said - truth).square().sum(-1))


# ------------------------------------------------------------------ every time


@pytest.mark.parametrize("weight", WEIGHTS, ids=lambda w: type(w).__name__)
@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, DOUBLE])
def test_losses_are_finite_at_every_time(schedule, weight, dtype):
    t = torch.tensor([0.0, 1e-30, 1e-12, 1e-6, 0.5, 1.0])
    x_0 = torch.randn(B, 3, generator=rng(10)).to(dtype)
    x_0_hat = (x_0 + 0.3).requires_grad_()
    loss = standardloss(GaussianDiffusion(schedule), t, x_0_hat, x_0, scaler=weight)
    loss.total.backward()
    assert loss.elements.isfinite().all()
    assert x_0_hat.grad.isfinite().all()
    assert (loss.elements[0] == 0).all()
    assert (loss.elements[4:] > 0).all()


def test_a_weight_runs_on_the_processs_clock_and_with_a_mask():
    process, clock = OrnsteinUhlenbeckDiffusion(0.5, 1.2, 0.8), PowerClock(1.7, 0.8)
    mask = torch.tensor([True, False, True, True, False, True])
    x_0, x_0_hat = (torch.randn(B, 3, generator=rng(i), dtype=DOUBLE) for i in (11, 12))
    found, exact = (
        standardloss(p, t, x_0_hat, x_0, scaler=MinSNRWeight(2.0), mask=mask).elements
        for p, t in ((process.on(clock), TIMES), (process, clock(TIMES)))
    )
    torch.testing.assert_close(found, exact)
    alpha = torch.exp(-0.8 * clock(TIMES))
    snr = alpha**2 / (0.9 * (1 - alpha**2))
    by_hand = snr.clamp(max=2.0).unsqueeze(-1) * (x_0_hat - x_0) ** 2 * mask.unsqueeze(-1)
    torch.testing.assert_close(found, by_hand)


def test_a_joint_weighs_every_part_or_each_its_own():
    pos, seq = OrnsteinUhlenbeckDiffusion(0.0), UniformDiscreteDiffusion(1.0, 5)
    x_0 = torch.randn(B, 3, generator=rng(13), dtype=DOUBLE)
    both = Joint(pos, pos)
    loss = standardloss(both, TIMES, (x_0 + 1, x_0 + 2), (x_0, x_0), scaler=VWeight())
    one = standardloss(pos, TIMES, x_0 + 1, x_0, scaler=VWeight())
    torch.testing.assert_close(loss.parts, (one.total, 4 * one.total))
    tokens, logits = torch.zeros(B, dtype=torch.int64), torch.zeros(B, 5)
    mixed = Joint(pos=pos, seq=seq)
    x_0, said = {"pos": x_0, "seq": tokens}, {"pos": x_0 + 1, "seq": logits}
    loss = standardloss(mixed, TIMES, said, x_0, scaler={"pos": VWeight(), "seq": None})
    torch.testing.assert_close(loss.parts["pos"], one.total)
    own = standardloss(seq, TIMES, logits, tokens).total
    torch.testing.assert_close(loss.parts["seq"], own)
    with pytest.raises(NotImplementedError, match="signal-to-noise"):
        standardloss(mixed, TIMES, said, x_0, scaler=VWeight())


def test_bad_input():
    for make, words in [
        (lambda: MinSNRWeight(0.0), "gamma to be positive"),
        (lambda: EDMWeight(-1.0), "sigma_data to be positive"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(TypeError, match="abstract"):
        Weight()
    assert math.isclose(EDMWeight(1.0).weight(torch.zeros(())), 2.0)

"""Networks as guesses on every space: what they are shown, told and understood to say."""

import math

import pytest
import torch
from torch import nn

from bridges import (
    Joint,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PowerClock,
    RotationDiffusion,
    SphereDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
    selfconditioned,
    standardloss,
)
from bridges.categorical import MaskingDiscreteDiffusion
from bridges.denoiser import PreconditionedDenoiser
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.preconditioned_guess import PreconditionedGuess
from bridges.quaternion import UnitQuaternionDiffusion
from bridges.rate_matrix import GeneralDiscreteDiffusion
from bridges.schedule import RectifiedSchedule
from bridges.structured import StructuredDiffusion
from bridges.vp_schedule import VPSchedule
from bridges.weight import EDMWeight

DOUBLE = torch.float64
B, K = 6, 5
OU = OrnsteinUhlenbeckDiffusion(1.3, 0.7, 1.9)
CURVED = [
    WrappedBrownianDiffusion(1.7, 3.0),
    RotationDiffusion(0.9),
    SphereDiffusion(0.6),
    UnitQuaternionDiffusion(0.9),
]
curved = pytest.mark.parametrize("process", CURVED, ids=lambda p: type(p).__name__)
TIMES = torch.tensor([1e-4, 0.1, 0.3, 0.7, 1.0, 3.0], dtype=DOUBLE)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def value(process, batch, seed=1):
    """Draw what a network may say on a curved space."""
    shape = (*batch, 3) if process.tangent_ndim else batch
    return torch.randn(shape, generator=rng(seed), dtype=DOUBLE)


class Said:
    """A network that says what it was told to, and remembers what it was given."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x, noise, *more):
        self.seen = x, noise, more
        return self.value


# ------------------------------------------------------------------ numbers


@pytest.mark.parametrize("var_x", [0.3, torch.tensor([0.3, 2.0], dtype=DOUBLE)])
@pytest.mark.parametrize("schedule", [VPSchedule(), RectifiedSchedule()])
def test_on_numbers_it_is_the_preconditioned_denoiser(schedule, var_x):
    x_t, t = torch.randn(B, 2, generator=rng(1), dtype=DOUBLE), TIMES.clamp(max=1)
    network = nn.Bilinear(2, 1, 2, dtype=DOUBLE)
    backbone = lambda x, noise: network(x, noise.unsqueeze(-1))  # noqa: E731
    guess = PreconditionedGuess(backbone, GaussianDiffusion(schedule), var_x)
    exact = PreconditionedDenoiser(backbone, schedule, var_x)(x_t, t).mean
    torch.testing.assert_close(guess(x_t, t), exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("clock", [None, PowerClock(1.7, 0.8)])
def test_numbers_are_measured_from_the_mean_and_scaled_to_size_one(clock):
    process = OU if clock is None else OU.on(clock)
    x_0 = 1.3 + 0.5 * torch.randn(50_000, generator=rng(2), dtype=DOUBLE)
    for t in (0.01, 0.3, 2.0):
        x_t = process.sample_forward(x_0, t, generator=rng(3))
        network = Said(torch.zeros_like(x_t))
        x_0_hat = PreconditionedGuess(network, process, 0.25)(x_t, t)
        shown, noise, _ = network.seen
        assert shown.mean().abs() < 0.02
        assert shown.square().mean().item() == pytest.approx(1, abs=0.03)
        torch.testing.assert_close(noise, -0.5 * process.log_snr(t))
        # The skip is the regression on x_t.
        slope = ((x_t - 1.3) * (x_0 - 1.3)).mean() / (x_t - 1.3).square().mean()
        torch.testing.assert_close(x_0_hat, 1.3 + slope * (x_t - 1.3), rtol=0, atol=0.05)


def test_points_that_share_their_noise():
    process = StructuredDiffusion(BrownianDiffusion(1.0), ZeroCentreOfMass(4))
    x_t = process.noise(torch.randn(B, 4, 3, generator=rng(1)))
    network = Said(torch.zeros(B, 4, 3))
    guess = PreconditionedGuess(network, process, 4.0)(x_t, TIMES)
    assert network.seen[1].shape == (B,)
    torch.testing.assert_close(guess, (4 / (4 + TIMES)).float().reshape(B, 1, 1) * x_t)


# ------------------------------------------------------------------ curved spaces


def sizes(process, t, var_x=None):
    """Return √v and c_out, from the formula."""
    v = process.rate * torch.as_tensor(t, dtype=DOUBLE)
    v = v.unsqueeze(-1) if process.tangent_ndim else v
    var_x = process._spread_of_uniform if var_x is None else var_x
    return v.sqrt(), (v * var_x / (v + var_x)).sqrt()


def mean_square(process, w):
    """Return the mean square of tangent vectors, per direction."""
    directions = {WrappedBrownianDiffusion: 1, SphereDiffusion: 2}.get(type(process), 3)
    return w.square().sum().item() / len(w) / directions


@curved
@pytest.mark.parametrize("var_x", [None, 0.04])
def test_the_prediction_is_a_turn_of_the_networks_own_scale(process, var_x):
    x_t, said = process.sample_prior((B,), generator=rng(4), dtype=DOUBLE), value(process, (B,))
    said = process._tangent(x_t, said)
    network = Said(said)
    prediction = PreconditionedGuess(network, process, var_x)(x_t, TIMES)
    root, c_out = sizes(process, TIMES, var_x)
    assert isinstance(prediction, Noise)
    torch.testing.assert_close(prediction.value, -c_out * said / root)
    found = process.endpoint(prediction, x_t, TIMES)
    torch.testing.assert_close(found, process._exp(x_t, c_out * said), rtol=0, atol=1e-10)
    assert network.seen[0] is x_t
    torch.testing.assert_close(network.seen[1], 0.5 * (process.rate * TIMES).log())


@curved
def test_a_vector_to_x_0_gives_x_0(process):
    x_t = process.sample_prior((B,), generator=rng(5), dtype=DOUBLE)
    x_0 = process._exp(x_t, 0.4 * value(process, (B,)))
    said = process._log(x_t, x_0) / sizes(process, TIMES)[1]
    prediction = PreconditionedGuess(Said(said), process)(x_t, TIMES)
    torch.testing.assert_close(process.endpoint(prediction, x_t, TIMES), x_0, rtol=0, atol=1e-9)


@curved
def test_the_target_has_size_one_at_low_noise_and_is_bounded(process):
    x_0 = process.sample_prior((20_000,), generator=rng(6), dtype=DOUBLE)
    for t in (1e-3, 0.03, 0.3, 1.0, 3.0):
        x_t = process.sample_forward(x_0, t, generator=rng(7))
        w = process.rate * t * process.score(x_t, x_0, t)
        size = mean_square(process, w / sizes(process, t)[1])
        assert size < 1.15
        assert t > 1e-3 or size == pytest.approx(1, abs=0.04)


@curved
def test_the_variance_of_the_uniform_law(process):
    x, y = (process.sample_prior((100_000,), generator=rng(s), dtype=DOUBLE) for s in (8, 9))
    w = process._log(x, y)
    assert mean_square(process, w) == pytest.approx(process._spread_of_uniform, rel=0.02)


@pytest.mark.parametrize("process", [OU, *CURVED[:2]], ids=["numbers", "angles", "rotations"])
def test_with_edm_weights_the_loss_is_that_of_the_output(process):
    """The loss is the squared distance of F from its target."""
    x_0 = process.sample_prior((B,), generator=rng(10), dtype=DOUBLE)
    t = TIMES.clamp(min=1e-2)
    x_t = process.sample_forward(x_0, t, generator=rng(11))
    off = (
        torch.full_like(x_0, 0.1) if process.point_ndim == 0 else torch.full((B, 3), 0.1).double()
    )

    def loss(said):
        guess = PreconditionedGuess(Said(said), process, 0.49)
        scaler = EDMWeight(0.7)
        return standardloss(process, t, guess(x_t, t), x_0, x_t=x_t, scaler=scaler).elements

    if process is OU:
        zero = PreconditionedGuess(Said(torch.zeros(B)), process, 0.49)(x_t, t)
        alpha = torch.exp(-1.9 * t)
        v = 0.49 / 3.8 * (1 - alpha**2)
        target = (x_0 - zero) / (0.49 * v / (0.49 * alpha**2 + v)).sqrt()
    else:
        root, c_out = sizes(process, t, 0.49)
        target = root**2 * process.score(x_t, x_0, t) / c_out
    assert loss(target).abs().max() < 1e-12
    square = off.square().sum(-1) if off.ndim > 1 else off.square()
    torch.testing.assert_close(loss(target + off), square, rtol=1e-6, atol=1e-10)


# ------------------------------------------------------------------ tokens


def test_tokens_are_told_the_odds_of_having_been_forgotten():
    t = torch.tensor([0.0, 1e-3, 0.4, 3.0, 1e3], dtype=DOUBLE)
    x_t, said = torch.zeros(5, dtype=torch.int64), torch.randn(5, K)
    for process in (UniformDiscreteDiffusion(0.8, K), MaskingDiscreteDiffusion(0.8, K)):
        network = Said(said)
        assert PreconditionedGuess(network, process)(x_t, t) is said
        lost = 1 - torch.exp(-0.8 * t)
        odds = (0.5 * torch.log(lost / (1 - lost))).clamp(-20, 20)
        torch.testing.assert_close(network.seen[1], odds.float(), rtol=1e-5, atol=1e-5)
        assert network.seen[0] is x_t


def test_tokens_of_a_rate_matrix_are_told_the_odds_of_having_changed():
    rates = 0.8 * (torch.full((K, K), 1 / K, dtype=DOUBLE) - torch.eye(K, dtype=DOUBLE))
    network = Said(torch.zeros(1, K))
    for t in (1e-3, 0.4):
        changed = -math.expm1(-0.8 * t) * (1 - 1 / K)
        PreconditionedGuess(network, GeneralDiscreteDiffusion(rates))(torch.zeros(1).long(), t)
        exact = 0.5 * math.log(changed / (1 - changed))
        assert network.seen[1].item() == pytest.approx(exact, rel=1e-5)


# ------------------------------------------------------------------ several spaces at once


class Everything(nn.Module):
    """A network on numbers, tokens and rotations."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 + 9 + 3, 3 + K + 3)

    def forward(self, x, noise, previous=None):
        assert {key: value.shape for key, value in noise.items()} == dict.fromkeys(x, (B,))
        levels = torch.stack(tuple(noise.values()), -1)
        h = self.head(torch.cat((x["pos"], x["rot"].flatten(-2), levels), -1))
        pos, seq, rot = h.split((3, K, 3), -1)
        return {"pos": pos, "seq": seq, "rot": rot}


def test_a_joint_is_trained_and_sampled():
    process = Joint(
        pos=OU.on(PowerClock(2.0)),
        seq=UniformDiscreteDiffusion(1.0, K),
        rot=RotationDiffusion(1.0),
    )
    shape = {"pos": (B, 3), "seq": (B,), "rot": (B,)}
    guess = PreconditionedGuess(Everything(), process, {"pos": 0.3, "seq": None, "rot": None})
    x_0 = process.sample_prior(shape, generator=rng(12))
    x_t = process.sample_forward(x_0, TIMES, generator=rng(13))
    loss = standardloss(process, TIMES, guess(x_t, TIMES.float()), x_0, x_t=x_t).total
    loss.backward()
    assert all(p.grad.isfinite().all() for p in guess.parameters())
    times = {"pos": TIMES, "seq": torch.zeros(B), "rot": TIMES}
    assert guess(x_t, times)["seq"].shape == (B, K)
    where = process.where(torch.rand(B) < 0.5)
    for run, model in ((process, guess), (where, PreconditionedGuess(Everything(), where))):
        x = sample_backward(model, run, [0.0, 0.3, 1.0], x_t, generator=rng(14))
        assert x["rot"].shape == (B, 3, 3)
    null = guess(x_t, 0.5 * torch.ones(B))
    sample_backward(selfconditioned(guess, null), process, [0.0, 0.3, 1.0], x_t)


def test_nested_joints_and_one_variance_for_all():
    process = Joint(OU, Joint(OU, WrappedBrownianDiffusion(1.0)))
    x = process.sample_prior(((B,), ((B,), (B,))), generator=rng(15))
    network = Said((x[0], (x[0], x[0])))
    first, (second, third) = PreconditionedGuess(network, process, 0.3)(x, 0.4)
    torch.testing.assert_close(second, PreconditionedGuess(Said(x[0]), OU, 0.3)(x[1][0], 0.4))
    assert first.shape == third.value.shape == (B,)


def test_bad_input():
    for arguments, error, words in [
        ((3, OU), TypeError, "backbone to be callable"),
        ((Said(None), VPSchedule()), TypeError, "process to be a Process"),
        ((Said(None), OU, -1.0), ValueError, "var_x to be positive"),
    ]:
        with pytest.raises(error, match=words):
            PreconditionedGuess(*arguments)
    joint = Joint(a=OU, b=OU)
    with pytest.raises(ValueError, match="prediction to be a dict with keys"):
        PreconditionedGuess(Said((1, 2)), joint)({"a": torch.ones(2), "b": torch.ones(2)}, 0.5)


def test_nothing_is_read_from_the_device():
    meta = torch.device("meta")
    process = Joint(pos=OU, seq=UniformDiscreteDiffusion(1.0, K), rot=RotationDiffusion(1.0))
    x = process.sample_prior({"pos": (B, 3), "seq": (B,), "rot": (B,)}, device=meta)
    said = {"pos": x["pos"], "seq": torch.empty(B, K, device=meta), "rot": x["pos"]}
    for t in (0.4, torch.empty(B, device=meta)):
        found = PreconditionedGuess(Said(said), process)(x, t)
        assert found["rot"].value.device == meta

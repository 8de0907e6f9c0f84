"""Nothing that is kept remembers the mode, the graph or the dtype of an earlier use."""

import pytest
import torch
from torch import nn

import bridges as br
from bridges import multistep
from bridges._shapes import Constant, lasting

META, CPU = torch.device("meta"), torch.device("cpu")
DOUBLE = torch.float64
B, K = 4, 5
PI = [0.4, 0.3, 0.2, 0.06, 0.04]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ inference mode


def test_a_constant_first_used_in_inference_mode_serves_training():
    """Made there, or copied to a device there."""
    with torch.inference_mode():
        made = Constant(torch.ones(2))
    copied = Constant(torch.ones(2, dtype=DOUBLE))
    with torch.inference_mode():
        there = copied.on(META)
        assert made.on(CPU) is made.on(CPU)
    assert not there.is_inference()
    assert not made.on(META).is_inference()
    x = torch.ones(2, requires_grad=True)
    (x * made.on(CPU)).sum().backward()
    x = torch.ones(2, device="meta", requires_grad=True)
    (x * there).sum().backward()


LAZY = {
    "D3PM": lambda: br.DiscreteTimeDiffusion.uniform([0.1, 0.2, 0.3], K),
    "independent": lambda: br.IndependentDiscreteDiffusion(1.0, PI),
    "mixture": lambda: br.MixtureDiscreteDiffusion(1.0, PI, 0.3),
    "general": lambda: br.GeneralDiscreteDiffusion.ordinal(K, 1.0),
    "any rates": lambda: br.GeneralDiscreteDiffusion(torch.eye(K).roll(1, 1) - torch.eye(K)),
}


@pytest.mark.parametrize("made", ["inside", "outside"])
@pytest.mark.parametrize("name", LAZY)
def test_tokens_sampled_before_they_are_learned(name, made):
    """Validation under inference mode comes first, and training after it."""
    with torch.inference_mode(mode=made == "inside"):
        process = LAZY[name]()
    x = torch.zeros(B, dtype=torch.int64)
    with torch.inference_mode():
        process.sample_step(torch.zeros(B, K), process.sample_prior((B,)), 1, 2)
        process.sample_forward(x, 3)
        process.loss_scale(2)
        process.bridge_probs(x, x, 1, 2)
    logits = torch.zeros(B, K, requires_grad=True)
    process.reverse_probs(logits, x, 1, 2).square().sum().backward()
    process.error(br.PlugIn(logits), x, x_t=x, t=2).sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "noise",
    [br.ZeroCentreOfMass(4, 1), br.CovarianceFactor.chain(4, 0.5, 1), br.SymmetricNoise(4)],
)
def test_noise_used_in_inference_mode_first(noise):
    with torch.inference_mode():
        noise(torch.ones(noise.point_shape))
    z = torch.ones(noise.point_shape, requires_grad=True)
    noise.covariance(z).square().sum().backward()
    noise.precision(z).square().sum().backward()


def test_tables_and_integrals_kept_from_inference_mode():
    multistep.gauss_legendre.cache_clear()
    with torch.inference_mode():
        assert not multistep.gauss_legendre().is_inference()
        clock = br.TableClock([0.0, 1.0], [0.0, 2.0])
        schedule = br.TableSchedule.linear(10)
    t = torch.tensor([0.3, 0.7], dtype=DOUBLE, requires_grad=True)
    (clock(t) + schedule.alpha(t) + schedule.log_snr(t)).square().sum().backward()
    multistep.gauss_legendre.cache_clear()


# ------------------------------------------------------------------ closures called by hand


def test_a_closure_called_by_hand_keeps_no_graph():
    weight = torch.ones(3, requires_grad=True)
    guess = br.selfconditioned(lambda x, t, previous: weight * (x + previous), torch.zeros(3))
    x = torch.ones(3)
    first = guess(x, 1.0)
    assert first.requires_grad
    first.sum().backward()
    second = guess(x, 0.5)  # the graph of the first is gone, and not needed
    second.sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([1.0 + 2.0] * 3))
    assert not guess.previous.requires_grad


def test_a_closure_remembers_structures_and_predictions():
    weight = torch.ones(3, requires_grad=True)

    def model(x, t, previous):
        return {"pos": br.Noise(weight * previous["pos"].value), "seq": weight + previous["seq"]}

    null = {"pos": br.Noise(torch.ones(3)), "seq": torch.zeros(3)}
    guess = br.selfconditioned(model, null)
    with torch.inference_mode():
        guess(None, 1.0)
    assert not guess.previous["pos"].value.is_inference()
    later = guess(None, 0.5)
    (later["pos"].value + later["seq"]).sum().backward()
    assert weight.grad.isfinite().all()


def test_gradients_still_flow_through_a_run():
    weight = torch.ones(3, requires_grad=True)
    guess = br.selfconditioned(lambda x, t, previous: weight * previous, torch.full((3,), 2.0))
    process = br.OrnsteinUhlenbeckDiffusion(0.0)
    *_, last = br.trajectory(guess, process, [0.0, 0.2, 0.4, 0.6], torch.ones(3))
    last.x_s.sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((3,), 6.0))  # d(2w³)/dw
    *_, again = br.trajectory(guess, process, [0.0, 0.2], torch.ones(3))
    torch.testing.assert_close(again.x_s.detach(), torch.full((3,), 2.0))


def test_lasting():
    x = torch.ones(2, requires_grad=True)
    kept = lasting(2 * x)
    assert not kept.requires_grad
    with torch.inference_mode():
        made = torch.ones(2)
        assert not lasting(made).is_inference()


# ------------------------------------------------------------------ a network of another dtype


class Net(nn.Module):
    """A network with weights, which refuses what is not in their dtype."""

    def __init__(self):
        super().__init__()
        self.line, self.told = nn.Linear(3, 3), []

    def forward(self, x, t):
        self.told.append(t)
        t = t.reshape(-1, 1).to(x.dtype) if not t.is_floating_point() else t.reshape(-1, 1)
        assert t.dtype == self.line.weight.dtype
        return self.line(x) + t


DTYPES = [torch.bfloat16, torch.float16, torch.float32, DOUBLE]
VP = br.VPSchedule()
USES = {
    "preconditioned": lambda net, x, t: br.PreconditionedDenoiser(net, VP)(x, t).mean,
    "loss": lambda net, x, t: br.PreconditionedDenoiser(net, VP).loss(x, t, generator=rng()),
    "noise": lambda net, x, t: br.NoiseDenoiser(net, VP)(x, t).mean,
    "steps": lambda net, x, t: br.VDenoiser(net, VP, br.StepIndex(1000))(x, t).mean,
    "rescheduled": lambda net, x, t: (
        br.RescheduledDenoiser(br.FlowDenoiser(net, VP), br.CosineSchedule())(x, t).mean
    ),
    "guess": lambda net, x, t: br.PreconditionedGuess(net, br.OrnsteinUhlenbeckDiffusion(0.0))(
        x, t.expand(2) if isinstance(t, torch.Tensor) else torch.full((2,), t)
    ),
    "DDPM": lambda net, x, t: br.DenoiseDiffusion(net, 10).p_sample(x, 4, generator=rng()),
    "DDPM loss": lambda net, x, t: br.DenoiseDiffusion(net, 10).loss(x, generator=rng()),
    "sampler": lambda net, x, t: br.DDPMSampler(br.PreconditionedDenoiser(net, VP), 3)(
        x, generator=rng()
    ),
}


@pytest.mark.parametrize("state", DTYPES)
@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("use", USES)
def test_input_and_noise_level_are_cast_and_the_answer_back(use, weights, state):
    torch.manual_seed(0)
    net, x = Net().to(weights), torch.ones(2, 3, dtype=state)
    found = USES[use](net, x, 0.4)
    losses = use in ("loss", "DDPM loss")
    assert found.dtype == (torch.promote_types(state, torch.float32) if losses else state)
    assert found.isfinite().all()
    for t in net.told:
        assert t.dtype == weights or t.dtype == torch.int64
    torch.manual_seed(0)
    right = USES[use](Net().double(), x.double(), 0.4)
    slack = 40 * max(torch.finfo(weights).eps, torch.finfo(state).eps)
    torch.testing.assert_close(found.double(), right, rtol=slack, atol=slack)


def test_structures_are_cast_and_tokens_are_not():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.line, self.embed = nn.Linear(3, 3), nn.Embedding(5, 5)

        def forward(self, x, noise):
            assert noise["pos"].dtype == noise["seq"].dtype == torch.bfloat16
            pos = self.line(x["pos"]) + noise["pos"].reshape(-1, 1)
            return {"pos": pos, "seq": self.embed(x["seq"])}

    process = br.Joint(
        pos=br.OrnsteinUhlenbeckDiffusion(0.0), seq=br.UniformDiscreteDiffusion(1.0, 5)
    )
    guess = br.PreconditionedGuess(Both().bfloat16(), process)
    x = {"pos": torch.ones(2, 3), "seq": torch.zeros(2, dtype=torch.int64)}
    said = guess(x, torch.tensor([0.3, 0.9]))
    assert said["pos"].dtype == torch.float32
    assert said["seq"].shape == (2, 5)
    end = br.sample_backward(guess, process, [0.0, 0.5, 1.0], x, generator=rng())
    assert end["pos"].dtype == torch.float32


def test_a_module_without_weights_is_given_the_state_s_dtype():
    seen = []

    class Plain(nn.Module):
        def forward(self, x, t):
            seen.append((x.dtype, t.dtype))
            return x

    for backbone in (Plain(), lambda x, t: seen.append((x.dtype, t.dtype)) or x):
        br.PreconditionedDenoiser(backbone, VP)(torch.ones(2, 3, dtype=torch.bfloat16), 0.4)
        br.PreconditionedDenoiser(backbone, VP)(torch.ones(2, 3, dtype=DOUBLE), 0.4)
    assert seen == [(torch.bfloat16, torch.float32), (DOUBLE, DOUBLE)] * 2

"""A device without float64: nothing on it is float64, and what comes out is nearly the same.

No such device is needed: the one function that says whether a device has float64 is made to say
no. On the meta device every float64 tensor with dimensions is then refused as it is made; on the
CPU the answers are compared with those in float64.
"""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import bridges as br
from bridges import _device
from bridges._shapes import Constant
from bridges.sampler import _grid, _walk

DOUBLE = torch.float64
META = torch.device("meta")
B, L, K = 4, 3, 5
GRID = [0.0, 0.1, 0.3]
PI = [0.4, 0.3, 0.2, 0.06, 0.04]
RATES = torch.rand(K, K, generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
RATES = RATES - RATES.sum(1).diag()
PARTS = {
    "pos": br.OrnsteinUhlenbeckDiffusion(0.5),
    "scheduled": br.GaussianDiffusion(br.CosineSchedule()),
    "table": br.GaussianDiffusion(br.TableSchedule.linear(10)),
    "masses": br.StructuredDiffusion(
        br.OrnsteinUhlenbeckDiffusion(0.0), br.ZeroCentreOfMass(4, weight=torch.rand(4) + 1)
    ),
    "chain": br.StructuredDiffusion(
        br.OrnsteinUhlenbeckDiffusion(0.0), br.CovarianceFactor.chain(4, 0.7)
    ),
    "angle": br.WrappedBrownianDiffusion(0.7, 1.0),
    "rot": br.RotationDiffusion(0.9),
    "sphere": br.SphereDiffusion(1.1),
    "quaternion": br.UnitQuaternionDiffusion(0.9),
    "uniform": br.UniformDiscreteDiffusion(1.0, K),
    "independent": br.IndependentDiscreteDiffusion(1.0, PI),
    "masking": br.MaskingDiscreteDiffusion(1.0, K),
    "mixture": br.MixtureDiscreteDiffusion(1.0, PI, 0.4),
    "general": br.GeneralDiscreteDiffusion(RATES),
    "ordinal": br.GeneralDiscreteDiffusion.ordinal(K, 1.0),
    "remasking": br.Remasking(br.MaskingDiscreteDiffusion(1.0, K), 0.4),
    "clocked": br.WrappedBrownianDiffusion(0.7).on(
        br.TableClock([0.0, 0.5, 1.0], [0.0, 0.3, 2.0])
    ),
}
TOKENS = ("uniform", "independent", "masking", "mixture", "general", "ordinal", "remasking")
every = pytest.mark.parametrize("name", PARTS)


class NoFloat64(TorchDispatchMode):
    """Raise where a float64 tensor with dimensions appears on a device."""

    def __init__(self, device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            wrong = isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and leaf.dtype == DOUBLE
            if wrong and leaf.device.type == self.device:
                raise AssertionError(f"{func} made a float64 tensor of shape {tuple(leaf.shape)}.")
        return out


class Empty(br.Draws):
    """Draws on the meta device."""

    def normal(self, shape, dtype, device):
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    uniform = normal


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def no_float64(monkeypatch, *kinds):
    monkeypatch.setattr(_device, "has_float64", lambda device: device.type not in kinds)


def predictions(name, process, x):
    if name in TOKENS:
        logits = torch.zeros(*x.shape, K, device=x.device)
        return [logits] if name == "remasking" else [logits, br.PlugIn(logits)]
    shape = (*x.shape[:2], 3) if name in ("rot", "quaternion") else x.shape
    vector, two = torch.zeros(shape, device=x.device), torch.zeros(B, L, 2, device=x.device)
    ndim = process.point_ndim
    centres = torch.stack((x, x), x.ndim - ndim)
    return [
        x,
        *(k(vector) for k in (br.Score, br.Noise, br.Velocity)),
        br.Mixture(two, centres, two + 1),
    ]


# ------------------------------------------------------------------ nothing there is float64


@pytest.mark.parametrize("kind", ["host", "per example"])
@every
def test_no_hook_makes_float64(name, kind, monkeypatch):
    no_float64(monkeypatch, "meta")
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda acceptance: 2)
    process = PARTS[name]
    with NoFloat64("meta"):
        x = process._prior((B, L), Empty(), torch.float32, META)
        s, t = 0.2, 0.7
        if kind == "per example":
            s, t = (torch.full((B,), u, device=META) for u in (s, t))
        s, t = process._expand(s, x), process._expand(t, x)
        process._forward(x, s, t, Empty())
        process._between(x, x, s, t, 1.0, Empty())
        process._log_prob(x, x, s, t)
        process._loss_scale(t)
        if name not in TOKENS:
            process._score(x, x, t)
            process._log_snr(t)
        for said in predictions(name, process, x):
            process._endpoint(said, x, t, Empty())
            process._step(said, x, s, t, 1.0, Empty())
            process._error(said, x, x, t)


def test_a_run_makes_none(monkeypatch):
    no_float64(monkeypatch, "meta")
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda acceptance: 2)
    names = [name for name in PARTS if name != "table"]
    process = br.Joint(**{name: PARTS[name] for name in names})
    x = {name: PARTS[name]._prior((B, L), Empty(), torch.float32, META) for name in names}
    told, eta = [], {name: 1.0 for name in names}

    def guess(x_t, t):
        told.append(t)
        return {name: predictions(name, PARTS[name], x_t[name])[0] for name in names}

    for grid in ([0.0, 0.3, 0.9], torch.empty(3, B, device=META)):
        with NoFloat64("meta"):
            steps = list(_walk(guess, process, _grid(grid), x, eta, Empty()))
        assert len(steps) == 2
    assert all(t.dtype == torch.float32 for t in told)


@pytest.mark.parametrize(
    "solver",
    [br.HeunSolver(), br.AdamsBashforthSolver(3), br.ExponentialSolver(2), br.DDIMSolver(0.4)],
)
def test_solvers_make_none(solver, monkeypatch):
    no_float64(monkeypatch, "meta")
    x = torch.empty(B, L, device=META)
    for grid in ([0.0, 0.3, 0.9], torch.empty(3, B, device=META)):
        with NoFloat64("meta"):
            list(_walk(lambda x, t: x, PARTS["pos"], _grid(grid), x, 1.0, Empty(), solver))


def test_denoisers_and_time_samplers_make_none(monkeypatch):
    no_float64(monkeypatch, "meta")
    vp, x, t = br.VPSchedule(), torch.empty(B, 3, device=META), torch.empty(B, device=META)
    network = lambda x, t: x  # noqa: E731
    denoisers = [
        br.PreconditionedDenoiser(network, vp, 0.3),
        br.NoiseDenoiser(network, vp, br.StepIndex(1000)),
        br.VDenoiser(network, vp),
        br.RescheduledDenoiser(br.FlowDenoiser(network, vp), br.CosineSchedule()),
        br.NormalDenoiser(vp, 0.3, 2.0),
        br.CorrelatedNormalDenoiser(vp, torch.zeros(3), torch.eye(3)),
        br.MixtureDenoiser(vp, torch.ones(2), torch.zeros(2, 3), torch.ones(2)),
        br.EmpiricalDenoiser(vp, torch.rand(5, 3)),
    ]
    for denoiser in denoisers:
        moved = denoiser.to(META)
        assert all(value.dtype != DOUBLE for value in moved.state_dict().values())
        with NoFloat64("meta"):
            law = moved(x, t)
        assert law.mean.dtype == torch.float32
    with NoFloat64("meta"):
        denoisers[0].loss(x, t, generator=Empty())
        br.DenoiseDiffusion(network, 10).to(META)._p_sample(x, 3, Empty())
        br.PreconditionedGuess(network, PARTS["pos"])(x, t)
        for sampler in (br.UniformTimes(), br.LowDiscrepancyTimes(), br.LogNormalTimes()):
            sampler(5, generator=Empty(), device=META)


def test_the_mode_would_notice():
    x = torch.empty(2, device=META)
    with NoFloat64("meta"):
        x.to(torch.float32)
        torch.zeros((), dtype=DOUBLE, device=META)
        with pytest.raises(AssertionError, match="made a float64 tensor"):
            x.double()


# ------------------------------------------------------------------ nearly the same answers


@every
def test_the_answers_are_those_of_float32(name, monkeypatch):
    process = PARTS[name]
    x_0 = process.sample_prior((B, L), generator=rng(1))
    if name in TOKENS:
        x_0 = x_0.clamp(max=K - 1)
    s, t = torch.linspace(0.1, 0.4, B), torch.linspace(0.3, 0.9, B)
    x_t = process.sample_forward(x_0, 0.7, generator=rng(2))

    def answers():
        found = [process.log_prob(x_t, x_0, t), process.loss_scale(t)]
        found.append(process.error(predictions(name, process, x_0)[0], x_0, x_t=x_t, t=t))
        if name not in TOKENS:
            found += [process.score(x_t, x_0, t), process.log_snr(t)]
        elif name != "remasking":
            found.append(process.bridge_probs(x_0, x_t, s, t))
        return found

    exact = answers()
    Constants.forget(process)
    no_float64(monkeypatch, "cpu")
    for a, b in zip(answers(), exact, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4, check_dtype=False, equal_nan=True)
    draws = rng(3)
    x_t = process.sample_forward(x_0, t, generator=draws)
    x_s = process.sample_bridge(x_0, x_t, s, t, generator=draws)
    for x in (x_s, *process.sample_step(predictions(name, process, x_0)[0], x_t, s, t)):
        assert (x.shape, x.dtype) == (x_0.shape, x_0.dtype)
        process._check(x, "x")


class Constants:
    """Forget the copies of constants that were made in float64 on the CPU."""

    @staticmethod
    def forget(process):
        for value in list(vars(process).values()):
            if isinstance(value, Constant):
                value._copies = {
                    d: v.float() if v.dtype == DOUBLE else v for d, v in value._copies.items()
                }
            elif hasattr(value, "__dict__"):
                Constants.forget(value)


def test_what_float32_loses():
    """A token of probability 2⁻²⁶ behind likely ones is drawn in float64, and not in float32."""
    logits = torch.tensor([0.0, 0.0, math.log(2.0**-26)])
    u = torch.tensor([1 - 2.0**-28], dtype=DOUBLE)
    assert _device.widest(torch.device("cpu")) == DOUBLE
    assert _device.widest(torch.device("mps")) == torch.float32
    assert br.GivenDraws(uniforms=[u]).categorical(logits) == 2
    assert br.GivenDraws(uniforms=[u.float().clamp(max=1 - 2.0**-24)]).categorical(logits) == 1


# ------------------------------------------------------------------ what networks are told


def test_a_network_of_a_half_state_hears_every_step_once():
    """999 … 0, where times in bfloat16 would be 999, 999, 995, 995, …"""
    heard = []

    def network(x_t, t):
        heard.append(t.tolist())
        return 0 * x_t

    schedule = br.TableSchedule.linear(1000)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        heard.clear()
        guess = br.NoiseDenoiser(network, schedule, br.StepIndex(1000))
        x = torch.zeros(2, 3, dtype=dtype)
        br.sample_backward(
            lambda x, t, guess=guess: guess(x, t).mean,
            br.GaussianDiffusion(schedule),
            torch.linspace(0, 1, 1001, dtype=DOUBLE),
            x,
            generator=rng(),
        )
        assert heard == [[k, k] for k in range(999, -1, -1)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, DOUBLE])
def test_times_are_at_least_float32(dtype):
    told = []
    least = torch.promote_types(dtype, torch.float32)
    x = torch.zeros(2, 3, dtype=dtype)

    def network(x_t, t):
        told.append(t)
        return 0 * x_t

    process = br.OrnsteinUhlenbeckDiffusion(0.0)
    joint = br.Joint(process, br.UniformDiscreteDiffusion(1.0, 4))
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    br.sample_backward(network, process, [0.0, 0.123456789], x)
    br.sample_backward(
        lambda x_t, t: (network(x_t[0], t), torch.zeros(2, 3, 4)), joint, [0.0, 0.3], (x, tokens)
    )
    br.PreconditionedDenoiser(network, br.VPSchedule())(x, 0.123456789)
    br.NoiseDenoiser(network, br.VPSchedule())(x, 0.123456789)
    br.PreconditionedGuess(network, process)(x, torch.full((2,), 0.123456789, dtype=DOUBLE))
    assert all(t.dtype == least for t in told)
    assert told[0][0].item() == pytest.approx(0.123456789, rel=1e-7)
    alpha, sigma = (f(torch.tensor(0.123456789, dtype=DOUBLE)) for f in VP)
    assert told[2][0].item() == pytest.approx((sigma / alpha).log().item(), rel=1e-6)


VP = (br.VPSchedule().alpha, br.VPSchedule().sigma)


def test_the_default_device_is_not_asked():
    """Times are numbers on the CPU, whatever the default device is: no run waits for another."""
    process = br.Joint(br.OrnsteinUhlenbeckDiffusion(0.0), br.RotationDiffusion(1.0))
    x_0 = process.sample_prior(((3,), (3,)), generator=rng())
    plain = process.sample_forward(x_0, 0.3, generator=rng())
    ran = br.sample_backward(lambda x, t: x_0, process, GRID, plain, generator=rng(1))
    with torch.device("meta"):
        there = process.sample_forward(x_0, 0.3, generator=rng())
        run = br.sample_backward(
            lambda x, t: x_0, process, [0.0, 0.1, 0.3], there, generator=rng(1)
        )
    for a, b in zip((*plain, *ran), (*there, *run), strict=True):
        assert torch.equal(a, b)

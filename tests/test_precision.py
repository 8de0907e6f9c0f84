"""The caller's autocast changes nothing inside the library: every public call, bit for bit."""

import math
import tempfile

import pytest
import torch
from torch import nn

import bridges as br
import cases
from bridges import convert, protein, recipes
from bridges._precision import AUTOCAST, exact, narrowed, widened
from bridges.nn import RandomFourierFeatures
from bridges.testing import check_process

DOUBLE = torch.float64
B = 6
T = torch.tensor([0.1, 0.3, 0.4, 0.6, 0.8, 0.9], dtype=DOUBLE)
GRID = [0.0, 0.2, 0.6, 0.9]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed))


# ------------------------------------------------------------------ a row for every public name


def mean_squared(x, t):
    """A network without a matrix product: what it says is the same in every mode."""
    return 0.5 * x


def of_process(process, x_0, shape, said=None, times=(0.2, 0.6), prior=True):
    """Call every public method of a process."""
    s, t = times
    x_t = process.sample_forward(x_0, t, generator=rng(1))
    said = x_0 if said is None else said
    yield x_t
    yield process.sample_forward(x_0, t, start=s, generator=rng(2))
    yield process.sample_bridge(x_0, x_t, s, t, generator=rng(3))
    if prior:
        yield process.sample_prior(shape, generator=rng(4))
    yield process.endpoint(said, x_t, t, generator=rng(5))
    yield process.sample_step(said, x_t, s, t, generator=rng(6))
    yield process.error(said, x_0, x_t=x_t, t=t)
    yield process.loss_scale(t)
    yield br.standardloss(process, t, said, x_0, x_t=x_t).total
    yield process.log_prob(x_t, x_0, t)
    for call in (lambda: process.score(x_t, x_0, t), lambda: process.log_snr(t)):
        try:
            yield call()
        except NotImplementedError:
            continue
    yield br.sample_backward(lambda x, t: said, process, [0.0, s, t], x_t, generator=rng(7))


def of_curved(process, x_0, shape, vector):
    yield from of_process(process, x_0, shape)
    for kind in (br.Score, br.Noise, br.Velocity):
        yield from of_process(process, x_0, shape, said=kind(vector))
        yield process.convert(x_0, kind, process.sample_prior(shape, generator=rng(8)), 0.6).value
    logits, v = normal(*shape, 2), torch.full((*shape, 2), 0.3)
    centres = torch.stack((x_0, x_0.roll(1, 0)), len(shape))
    yield from of_process(process, x_0, shape, said=br.Mixture(logits, centres, v))


def of_tokens(process, x_0, **more):
    logits = normal(*x_0.shape, process.k)
    yield from of_process(process, x_0, x_0.shape, said=logits, **more)
    s, t = more.get("times", (0.2, 0.6))
    x_t = process.sample_forward(x_0, t, generator=rng(1))
    yield from of_process(process, x_0, x_0.shape, said=br.PlugIn(logits), **more)
    yield process.bridge_probs(x_0, x_t, s, t)
    yield process.reverse_probs(logits, x_t, s, t)
    yield process.posterior(logits, x_t, t)
    yield process.leave_one_out(logits, x_t, t)


def of_clock(clock):
    return clock(T), clock.inverse(T), clock.derivative(T)


def of_schedule(schedule):
    yield from (schedule.alpha(T), schedule.sigma(T), schedule.alpha_dot(T))
    yield from (schedule.sigma_dot(T), schedule.log_snr(T), schedule.log_snr_dot(T))
    yield schedule.inverse_log_snr(schedule.log_snr(T))
    yield from of_process(br.GaussianDiffusion(schedule), normal(B, 3), (B, 3))


def of_noise(noise):
    z = normal(B, *noise.point_shape)
    yield from (noise(z), noise.project(z), noise.covariance(z), noise.precision(z))
    process, x_0 = br.StructuredDiffusion(br.OrnsteinUhlenbeckDiffusion(0.0), noise), noise(z)
    yield from of_process(process, x_0, (B,))
    yield from of_process(process, x_0, (B,), said=br.Score(z))


def of_denoiser(denoiser, shape=(B, 3)):
    law = denoiser(normal(*shape), T)
    yield from (law.mean, law.var)
    yield br.DDPMSampler(denoiser, steps=3)(normal(*shape), generator=rng())


class Bashforth(br.SolverSampler):
    solver = br.AdamsBashforthSolver(3)


class Ancestral(br.Sampler):
    def __init__(self, denoiser, **kwargs):
        super().__init__(**kwargs)
        self.denoiser = denoiser

    def step(self, x_t, t, s, **kwargs):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(self.denoiser.schedule, (t, s))
        mean = self.denoiser(x_t, t).mean
        return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)


def of_sampler(sampler):
    x_1 = sampler.init((B, 3), 0.3, 2.0, generator=rng(1))
    return x_1, sampler(x_1, generator=rng(2)), sampler.step(x_1, torch.ones(()), torch.ones(()))


def of_solver(solver):
    process = br.OrnsteinUhlenbeckDiffusion(0.3)
    return br.sample_backward(
        mean_squared, process, GRID, normal(B, 3), solver=solver, generator=rng()
    )


def of_weight(weight):
    process, x_0 = br.OrnsteinUhlenbeckDiffusion(0.3), normal(B, 3)
    return br.standardloss(process, T.float(), 0 * x_0, x_0, scaler=weight).total


def of_times(sampler):
    return sampler(9, generator=rng())


def quaternions():
    return nn.functional.normalize(normal(B, 4), dim=-1)


TOKENS = torch.tensor([0, 1, 2, 0, 3, 1])
RATES = torch.tensor([[-2.0, 2, 0, 0], [0, -1, 1, 0], [1, 0, -2, 1], [1, 1, 1, -3]])
ROTATIONS = convert.quat_to_rotmat(quaternions())
UNIT = nn.functional.normalize(normal(B, 3), dim=-1)
VP = br.VPSchedule()
PI = [0.4, 0.3, 0.2, 0.1]


def joint():
    process = br.Joint(
        pos=br.OrnsteinUhlenbeckDiffusion(0.0),
        rot=br.RotationDiffusion(1.0),
        seq=br.UniformDiscreteDiffusion(1.0, 4),
    )
    x_0 = {"pos": normal(B, 3), "rot": ROTATIONS, "seq": TOKENS}
    yield process.sample_forward(x_0, T, generator=rng())
    guess = lambda x, t: {**x_0, "seq": torch.zeros(B, 4)}  # noqa: E731
    yield br.sample_backward(guess, process, GRID, x_0, generator=rng())
    yield [step.x_s for step in br.trajectory(guess, process, GRID, x_0, generator=rng())]
    yield br.standardloss(process, T, guess(x_0, T), x_0).total


def without_checks():
    with br.unchecked():
        return br.RotationDiffusion(0.9).sample_forward(ROTATIONS, T, generator=rng())


def step_of_ddpm():
    diffusion = br.DenoiseDiffusion(mean_squared, 10)
    yield diffusion.p_sample(normal(B, 3), 4, generator=rng())
    yield diffusion.loss(normal(B, 3), generator=rng())
    yield diffusion.sample((B, 3), generator=rng())


def of_fourier():
    return RandomFourierFeatures(1, 8, 3.0, generator=rng())(100 * T.float().unsqueeze(-1))


def backbones():
    atoms = protein.backbone_atoms(10 * normal(B, 3), ROTATIONS, normal(B))
    yield from (atoms, *protein.backbone_frames(atoms), *protein.backbone_torsions(atoms))
    yield from (protein.linked_residues(atoms), protein.dihedral(*atoms[0]))
    path = tempfile.mkdtemp() + "/x.cif"
    protein.write_backbone(path, atoms, torch.zeros(B, dtype=torch.int64))
    yield from (protein.read_backbone(path).coords, protein.read_backbone_masked(path).coords)


def laws():
    check_process(
        br.RotationDiffusion(0.9),
        point=cases.rotations(2000)(torch.float32),
        view=cases.entries,
        seed=3,
    )
    return torch.zeros(())


def masked(name):
    x = torch.tensor([[4, 4, 1], [4, 2, 4]])
    guess = lambda x_t, t: normal(*x_t.shape, 4)  # noqa: E731
    process = br.MaskingDiscreteDiffusion(1.0, 4)
    if name == "remasking":
        process = br.Remasking(process, 0.5)
        return br.sample_backward(guess, process, GRID, x, generator=rng())
    return br.sample_by_first_hitting(guess, process, x, 3.0, generator=rng())


def self_conditioned():
    guess = br.selfconditioned(lambda x, t, previous: 0.5 * x + 0.1 * previous, torch.zeros(B, 3))
    process = br.OrnsteinUhlenbeckDiffusion(0.0)
    yield br.sample_backward(guess, process, GRID, normal(B, 3), generator=rng())


def gaussian():
    law = br.Gaussian(normal(B, 3), torch.full((B, 1), 0.3))
    return law.log_prob(normal(B, 3)), law.sample(generator=rng())


def draws():
    noise = [normal(B, 3), normal(B, 3)]
    process = br.OrnsteinUhlenbeckDiffusion(0.0)
    yield process.sample_forward(normal(B, 3), 0.3, generator=br.GivenDraws(normals=noise))
    yield process.sample_forward(normal(B, 3), 0.3, generator=br.StreamDraws(3, torch.arange(B)))


OU = br.OrnsteinUhlenbeckDiffusion(0.3)
CALLS = {
    "AdamsBashforthSolver": lambda: of_solver(br.AdamsBashforthSolver(3)),
    "BrownianDiffusion": lambda: of_process(
        br.BrownianDiffusion(1.0), normal(B, 3), (B, 3), prior=False
    ),
    "CDFClock": lambda: of_clock(br.CDFClock(torch.distributions.Weibull(1.0, 2.0))),
    "CircleCurve": lambda: of_solver(br.AdamsBashforthSolver(2, br.CircleCurve())),
    "CorrelatedNormalDenoiser": lambda: of_denoiser(
        br.CorrelatedNormalDenoiser(VP, torch.zeros(3), torch.eye(3) + 0.5)
    ),
    "CosineClock": lambda: of_clock(br.CosineClock()),
    "CosineSchedule": lambda: of_schedule(br.CosineSchedule()),
    "CovarianceFactor": lambda: of_noise(br.CovarianceFactor.chain(4, 0.7, 3)),
    "DDIMSampler": lambda: br.DDIMSampler(br.NormalDenoiser(VP, 0.3, 2.0), steps=3)(normal(B, 3)),
    "DDIMSolver": lambda: of_solver(br.DDIMSolver(0.5)),
    "DDPMSampler": lambda: of_denoiser(br.NormalDenoiser(VP, 0.3, 2.0)),
    "DataCurve": lambda: of_solver(br.ExponentialSolver(2, br.DataCurve())),
    "DecaySchedule": lambda: of_schedule(br.DecaySchedule()),
    "DenoiseDiffusion": step_of_ddpm,
    "DiscreteTimeDiffusion": lambda: of_tokens(
        br.DiscreteTimeDiffusion.uniform([0.1, 0.2, 0.3], 4), TOKENS, times=(1, 3)
    ),
    "EDMSchedule": lambda: of_schedule(br.EDMSchedule()),
    "EDMWeight": lambda: of_weight(br.EDMWeight()),
    "EmpiricalDenoiser": lambda: of_denoiser(br.EmpiricalDenoiser(VP, normal(5, 3))),
    "EulerSolver": lambda: of_solver(br.EulerSolver()),
    "ExponentialSolver": lambda: of_solver(br.ExponentialSolver(3)),
    "FlowDenoiser": lambda: of_denoiser(br.FlowDenoiser(mean_squared, VP)),
    "FlowWeight": lambda: of_weight(br.FlowWeight()),
    "Gaussian": gaussian,
    "GaussianDiffusion": lambda: of_process(br.GaussianDiffusion(VP), normal(B, 3), (B, 3)),
    "GeneralDiscreteDiffusion": lambda: of_tokens(br.GeneralDiscreteDiffusion(RATES), TOKENS),
    "GeometricClock": lambda: of_clock(br.GeometricClock(0.1, 4.0)),
    "GivenDraws": draws,
    "HeunSolver": lambda: of_solver(br.HeunSolver()),
    "IndependentDiscreteDiffusion": lambda: of_tokens(
        br.IndependentDiscreteDiffusion(1.0, PI), TOKENS
    ),
    "Joint": joint,
    "LineCurve": lambda: of_solver(br.AdamsBashforthSolver(2, br.LineCurve())),
    "LinearClock": lambda: of_clock(br.LinearClock(2.0)),
    "LinearRateClock": lambda: of_clock(br.LinearRateClock(0.1, 20.0)),
    "LogLinearClock": lambda: of_clock(br.LogLinearClock(0.0)),
    "LogNormalTimes": lambda: of_times(br.LogNormalTimes()),
    "LogarithmicClock": lambda: of_clock(br.LogarithmicClock(0.1, 1.5)),
    "LowDiscrepancyTimes": lambda: of_times(br.LowDiscrepancyTimes()),
    "MaskingDiscreteDiffusion": lambda: of_tokens(br.MaskingDiscreteDiffusion(1.0, 4), TOKENS),
    "MinSNRWeight": lambda: of_weight(br.MinSNRWeight()),
    "Mixture": lambda: of_curved(OU, normal(B, 3), (B, 3), normal(B, 3)),
    "MixtureDenoiser": lambda: of_denoiser(
        br.MixtureDenoiser(VP, torch.ones(2), normal(2, 3), torch.ones(2))
    ),
    "MixtureDiscreteDiffusion": lambda: of_tokens(
        br.MixtureDiscreteDiffusion(1.0, PI, 0.3), TOKENS
    ),
    "Noise": lambda: of_process(OU, normal(B, 3), (B, 3), said=br.Noise(normal(B, 3))),
    "NoiseCurve": lambda: of_solver(br.ExponentialSolver(2, br.NoiseCurve())),
    "NoiseDenoiser": lambda: of_denoiser(br.NoiseDenoiser(mean_squared, VP)),
    "NormalDenoiser": lambda: of_denoiser(br.NormalDenoiser(VP, 0.3, 2.0)),
    "NormalLogSNRTimes": lambda: of_times(br.NormalLogSNRTimes(VP)),
    "OffsetCosineSchedule": lambda: of_schedule(br.OffsetCosineSchedule()),
    "OrnsteinUhlenbeckDiffusion": lambda: of_process(OU, normal(B, 3), (B, 3)),
    "PlugIn": lambda: of_tokens(br.UniformDiscreteDiffusion(0.8, 4), TOKENS),
    "PowerClock": lambda: of_clock(br.PowerClock(2.3, 0.7)),
    "PreconditionedDenoiser": lambda: of_denoiser(br.PreconditionedDenoiser(mean_squared, VP)),
    "PreconditionedGuess": lambda: br.PreconditionedGuess(lambda x, n: 0.3 * x, OU)(
        normal(B, 3), T
    ),
    "PredictorCorrectorSolver": lambda: of_solver(br.PredictorCorrectorSolver(1, 0.3)),
    "RectifiedSchedule": lambda: of_schedule(br.RectifiedSchedule()),
    "Remasking": lambda: masked("remasking"),
    "RescheduledDenoiser": lambda: of_denoiser(
        br.RescheduledDenoiser(br.FlowDenoiser(mean_squared, VP), br.CosineSchedule())
    ),
    "RosenbrockSolver": lambda: of_solver(br.RosenbrockSolver()),
    "RotationDiffusion": lambda: of_curved(
        br.RotationDiffusion(0.9), ROTATIONS, (B,), normal(B, 3)
    ),
    "SNRWeight": lambda: of_weight(br.SNRWeight()),
    "Sampler": lambda: of_sampler(Ancestral(br.NormalDenoiser(VP, 0.3, 2.0), steps=3)),
    "Score": lambda: of_process(OU, normal(B, 3), (B, 3), said=br.Score(normal(B, 3))),
    "ScoreDenoiser": lambda: of_denoiser(br.ScoreDenoiser(mean_squared, VP)),
    "ShiftedSchedule": lambda: of_schedule(br.CosineSchedule().shifted(3.0)),
    "SolverSampler": lambda: of_sampler(Bashforth(br.NormalDenoiser(VP, 0.3, 2.0), steps=3)),
    "SphereDiffusion": lambda: of_curved(br.SphereDiffusion(0.9), UNIT, (B,), normal(B, 3)),
    "StepIndex": lambda: br.StepIndex(1000)(T),
    "StratifiedTimes": lambda: of_times(br.StratifiedTimes()),
    "StreamDraws": draws,
    "StructuredDiffusion": lambda: of_noise(br.ZeroCentreOfMass(4)),
    "SymmetricNoise": lambda: of_noise(br.SymmetricNoise(3)),
    "TableClock": lambda: of_clock(br.TableClock([0.0, 0.5, 1.0], [0.0, 1.0, 3.0])),
    "TableSchedule": lambda: of_schedule(br.TableSchedule.linear(100)),
    "UniformDiscreteDiffusion": lambda: of_tokens(br.UniformDiscreteDiffusion(0.8, 4), TOKENS),
    "UniformLogSNRTimes": lambda: of_times(br.UniformLogSNRTimes(VP, 0.1, 0.9)),
    "UniformTimes": lambda: of_times(br.UniformTimes()),
    "UniformWeight": lambda: of_weight(br.UniformWeight()),
    "UnitQuaternionDiffusion": lambda: of_curved(
        br.UnitQuaternionDiffusion(0.9), quaternions(), (B,), normal(B, 3)
    ),
    "VDenoiser": lambda: of_denoiser(br.VDenoiser(mean_squared, VP)),
    "VESchedule": lambda: of_schedule(br.VESchedule(0.01, 30.0)),
    "VPSchedule": lambda: of_schedule(VP),
    "VWeight": lambda: of_weight(br.VWeight()),
    "Velocity": lambda: of_process(OU, normal(B, 3), (B, 3), said=br.Velocity(normal(B, 3))),
    "VelocityDenoiser": lambda: of_denoiser(br.VelocityDenoiser(mean_squared, VP)),
    "WrappedBrownianDiffusion": lambda: of_curved(
        br.WrappedBrownianDiffusion(0.9), normal(B), (B,), normal(B)
    ),
    "WrappedInterpolatedBrownianDiffusion": lambda: of_curved(
        br.WrappedInterpolatedBrownianDiffusion(0.9), normal(B), (B,), normal(B)
    ),
    "ZeroCentreOfMass": lambda: of_noise(br.ZeroCentreOfMass(4)),
    "cosine_times": lambda: br.cosine_times(0.0, 1.0, 5),
    "estimate_var": lambda: br.estimate_var(normal(B, 3), 0),
    "explicit_times": lambda: br.explicit_times([0.0, 0.3, 1.0]),
    "exponential_times": lambda: br.exponential_times(0.0, 1.0, 5, 2.0),
    "geometric_times": lambda: br.geometric_times(0.1, 1.0, 5),
    "karras_times": lambda: br.karras_times(0.002, 80.0, 5),
    "null_like": lambda: br.null_like({"a": normal(B), "b": br.Noise(normal(B, 3))}),
    "quadratic_times": lambda: br.quadratic_times(0.0, 1.0, 5),
    "sample_backward": joint,
    "sample_by_first_hitting": lambda: masked("first hitting"),
    "selfconditioned": self_conditioned,
    "selfconditioning_estimate": lambda: br.selfconditioning_estimate(
        lambda x, t, previous: 0.5 * x, normal(B, 3), T, torch.zeros(B, 3), generator=rng()
    ),
    "standardloss": joint,
    "timeschedule": lambda: br.timeschedule(torch.exp, torch.log, 0.1, 2.0, 5),
    "trajectory": joint,
    "unchecked": without_checks,
    "uniform_times": lambda: br.uniform_times(0.0, 1.0, 5),
    "nn": of_fourier,
    "convert": lambda: (
        convert.rotmat_to_quat(ROTATIONS),
        convert.quat_to_rotmat(quaternions()),
        convert.bcd_to_quat(normal(B, 3)),
        convert.bcd_to_rotmat(normal(B, 3)),
    ),
    "protein": backbones,
    "testing": laws,
    "recipes": lambda: [
        process.sample_prior({"pos": (B, 3), "rot": (B,)}, generator=rng())
        for process in (recipes.framediff(), recipes.rfdiffusion(), recipes.frameflow())
    ],
}

ABSTRACT = {
    *("Clock", "Curve", "Draws", "GaussianDenoiser", "GaussianSolver", "LinearNoise", "Loss"),
    *("Prediction", "Process", "Schedule", "Solver", "Step", "Tangent", "TimeSampler"),
    "Weight",
}
"""What is called through what derives from it, or only holds results."""


def test_every_public_name_has_a_row():
    modules = {"nn", "convert", "protein", "testing", "recipes"}
    assert set(CALLS) - modules | ABSTRACT == set(br.__all__)


def results(value):
    """List the tensors of what a call returns, with all that a generator yields."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, br.Prediction):
        value = value.parts()
    return [leaf for part in value for leaf in results(part)]


@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_nothing(name):
    plain = results(CALLS[name]())
    assert plain
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            found = results(CALLS[name]())
        assert len(found) == len(plain)
        for a, b in zip(found, plain, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(nan=7e7), b.nan_to_num(nan=7e7))


def test_the_walk_would_notice(monkeypatch):
    """Without the switch the kernels of rotations lose their digits."""
    monkeypatch.setattr("bridges._precision.AUTOCAST", ())
    with pytest.raises((AssertionError, ValueError)):
        test_autocast_changes_nothing("RotationDiffusion")


# ------------------------------------------------------------------ the switch itself


def test_a_guess_runs_in_the_mode_of_the_caller():
    seen = []

    def guess(x_t, t):
        seen.append((torch.is_autocast_enabled("cpu"), (x_t @ x_t.mT).dtype))
        return 0 * x_t

    denoiser = br.PreconditionedDenoiser(lambda x, noise: guess(x, noise), VP)
    x, process = normal(3, 3), br.OrnsteinUhlenbeckDiffusion(0.0)
    with torch.autocast("cpu", torch.bfloat16):
        br.sample_backward(guess, process, [0.0, 0.5], x)
        br.sample_backward(guess, process, [0.1, 0.5], x, solver=br.HeunSolver())
        for step in br.trajectory(guess, process, [0.0, 0.5], x):
            assert step.x_s.dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")
        denoiser(x, 0.5)
        denoiser.loss(x, 0.5)
        br.DenoiseDiffusion(guess, 10).p_sample(x, 3)
        br.PreconditionedGuess(guess, process)(x, torch.ones(3))
    assert seen == [(True, torch.bfloat16)] * len(seen)
    assert len(seen) == 8


def test_the_switch_goes_back_and_compiles():
    @exact
    def product(x):
        """Multiply."""
        return x @ x

    compiled = torch.compile(product, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(torch.eye(2)).dtype == torch.float32
        assert compiled(torch.eye(2)).dtype == torch.float32
        with pytest.raises(RuntimeError):
            product(torch.zeros(2, 3))
        assert torch.is_autocast_enabled("cpu")
    assert product.__doc__ == "Multiply."
    assert all(not torch.is_autocast_enabled(device) for device in AUTOCAST)


def test_widened_and_narrowed():
    x = {"a": torch.ones(2, dtype=torch.float16), "b": (torch.ones(2), torch.ones(2).long())}
    wide = widened(x)
    assert [leaf.dtype for leaf in results(wide)] == [torch.float32, torch.float32, torch.int64]
    assert widened(wide) is wide
    back = narrowed(wide, x)
    assert [leaf.dtype for leaf in results(back)] == [leaf.dtype for leaf in results(x)]


# ------------------------------------------------------------------ half precision

HALF = [torch.float16, torch.bfloat16]
CURVED = {
    "rotation": (br.RotationDiffusion(1.0), (3,)),
    "quaternion": (br.UnitQuaternionDiffusion(1.0), (3,)),
    "sphere": (br.SphereDiffusion(1.0), (3,)),
    "angle": (br.WrappedBrownianDiffusion(1.0), ()),
    "fraction": (br.WrappedBrownianDiffusion(1.0, period=1.0), ()),
}


def off(process, x):
    """How far states lie from their space."""
    x = x.double()
    if process.point_ndim == 2:
        return (x.mT @ x - torch.eye(3)).abs().max()
    if process.point_ndim == 1:
        return (x.norm(dim=-1) - 1).abs().max()
    half = process.period / 2
    return torch.maximum(-half - x, x - half).max().clamp(min=0)


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
@pytest.mark.parametrize("name", CURVED)
def test_a_long_run_stays_on_the_space(name, dtype):
    (process, vector), draws = CURVED[name], rng(3)
    x = process.sample_prior((50,), dtype=dtype, generator=draws)
    for i in range(200, 0, -1):
        score = torch.randn(50, *vector, generator=draws).to(dtype)
        said = br.Noise(score)
        x, _ = process.sample_step(said, x, (i - 1) / 200, i / 200, generator=draws)
        assert x.dtype == dtype
    assert off(process, x) <= (4 if dtype in HALF else 64) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", CURVED)
def test_a_process_takes_back_what_it_drew(name, dtype):
    """Again and again, without drifting off; and a bridge between such states too."""
    (process, _), draws = CURVED[name], rng(4)
    x_0 = process.sample_prior((2000,), dtype=dtype, generator=draws)
    for _ in range(20):
        x_t = process.sample_forward(x_0, 2.5, generator=draws)
        x_s = process.sample_bridge(x_0, x_t, 0.5, 2.5, generator=draws)
        assert x_s.dtype == dtype
        assert off(process, x_s) <= 4 * torch.finfo(dtype).eps
        x_0 = x_t
    same = process.sample_bridge(x_0, x_t, 0.7, 0.7, generator=draws)
    assert torch.equal(same, x_t)
    assert torch.equal(process.sample_bridge(x_0, x_t, 0.0, 0.7, generator=draws), x_0)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("v", [0.01, 0.1])
@pytest.mark.parametrize("name", ["rotation", "quaternion", "sphere"])
def test_densities_and_scores_of_half_states(name, v, dtype):
    """As those of the same states in float64, to the rounding of the answer."""
    (process, _), draws = CURVED[name], rng(5)
    x_0 = process.sample_prior((20,), dtype=dtype, generator=draws)
    x_t = process.sample_forward(x_0, v, generator=draws)
    for method in ("log_prob", "score"):
        found = getattr(process, method)(x_t, x_0, v)
        hook = getattr(process, f"_{method}")
        t = torch.tensor(v, dtype=DOUBLE)
        ends = (x_t.float(), x_0.float())
        right = hook(*ends, 0 * t, t) if method == "log_prob" else hook(*ends, t)
        assert found.dtype == dtype
        torch.testing.assert_close(found, right.to(dtype), rtol=0, atol=0)
        assert found.isfinite().all()


def test_the_numbers_of_a_turn_of_a_tenth():
    """At v = 0.01 the log-density is 8.02, and the score −9.99 along the turn."""
    x_0 = torch.eye(3, dtype=torch.float16)
    x_t = convert.bcd_to_rotmat(torch.tensor([math.tan(0.05), 0.0, 0.0])).half()
    process = br.RotationDiffusion(1.0)
    assert process.log_prob(x_t, x_0, 0.01).item() == pytest.approx(8.02, abs=0.01)
    assert process.score(x_t, x_0, 0.01)[0].item() == pytest.approx(-9.99, abs=0.02)


@pytest.mark.parametrize("dtype", HALF)
def test_numbers_are_rounded_once(dtype):
    """A step is that in float32 of the same ends, rounded."""
    process = br.OrnsteinUhlenbeckDiffusion(0.3)
    x_0, x_t = normal(1000).to(dtype), normal(1000, seed=2).to(dtype)
    for solver in (None, br.DDIMSolver(0.4), br.AdamsBashforthSolver(2)):
        half, single = (
            br.sample_backward(
                lambda x, t, x_0=x_0: x_0.to(x.dtype),
                process,
                [0.3, 0.9],
                x,
                solver=solver,
                generator=rng(),
            )
            for x in (x_t, x_t.float())
        )
        assert torch.equal(half, single.to(dtype))
    found = process.log_prob(x_t, x_0, 1e-4)
    assert torch.equal(found, process.log_prob(x_t.float(), x_0.float(), 1e-4).to(dtype))


def test_rounding_does_not_leave_the_circle():
    """In half precision the largest angle below half a turn may round up to it."""
    process = br.WrappedBrownianDiffusion(1.0, period=1.0)
    below = torch.tensor([0.49999, -0.3, -0.49999])
    for dtype in HALF:
        x = process._rounded(below, (below.to(dtype),))
        assert x.dtype == dtype
        assert ((x >= -0.5) & (x < 0.5)).all()
        outside = torch.tensor([0.5, 1.25, -0.75])
        assert torch.equal(process._rounded(outside, (outside.to(dtype),)).float(), outside)

"""The calls of azula's pages on denoisers and samplers, as printed there, against NumPy."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bridges as br
from bridges import (
    DDIMSampler,
    DDPMSampler,
    Gaussian,
    GaussianDenoiser,
    GivenDraws,
    PreconditionedDenoiser,
    Sampler,
    SolverSampler,
    VESchedule,
    VPSchedule,
)
from published import rows, ways
from schedules import SCHEDULES, schedules

DOUBLE = torch.float64
B, D = 4, 5
TIMES = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=DOUBLE)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1, dtype=DOUBLE):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def close(found, exact, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=rtol, atol=atol)


class CustomNN(nn.Module):
    """A network of the state, of the noise and of a label."""

    def __init__(self, in_features=D, out_features=D):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features, dtype=DOUBLE)
        self.told = []

    def forward(self, x, noise, label=0.0):
        self.told.append(noise)
        noise = noise.reshape(*noise.shape, *[1] * (x.ndim - noise.ndim))
        return torch.tanh(self.layer(x) + 0.2 * noise) + label

    def numpy(self, x, noise):
        weight, bias = (p.detach().numpy() for p in (self.layer.weight, self.layer.bias))
        return np.tanh(x @ weight.T + bias + 0.2 * noise)


class Mine(GaussianDenoiser):
    """The posterior of numbers from N(0.5, 2), as a user writes it."""

    def __init__(self):
        super().__init__()
        self.schedule = VPSchedule()

    def forward(self, x_t, t, **kwargs):
        alpha_t, sigma_t = self.schedule(t)
        while 0 < alpha_t.ndim < x_t.ndim:
            alpha_t, sigma_t = alpha_t[..., None], sigma_t[..., None]
        total = 2 * alpha_t**2 + sigma_t**2
        mean = 0.5 + 2 * alpha_t / total * (x_t - 0.5 * alpha_t)
        return Gaussian(mean=mean, var=2 * sigma_t**2 / total)


def scales(schedule, t):
    """α and σ of the VP schedule as numbers, from its formula."""
    integral = schedule.beta_min * t + (schedule.beta_max - schedule.beta_min) / 2 * t**2
    return np.exp(-integral / 2), np.sqrt(-np.expm1(-integral))


# ------------------------------------------------------------------ azula.denoise


def test_a_gaussian_by_position_and_by_name():
    mean, var, x = normal(B, D), normal(B, D, seed=2).square(), normal(B, D, seed=3)
    exact = stats.norm(mean.numpy(), var.sqrt().numpy()).logpdf(x.numpy())
    for law in (Gaussian(mean, var), Gaussian(mean=mean, var=var)):
        assert law.mean is mean
        assert law.var is var
        close(law.log_prob(x), exact)


def test_a_denoiser_of_ones_own():
    denoiser, x_t = Mine(), normal(B, D)
    law = denoiser(x_t, TIMES)
    alpha, sigma = (c[:, None] for c in scales(VPSchedule(), TIMES.numpy()))
    total = 2 * alpha**2 + sigma**2
    close(law.mean, 0.5 + 2 * alpha / total * (x_t.numpy() - 0.5 * alpha))
    close(law.var, 2 * sigma**2 / total)
    exact = br.NormalDenoiser(VPSchedule(), 0.5, 2.0)(x_t, TIMES)
    torch.testing.assert_close((law.mean, law.var), (exact.mean, exact.var.expand(B, 1)))
    assert isinstance(denoiser, nn.Module)


def test_its_schedule_is_checked_whenever_it_is_set():
    denoiser = Mine()
    denoiser.schedule = VESchedule()
    assert denoiser.schedule == VESchedule()
    for wrong in (None, 0.1, VESchedule):
        with pytest.raises(TypeError, match=r"^Expected schedule to be a Schedule; got "):
            denoiser.schedule = wrong
    with pytest.raises(TypeError, match="abstract"):
        GaussianDenoiser()


@pytest.mark.parametrize("var_x", [1.0, 0.3])
def test_a_preconditioned_denoiser_has_the_coefficients_of_edm(var_x):
    network, schedule, x_t = CustomNN(), VPSchedule(), normal(B, D)
    alpha, sigma = (c[:, None] for c in scales(schedule, TIMES.numpy()))
    total = alpha**2 * var_x + sigma**2
    noise = np.log(sigma / alpha)
    value = network.numpy(x_t.numpy() / np.sqrt(total), noise)
    mean = alpha * var_x / total * x_t.numpy() + sigma * np.sqrt(var_x / total) * value
    for denoiser in (
        PreconditionedDenoiser(network, schedule, var_x),
        PreconditionedDenoiser(backbone=network, schedule=schedule, var_x=torch.tensor(var_x)),
        *([PreconditionedDenoiser(network, schedule)] if var_x == 1 else []),
    ):
        law = denoiser(x_t, TIMES)
        close(law.mean, mean, rtol=1e-6, atol=1e-7)
        close(law.var, var_x * sigma**2 / total, rtol=1e-6)
        close(network.told[-1], noise[:, 0], rtol=1e-7)
        shifted = denoiser(x_t, TIMES, label=2.0).mean - law.mean
        close(shifted, 2 * law.var.sqrt().numpy() + 0 * mean)


@pytest.mark.parametrize("var_x", [1.0, 0.3])
def test_its_loss(var_x):
    network, schedule, x, eps = CustomNN(), VPSchedule(), normal(B, D), normal(B, D, seed=2)
    denoiser = PreconditionedDenoiser(network, schedule, var_x=var_x)
    loss = denoiser.loss(x, TIMES, generator=GivenDraws(normals=[eps]))
    alpha, sigma = (c[:, None] for c in scales(schedule, TIMES.numpy()))
    x_t = alpha * x.numpy() + sigma * eps.numpy()
    total = alpha**2 * var_x + sigma**2
    value = network.numpy(x_t / np.sqrt(total), np.log(sigma / alpha))
    mean = alpha * var_x / total * x_t + sigma * np.sqrt(var_x / total) * value
    close(loss, np.mean((mean - x.numpy()) ** 2 * total / (var_x * sigma**2)), rtol=1e-9)
    assert denoiser.loss(x, TIMES, label=3.0).ndim == 0


def test_the_whole_of_its_readme():
    schedule = VPSchedule()
    denoiser = PreconditionedDenoiser(
        backbone=CustomNN(in_features=5, out_features=5),
        schedule=schedule,
    )
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-3)
    for x in normal(2, 64, 5):
        t = torch.rand((64,))
        loss = denoiser.loss(x, t).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sampler = DDPMSampler(denoiser.eval(), steps=10)
    x1 = sampler.init((64, 5))
    x0 = sampler(x1)
    assert x0.shape == (64, 5)
    assert x0.isfinite().all()
    sampler = DDIMSampler(denoiser, steps=4).to("cpu")
    assert sampler(sampler.init((4, 5))).isfinite().all()


# ------------------------------------------------------------------ schedules


@pytest.mark.parametrize("schedule", [*SCHEDULES, br.DecaySchedule(), VESchedule()], ids=str)
def test_a_schedule_is_called_for_both_scales(schedule):
    t = torch.tensor([[0.25, 0.5, 1.0]], dtype=DOUBLE)
    exact = schedule.alpha(t), schedule.sigma(t)
    torch.testing.assert_close(schedule(t), exact, rtol=0, atol=0)
    for dtype in (torch.float32, torch.bfloat16):
        found = schedule(t.to(dtype))
        assert [c.dtype for c in found] == [dtype] * 2
        torch.testing.assert_close(found, tuple(c.to(dtype) for c in exact), rtol=0, atol=0)
    for number in (1, 1.0, np.float32(1.0), torch.tensor(1)):
        found = schedule(number)
        assert [(c.shape, c.dtype) for c in found] == [((), DOUBLE)] * 2
        torch.testing.assert_close(found, tuple(c[0, 2] for c in exact), rtol=0, atol=0)


@pytest.mark.parametrize("t", [None, "0.5", True, torch.tensor(True), torch.tensor(1j), [0.5]])
def test_a_schedule_is_called_on_times(t):
    with pytest.raises(TypeError, match=r"^Expected the time t to be "):
        VPSchedule()(t)


def test_the_exploding_schedule_has_defaults():
    assert VESchedule() == VESchedule(1e-3, 1e3) == VESchedule(sigma_min=1e-3, sigma_max=1e3)
    close(VESchedule()(torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE))[1], [1e-3, 1.0, 1e3])


# ------------------------------------------------------------------ azula.sample: one's own


class Ancestral(Sampler):
    """DDPM's step, as azula writes it."""

    def __init__(self, denoiser, **kwargs):
        super().__init__(**kwargs)
        self.denoiser = denoiser

    def step(self, x_t, t, s, generator=None, **kwargs):
        alpha_s, sigma_s = self.denoiser.schedule(s)
        alpha_t, sigma_t = self.denoiser.schedule(t)
        tau = 1 - (alpha_t / alpha_s * sigma_s / sigma_t) ** 2
        mean = self.denoiser(x_t, t, **kwargs).mean
        x_s = alpha_s * mean + sigma_s * torch.sqrt(1 - tau) / sigma_t * (x_t - alpha_t * mean)
        noise = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype)
        return x_s + sigma_s * torch.sqrt(tau) * noise


class Recorder(Sampler):
    """A sampler that notes what its step is given."""

    def __init__(self, steps, **kwargs):
        super().__init__(steps, **kwargs)
        self.seen = []

    def step(self, x_t, t, s, **kwargs):
        self.seen.append((t, s, kwargs))
        return x_t + weight * (t - s)


weight = torch.tensor(1.0, requires_grad=True)


def ancestral(mean, x_t, t, s, noise, eta=1.0):
    """One step in NumPy; none of the noise at σ_s = 0."""
    (a_t, s_t), (a_s, s_s) = (scales(VPSchedule(), u) for u in (t, s))
    tau = min(1.0, eta * (1 - (a_t / a_s * s_s / s_t) ** 2))
    x_s = a_s * mean + s_s * np.sqrt(1 - tau) * (x_t - a_t * mean) / s_t
    return x_s + s_s * np.sqrt(tau) * noise


def posterior_mean(x_t, t):
    a_t, s_t = scales(VPSchedule(), t)
    return 0.5 + 2 * a_t / (2 * a_t**2 + s_t**2) * (x_t - 0.5 * a_t)


def test_a_whole_run_of_a_sampler_of_ones_own():
    sampler, x_1 = Ancestral(Mine(), steps=6), normal(B, D)
    found = sampler(x_1, generator=rng(3))
    draws, x, grid = rng(3), x_1.numpy(), np.linspace(0, 1, 7)
    for t, s in zip(grid[:0:-1], grid[-2::-1], strict=True):
        noise = torch.randn(B, D, generator=draws, dtype=DOUBLE).numpy()
        x = ancestral(posterior_mean(x, t), x, t, s, noise)
    close(found, x)
    assert (sampler.steps, sampler.denoiser.schedule) == (6, VPSchedule())


def test_what_its_step_is_given():
    sampler, x_1 = Recorder(4), normal(B, D, dtype=torch.float32)
    end = sampler(x_1, label=3)
    torch.testing.assert_close(end, x_1 + 1)
    assert (end.dtype, end.requires_grad) == (torch.float32, False)
    times = [(t.item(), s.item()) for t, s, _ in sampler.seen]
    assert times == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]
    for t, s, kwargs in sampler.seen:
        assert [(u.shape, u.dtype, u.device.type) for u in (t, s)] == [((), DOUBLE, "cpu")] * 2
        assert kwargs == {"label": 3}
    sampler(x_1, generator=None)
    assert sampler.seen[-1][2] == {}
    draws = rng()
    sampler.forward(x_1, generator=draws)
    assert sampler.seen[-1][2] == {"generator": draws}
    assert sampler.step(x_1, torch.ones(()), torch.zeros(())).requires_grad


def test_the_steps_of_a_sampler_by_name_and_times_of_ones_own():
    assert Recorder(steps=3).timesteps.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    sampler = Recorder(2, timesteps=[0.1, 0.5, 0.9])
    torch.testing.assert_close(sampler(torch.zeros(2, 2)), torch.full((2, 2), 0.8))
    given = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    sampler = Recorder(2, timesteps=given)
    given += 1
    assert sampler.timesteps.tolist() == [0.0, 0.5, 1.0]


def test_times_keep_their_digits():
    sampler = Ancestral(PreconditionedDenoiser(CustomNN(), VPSchedule(), 0.3), steps=7)
    exact = sampler.timesteps.clone()
    for moved in (sampler.half(), sampler.to(torch.bfloat16), sampler.double(), sampler.to("cpu")):
        assert moved.timesteps.dtype == DOUBLE
        assert torch.equal(moved.timesteps, exact)
    half = sampler.half()
    assert half.denoiser.backbone.layer.weight.dtype == torch.float16
    assert half(torch.randn(B, D)).isfinite().all()


def test_a_sampler_is_a_module():
    denoiser = PreconditionedDenoiser(CustomNN(), VPSchedule(), 0.3)
    names = {f"denoiser.{name}" for name in denoiser.state_dict()}
    samplers = Ancestral(denoiser, steps=2), DDPMSampler(denoiser, 2)
    for sampler in (*samplers, DDIMSampler(denoiser, 0.5, steps=2)):
        assert isinstance(sampler, nn.Module)
        assert dict(sampler.named_children()) == {"denoiser": denoiser}
        assert set(sampler.state_dict()) == names
        sampler.eval()
        assert not denoiser.training
        sampler.train()
        assert denoiser.training
    function = DDPMSampler(Asked(), steps=2)
    assert list(function.children()) == []
    assert function.denoiser.schedule == VPSchedule()


class Asked:
    """A denoiser that is no module, and notes its times."""

    schedule = VPSchedule()

    def __init__(self):
        self.told = []

    def __call__(self, x_t, t, **kwargs):
        self.told.append(t)
        return 0.3 * x_t


COPIES = [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]


@pytest.mark.parametrize("copied", COPIES, ids=["deepcopy", "pickle"])
def test_copies_draw_the_same(copied):
    precond = PreconditionedDenoiser(CustomNN(), br.TableSchedule.linear(10), 0.3)
    denoisers = [
        precond,
        Mine(),
        br.NoiseDenoiser(CustomNN(), VPSchedule(), br.StepIndex(10)),
        br.RescheduledDenoiser(precond, br.EDMSchedule()),
        br.NormalDenoiser(VPSchedule(), 0.5, 2.0),
        br.EmpiricalDenoiser(VPSchedule(), normal(7, D)),
        br.DenoiseDiffusion(CustomNN(), 10).denoiser,
    ]
    x = normal(B, D)
    for denoiser in denoisers:
        other = copied(denoiser)
        assert other is not denoiser
        assert torch.equal(other(x, TIMES).mean, denoiser(x, TIMES).mean)
        for sampler in (Ancestral(denoiser, steps=2), DDIMSampler(denoiser, 0.5, steps=2)):
            twin = copied(sampler)
            assert torch.equal(twin.timesteps, sampler.timesteps)
            assert torch.equal(
                twin.step(x, torch.tensor(0.8), torch.tensor(0.4), generator=rng()),
                sampler.step(x, torch.tensor(0.8), torch.tensor(0.4), generator=rng()),
            )


def test_what_a_sampler_refuses():
    class Wrong(Recorder):
        def step(self, x_t, t, s, **kwargs):
            return self.answer

    sampler = Wrong(2)
    for answer, error, words in [
        (None, TypeError, "what step returns to be a tensor; got None."),
        (torch.zeros(2), ValueError, r"what step returns to have the shape of the state, \(3,\)"),
    ]:
        sampler.answer = answer
        with pytest.raises(error, match=f"^Expected {words}"):
            sampler(torch.zeros(3))
    for x in (None, torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(TypeError, match=r"^Expected x_1 to be a floating tensor; got "):
            sampler(x)
    for steps in (0, 2.0, None):
        with pytest.raises(ValueError, match=r"^Expected steps to be an integer of at least 1"):
            Recorder(steps)
    for times in ([0.0, 1.0], 0.5, torch.rand(3, 2)):
        with pytest.raises(ValueError, match=r"^Expected timesteps to hold 3 times; got "):
            Recorder(2, timesteps=times)
    with pytest.raises(TypeError, match="abstract"):
        Sampler(2)
    for denoiser in (VPSchedule(), VPSchedule().shifted(2.0), lambda x, t: x, None):
        with pytest.raises(TypeError, match="^Expected denoiser to be callable and to have a sch"):
            DDPMSampler(denoiser, steps=2)


def test_nothing_is_read_from_the_device():
    """A tensor on the meta device has no values to read."""

    class Euler(Ancestral):
        def step(self, x_t, t, s, **kwargs):
            (alpha_t, sigma_t), (alpha_s, sigma_s) = map(self.denoiser.schedule, (t, s))
            mean = self.denoiser(x_t, t, **kwargs).mean
            return alpha_s * mean + sigma_s / sigma_t * (x_t - alpha_t * mean)

    denoiser = PreconditionedDenoiser(lambda x, noise: 0.1 * x, VPSchedule()).to("meta")
    for make in (Euler, DDPMSampler, DDIMSampler):
        sampler = make(denoiser, steps=3)
        for shape in ((B, D), (D,)):
            x_1 = sampler.init(shape)
            assert sampler(x_1).device.type == "meta"


def test_a_step_returns_to_the_dtype_of_the_state():
    class Wide(Recorder):
        def step(self, x_t, t, s, **kwargs):
            assert x_t.dtype == torch.float32
            return x_t.double()

    assert Wide(3)(torch.zeros(2, 2)).dtype == torch.float32


# ------------------------------------------------------------------ azula.sample: DDPM and DDIM


@pytest.mark.parametrize("eta", [None, 0.0, 0.4, 1.0])
def test_one_step_and_a_run_of_ddpm_and_ddim(eta):
    denoiser, x, noise = Mine(), normal(B, D), normal(B, D, seed=2)
    made = [DDIMSampler(denoiser, eta, steps=2), DDIMSampler(denoiser, eta=eta, steps=2)]
    if eta == 1:
        made += [DDPMSampler(denoiser, steps=2), DDPMSampler(denoiser, 2)]
    if eta is None:
        made += [DDIMSampler(denoiser, steps=2)]
    mid = ancestral(posterior_mean(x.numpy(), 1.0), x.numpy(), 1.0, 0.5, noise.numpy(), eta or 0.0)
    for sampler in made:
        draws = [] if not eta else [noise]
        step = sampler.step(x, torch.tensor(1.0), torch.tensor(0.5), generator=given(draws))
        close(step, mid)
        close(sampler(x, generator=given(draws)), posterior_mean(mid, 0.5))
        assert sampler.steps == 2
    assert made[0].eta == eta


def given(normals):
    return GivenDraws(normals=normals)


def test_steps_are_asked_for():
    with pytest.raises(TypeError, match="steps"):
        DDIMSampler(Mine(), 4)
    with pytest.raises(TypeError, match="steps"):
        DDPMSampler(Mine())


# ------------------------------------------------------------------ azula.sample: init


@pytest.mark.parametrize(
    ("mean", "var"),
    [(None, None), (0.5, 2.0), (normal(D, seed=5), normal(B, 1, seed=6).square())],
)
def test_the_first_state(mean, var):
    z, m, v = normal(B, D), np.asarray(0.0), np.asarray(1.0)
    m, v = (
        given if value is None else np.asarray(value) for given, value in ((m, mean), (v, var))
    )
    for sampler, last in [
        (DDPMSampler(Mine(), steps=3), 1.0),
        (Ancestral(Mine(), steps=2, timesteps=[0.0, 0.1, 0.3]), 0.3),
    ]:
        alpha, sigma = scales(VPSchedule(), last)
        exact = alpha * m + np.sqrt(alpha**2 * v + sigma**2) * z.numpy()
        draws = [z, z, z]
        generator = GivenDraws(normals=draws)
        close(sampler.init((B, D), mean, var, generator=generator, dtype=DOUBLE), exact)
        by_name = sampler.init(
            shape=(B, D), mean=mean, var=var, generator=generator, dtype=torch.float32
        )
        assert by_name.dtype == torch.float32
        close(by_name, exact, rtol=1e-5, atol=1e-6)
        half = sampler.init((B, D), mean, var, generator=generator, dtype=torch.bfloat16)
        torch.testing.assert_close(half, by_name.bfloat16())


def test_the_first_state_has_its_mean_and_variance(p_min):
    sampler = Ancestral(Mine(), steps=1, timesteps=[0.0, 0.2])
    x_1 = sampler.init((20_000,), 0.5, 2.0, generator=rng(4))
    alpha, sigma = scales(VPSchedule(), 0.2)
    law = stats.norm(0.5 * alpha, math.sqrt(2 * alpha**2 + sigma**2))
    assert stats.kstest(x_1.numpy(), law.cdf).pvalue > p_min


def test_where_the_first_state_lies():
    meta = PreconditionedDenoiser(nn.Linear(2, 2, device="meta"), VPSchedule()).to("meta")
    assert DDPMSampler(meta, steps=2).init((3, 2)).device.type == "meta"
    assert DDPMSampler(Asked(), steps=2).init((3, 2)).device.type == "cpu"
    assert DDPMSampler(Asked(), steps=2).init((3, 2), device="meta").device.type == "meta"
    assert DDPMSampler(Asked(), steps=2).init((3, 2)).dtype == torch.get_default_dtype()
    mean = torch.zeros(2, requires_grad=True)
    assert not DDPMSampler(Asked(), steps=2).init((3, 2), mean).requires_grad


def test_what_init_refuses():
    sampler = DDPMSampler(Mine(), steps=2)
    for call, error, words in [
        (lambda: Recorder(2).init((2,)), TypeError, "the sampler to have a denoiser with a sched"),
        (lambda: sampler.init(2), ValueError, "shape to be a tuple of non-negative integers"),
        (lambda: sampler.init((2,), "0"), TypeError, "mean to be a number; got '0'."),
        (lambda: sampler.init((2,), 0.0, math.nan), ValueError, "var to be finite; got nan."),
        (lambda: sampler.init((2,), 0.0, -1.0), ValueError, "var to be at least 0; got"),
        (lambda: sampler.init((2,), var=-torch.ones(2)), ValueError, "var to be at least 0; got"),
        (lambda: sampler.init((2,), torch.ones(3)), ValueError, r"mean to broadcast to shape \(2"),
        (lambda: sampler.init((2,), torch.ones(1, 2)), ValueError, r"mean to broadcast to shape"),
        (lambda: sampler.init((2,), torch.ones(2).int()), TypeError, "mean to be floating; got"),
    ]:
        with pytest.raises(error, match=f"^Expected {words}"):
            call()


# ------------------------------------------------------------------ a state of one dimension


class Told(nn.Module):
    """A network that notes the shape of what it is told."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x, t):
        self.shapes.append(tuple(t.shape))
        return 0.1 * x


DENOISERS = {
    "preconditioned": lambda net: PreconditionedDenoiser(net, VPSchedule()),
    "noise": lambda net: br.NoiseDenoiser(net, VPSchedule()),
    "score": lambda net: br.ScoreDenoiser(net, VPSchedule()),
    "velocity": lambda net: br.VelocityDenoiser(net, VPSchedule()),
    "v": lambda net: br.VDenoiser(net, VPSchedule()),
    "flow": lambda net: br.FlowDenoiser(net, VPSchedule(), br.StepIndex(10)),
    "rescheduled": lambda net: br.RescheduledDenoiser(
        br.FlowDenoiser(net, VPSchedule()), br.CosineSchedule()
    ),
    "ddpm": lambda net: br.DenoiseDiffusion(net, 10).denoiser,
}


class Heun(SolverSampler):
    solver = br.HeunSolver()


SAMPLERS = {
    "own": Ancestral,
    "DDPM": DDPMSampler,
    "DDIM": DDIMSampler,
    "Heun": Heun,
}


@pytest.mark.parametrize("name", DENOISERS)
def test_a_state_of_one_dimension_is_one_example(name):
    network = Told()
    denoiser = DENOISERS[name](network)
    for t in (0.5, torch.tensor(0.5)):
        denoiser(torch.zeros(5), t)
        assert network.shapes.pop() == ()
        denoiser(torch.zeros(5, 1), t)
        assert network.shapes.pop() == (5,)
    denoiser(torch.zeros(5), torch.full((5,), 0.5))
    assert network.shapes.pop() == (5,)
    for make in SAMPLERS.values():
        sampler = make(denoiser, steps=2)
        sampler(torch.randn(5))
        sampler.step(torch.randn(5), torch.tensor(1.0), torch.tensor(0.5))
        assert set(network.shapes) == {()}
        network.shapes.clear()
        sampler(torch.randn(5, 1))
        assert set(network.shapes) == {(5,)}
        network.shapes.clear()
    rows = torch.full((5,), 0.5)
    DDPMSampler(denoiser, steps=2).step(torch.randn(5), rows, 0 * rows)
    assert set(network.shapes) == {(5,)}
    network.shapes.clear()
    process = br.GaussianDiffusion(denoiser.schedule)
    br.sample_backward(denoiser, process, [0.0, 1.0], torch.randn(5))
    assert set(network.shapes) == {(5,)}


def test_the_loss_of_one_example_at_one_time():
    network = Told()
    denoiser = PreconditionedDenoiser(network, VPSchedule())
    denoiser.loss(torch.randn(5), 0.5)
    denoiser.loss(torch.randn(5), torch.rand(5))
    assert network.shapes == [(), (5,)]


def test_one_example_comes_out_as_a_batch_of_one():
    denoiser = PreconditionedDenoiser(CustomNN(), VPSchedule())
    x = normal(D)
    for make in SAMPLERS.values():
        sampler = make(denoiser, steps=3)
        one, many = (sampler(x_1, generator=rng(5)) for x_1 in (x, x[None]))
        torch.testing.assert_close(one, many[0])


def test_no_example_and_memories_of_one_run():
    denoiser = Asked()
    assert DDPMSampler(denoiser, steps=2)(torch.zeros(0)).shape == (0,)
    memory = br.selfconditioned(lambda x, t, previous: 0.5 * previous + x, torch.zeros(3))
    memory.schedule = VPSchedule()
    sampler, x = DDIMSampler(memory, steps=3), torch.ones(3)
    assert torch.equal(sampler(x), sampler(x))


# ------------------------------------------------------------------ what the pages say


@schedules
def test_every_schedule_serves_a_sampler_of_ones_own(schedule):
    """Where σ is above 0 at the first time; the noise there stays."""
    denoiser = br.NormalDenoiser(schedule, 0.5, 2.0)
    sampler = Ancestral(denoiser, steps=3, timesteps=[0.01, 0.3, 0.6, 0.9])
    assert sampler(sampler.init((B, D), 0.5, 2.0)).isfinite().all()


NAMES = {
    "Gaussian": "Gaussian(torch.zeros(2), torch.ones(2))",
    "Sampler": "Ancestral(denoiser, steps=64)",
    "EulerSampler": "br.EulerSolver()",
    "HeunSampler": "br.HeunSolver(br.NoiseCurve())",
    "ABSampler": "br.AdamsBashforthSolver(2, br.NoiseCurve())",
    "vABSampler": "br.AdamsBashforthSolver(2, br.LineCurve())",
    "EABSampler": "br.ExponentialSolver(2, br.NoiseCurve())",
    "xEABSampler": "br.ExponentialSolver(2, br.DataCurve())",
    "REABSampler": "br.RosenbrockSolver(2)",
    "PCSampler": "br.PredictorCorrectorSolver(1, 0.01)",
}


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_beside_a_name_is_on_the_page_and_runs(name):
    pages = [*rows("denoisers.md", "## Coming from elsewhere")]
    pages += rows("solvers.md", "## Coming from elsewhere")
    assert any(f"`{name}" in row[0] for row in pages)
    made = eval(NAMES[name], {**globals(), "denoiser": Mine()})
    if isinstance(made, br.Solver):
        sampler = type("Own", (SolverSampler,), {"solver": made})(Mine(), steps=4)
        assert sampler(sampler.init((B, D))).isfinite().all()


def test_its_later_denoisers():
    """`SimpleDenoiser`, and `GaussianDenoiser` with a covariance."""
    backbone, schedule, x = CustomNN(), VPSchedule(), normal(B, D)

    def guess(x_t, t):
        alpha, sigma = (c.unsqueeze(-1) for c in schedule(t))
        return backbone(x_t * torch.rsqrt(alpha**2 + sigma**2), (sigma / alpha).log().squeeze(-1))

    process = br.GaussianDiffusion(schedule)
    found = br.sample_backward(guess, process, [0.5, 1.0], x, solver=br.EulerSolver())
    mean = backbone.numpy(x.numpy(), np.log(np.divide(*scales(schedule, 1.0)[::-1])))
    close(found, ancestral(mean, x.numpy(), 1.0, 0.5, 0.0, eta=0.0))

    m, half = normal(D, seed=2), normal(D, D, seed=3)
    denoiser = br.CorrelatedNormalDenoiser(schedule, m, half @ half.T)
    alpha, sigma = scales(schedule, 0.5)
    cov = (half @ half.T).numpy()
    gain = np.linalg.inv(alpha**2 * cov + sigma**2 * np.eye(D))
    exact = m.numpy() + alpha * (x.numpy() - alpha * m.numpy()) @ gain @ cov
    close(denoiser(x, 0.5).mean, exact, rtol=1e-9)


def test_its_euler_sampler_is_ddim():
    class Euler(SolverSampler):
        solver = br.EulerSolver()

    x = normal(B, D)
    exact = DDIMSampler(Mine(), steps=8)(x)
    torch.testing.assert_close(Euler(Mine(), steps=8)(x), exact)


def test_later_times_of_azula():
    start, stop = 0.9, 0.1
    sampler = DDPMSampler(Mine(), steps=64, timesteps=torch.linspace(stop, start, 65))
    torch.testing.assert_close(sampler.timesteps[[0, -1]], torch.tensor([stop, start]).double())


def theirs(what, page, **names):
    """Run the code that a page has in a row."""
    code = ways(page)
    (found,) = [text for row, text in code.items() if what in row]
    return eval(found, {**globals(), **vars(br), **names})


def test_their_coefficients():
    """Those of variance 1, with the variance of var_x."""
    backbone, schedule, x_t, var_x = CustomNN(), VPSchedule(), normal(B, D), 0.3
    law = theirs(
        "coefficients", "denoisers.md", backbone=backbone, schedule=schedule, x_t=x_t, t=TIMES,
        var_x=var_x,
    )  # fmt: skip
    alpha, sigma = (c[:, None] for c in scales(schedule, TIMES.numpy()))
    total = alpha**2 + sigma**2
    value = backbone.numpy(x_t.numpy() / np.sqrt(total), np.log(sigma / alpha))
    close(law.mean, alpha / total * x_t.numpy() + sigma / np.sqrt(total) * value)
    close(law.var, (var_x * sigma**2 / (var_x * alpha**2 + sigma**2)) + 0 * law.var.numpy())


def test_their_single_time():
    backbone = CustomNN()
    law = theirs(
        "one time", "denoisers.md", backbone=backbone, schedule=VPSchedule(), x_t=normal(B, D)
    )
    assert backbone.told[-1].shape == ()
    exact = PreconditionedDenoiser(backbone, VPSchedule())(normal(B, D), 0.5)
    torch.testing.assert_close(law.mean, exact.mean)


def test_their_log_prob():
    x_t, x = normal(B, D), normal(B, D, seed=2)
    found = theirs("log_prob", "denoisers.md", denoiser=Mine(), x_t=x_t, t=TIMES, x=x)
    law = Mine()(x_t, TIMES)
    exact = stats.norm(law.mean.numpy(), law.var.sqrt().numpy()).logpdf(x.numpy()).sum(-1)
    close(found, exact)


def test_their_times():
    sampler = DDPMSampler(Mine(), steps=4)
    found = theirs("fall", "solvers.md", sampler=sampler)
    assert found.tolist() == torch.linspace(1, 0, 5).tolist()
    found = theirs("buffers", "solvers.md", sampler=sampler, x_1=torch.zeros(2).half())
    assert found.dtype == torch.float16


def test_their_last_step():
    """With σ_0 above 0 some noise is left in x_0: none here, and theirs on request."""
    guess = br.NormalDenoiser(VESchedule(0.5, 50.0), 3.0, 1e-12)
    x_1 = DDPMSampler(guess, steps=64).init((2000, 1), 3.0, 0.0, generator=rng(1))
    ours = DDPMSampler(guess, steps=64)(x_1)
    found = theirs("leaves noise", "solvers.md", guess=guess, x_1=x_1)
    assert ours.std() < 1e-6
    assert found.std().item() == pytest.approx(0.5, rel=0.1)


def test_their_ends_and_their_vp_schedule():
    sampler = theirs("α > 0 at 1", "solvers.md", guess=Mine())
    assert 0 < sampler.timesteps[0] < sampler.timesteps[-1] < 1
    schedule = theirs("VPSchedule", "solvers.md")
    t = np.linspace(0, 1, 11)
    alpha, sigma = schedule(torch.from_numpy(t))
    close(alpha, np.exp(np.log(1e-3) * t**2))
    close(sigma.square(), 1 - alpha.numpy() ** 2 + 1e-3**2, rtol=0, atol=1.001e-6)


def test_their_gradients():
    x_1 = normal(B, D).requires_grad_()
    sampler = DDIMSampler(Mine(), steps=2)
    assert not sampler.step(x_1, 1.0, 0.5).requires_grad
    x_s = theirs("gradients", "solvers.md", guess=sampler.denoiser, sampler=sampler, x_1=x_1)
    assert x_s.requires_grad
    torch.testing.assert_close(x_s.detach(), sampler.step(x_1, 1.0, 0.5))


def test_every_row_of_the_differences_was_typed():
    assert len(ways("solvers.md")) == 6
    assert len(ways("denoisers.md")) == 3 + 3  # and three of the annotated DDPM

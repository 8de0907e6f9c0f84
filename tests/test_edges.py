"""Where clocks run to infinity, numbers are half precision, or shapes nearly fit."""

import pytest
import torch

from bridges import (
    CosineClock,
    DDPMSampler,
    DenoiseDiffusion,
    DiscreteTimeDiffusion,
    Gaussian,
    GeneralDiscreteDiffusion,
    LinearClock,
    MaskingDiscreteDiffusion,
    Mixture,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    PreconditionedDenoiser,
    PredictorCorrectorSolver,
    RotationDiffusion,
    Score,
    SphereDiffusion,
    StructuredDiffusion,
    UnitQuaternionDiffusion,
    Velocity,
    VPSchedule,
    WrappedBrownianDiffusion,
    ZeroCentreOfMass,
    sample_backward,
    selfconditioning_estimate,
    standardloss,
    uniform_times,
)

CLOCK = CosineClock()
CURVED = {
    "angle": WrappedBrownianDiffusion(1.0),
    "rotation": RotationDiffusion(1.0),
    "sphere": SphereDiffusion(1.0),
    "quaternion": UnitQuaternionDiffusion(1.0),
}


def rng(seed):
    return torch.Generator().manual_seed(seed)


def vector(process, x, size=0.3):
    shape = (len(x), 3) if process.tangent_ndim else x.shape
    return size * torch.randn(shape, generator=rng(7))


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("kind", [Score, Noise])
def test_tangent_vectors_at_the_end_of_an_infinite_clock(name, kind):
    process = CURVED[name]
    x = process.sample_prior((5,), generator=rng(1))
    said = kind(vector(process, x))
    run = process.on(CLOCK)
    sample = sample_backward(lambda x, t: said, run, uniform_times(0, 1, 5), x, generator=rng(2))
    assert sample.isfinite().all()
    t = torch.tensor([1.0, 0.5, 1.0, 0.2, 0.0])
    loss = standardloss(run, t, said, x, x_t=run.sample_forward(x, t, generator=rng(3)))
    assert loss.total.isfinite()


@pytest.mark.parametrize(
    "process",
    [*CURVED.values(), OrnsteinUhlenbeckDiffusion(0.0), GeneralDiscreteDiffusion.ordinal(3, 1.0)],
    ids=lambda process: type(process).__name__,
)
def test_nothing_happens_in_no_time_at_an_infinite_one(process):
    x = process.sample_prior((4,), generator=rng(4))
    assert torch.equal(process.on(CLOCK).sample_forward(x, 1.0, start=1.0), x)
    start = torch.tensor([1.0, 0.5, 0.5, 1.0])
    x_t = process.on(CLOCK).sample_forward(x, torch.ones(4), start=start, generator=rng(5))
    assert torch.equal(x_t[[0, 3]], x[[0, 3]])
    assert not x_t.is_floating_point() or x_t.isfinite().all()


def test_a_velocity_on_an_infinitely_fast_clock_is_not_a_number():
    process = OrnsteinUhlenbeckDiffusion(0.0).on(CLOCK)
    assert process.endpoint(Velocity(torch.ones(2)), torch.zeros(2), 1.0).isnan().all()


@pytest.mark.parametrize("name", ["rotation", "sphere", "quaternion"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_back(name, dtype):
    process = CURVED[name]
    x = process.sample_prior((200,), generator=rng(6), dtype=dtype)
    x_t = process.sample_forward(x, 0.3, generator=rng(7))
    assert process.sample_bridge(x, x_t, 0.1, 0.3, generator=rng(8)).dtype == dtype
    assert process.score(x_t, x, 0.3).isfinite().all()


def test_a_module_in_half_precision_keeps_its_tables():
    diffusion = DenoiseDiffusion(lambda x, t: 0 * x, 1000).bfloat16()
    assert diffusion.beta.dtype == torch.float64
    assert diffusion.p_sample(torch.ones(2, 2, dtype=torch.bfloat16), 0).isfinite().all()
    denoiser = PreconditionedDenoiser(lambda x, c: 0 * x, VPSchedule(), var_x=1e-8).half()
    assert denoiser(torch.ones(2).half(), 0.0).mean.isfinite().all()


def test_a_noised_state_is_checked_in_losses():
    process, x_0 = MaskingDiscreteDiffusion(1.0, 3), torch.zeros(3, dtype=torch.int64)
    for x_t, sentence in (
        (torch.full((3,), 9), "Expected x_t to hold"),
        (torch.zeros(3), "Expected x_t to be an int64"),
        (torch.zeros(4, dtype=torch.int64), "Expected x_0 to have the shape of x_t"),
    ):
        for f in (
            lambda x: standardloss(process, 0.5, torch.zeros(3, 3), x_0, x_t=x),
            lambda x: process.error(torch.zeros(3, 3), x_0, x_t=x, t=0.5),
        ):
            with pytest.raises((TypeError, ValueError), match=sentence):
                f(x_t)


def test_discrete_times_in_float32_on_a_clock():
    process = DiscreteTimeDiffusion.uniform([0.01] * 100, 3).on(LinearClock(100.0))
    x = torch.tensor([0, 1])
    guess = lambda x, t: torch.zeros(2, 3)  # noqa: E731
    sample_backward(guess, process, torch.linspace(0, 1, 101), x)
    process.sample_forward(x, torch.tensor([70, 71]) / 100)


def test_a_prior_has_the_shape_of_its_noise():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    noise = ZeroCentreOfMass(4, 3, mask=mask)
    process = StructuredDiffusion(OrnsteinUhlenbeckDiffusion(0.0), noise)
    assert process.sample_prior((2, 5)).shape == (2, 5, 4, 3)
    for shape in ((), (1,)):
        with pytest.raises(ValueError, match="shape to begin with that of the noise"):
            process.sample_prior(shape)
    clocked = StructuredDiffusion(OrnsteinUhlenbeckDiffusion(0.0).on(CLOCK), noise)
    assert clocked.sample_prior((2,)).shape == (2, 4, 3)
    with pytest.raises(TypeError, match="put around the result"):
        StructuredDiffusion(OrnsteinUhlenbeckDiffusion(0.0).where(mask), noise)


@pytest.mark.parametrize("rows", [3, 4])
def test_self_conditioning_on_a_law_with_one_variance_for_all(rows):
    law, null = (Gaussian(torch.full((4, rows), v), torch.tensor(v + 1)) for v in (1.0, 0.0))
    found = selfconditioning_estimate(lambda x, t, p: law, 0, 0.1, null, generator=rng(9))
    assert found.var.shape == (4, rows)
    assert torch.equal(found.var, found.mean + 1)


def test_a_network_of_another_shape_is_refused():
    flat = lambda x, t: x[..., 0]  # noqa: E731
    x = torch.randn(8, 1)
    for f in (
        lambda: DenoiseDiffusion(flat, 10).loss(x),
        lambda: DenoiseDiffusion(flat, 10).p_sample(x, 3),
        lambda: PreconditionedDenoiser(flat, VPSchedule()).loss(x, torch.rand(8)),
        lambda: DenoiseDiffusion(lambda x, t: x, 10).loss(x, torch.randn(8, 2)),
    ):
        with pytest.raises(ValueError, match="to have the shape of the state"):
            f()


def test_deterministic_steps_draw_nothing():
    generator = rng(10)
    before = generator.get_state()
    DenoiseDiffusion(lambda x, t: x, 10).p_sample(torch.ones(2), 0, generator=generator)
    grid = torch.tensor([[0.1, 0.1], [0.5, 0.6], [1.0, 1.0]])
    solver = PredictorCorrectorSolver(1, delta=0.0)
    process = OrnsteinUhlenbeckDiffusion(0.0)
    sample_backward(
        lambda x, t: 0 * x, process, grid, torch.ones(2), solver=solver, generator=generator
    )
    assert torch.equal(generator.get_state(), before)


def test_a_sampler_passes_labels_on():
    seen = []

    def network(x, noise, label=None):
        seen.append(label)
        return 0 * x

    denoiser = PreconditionedDenoiser(network, VPSchedule())
    DDPMSampler(denoiser, 3)(torch.randn(2), label=4)
    DDPMSampler(denoiser, 3).step(torch.randn(2), 1.0, 0.5, label=5)
    assert seen == [4, 4, 4, 5]


def test_a_mixture_must_fit():
    with pytest.raises(ValueError, match=r"of shape \(3, M\) and centres of shape \(3, M\)"):
        CURVED["angle"].endpoint(
            Mixture(*[torch.zeros(3, 2)] * 2, torch.ones(3)), torch.zeros(3), 1.0
        )

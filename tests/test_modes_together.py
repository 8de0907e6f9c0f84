"""Masks, checks, transforms, compiled code and default devices, two at a time."""

import math

import pytest
import scipy.stats
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import grad, jvp, vmap

import bridges as br
from bridges._checks import values_are_checked
from bridges._draw import Draws

DOUBLE = torch.float64
B, N, K = 4, 4, 5
PI = [0.4, 0.3, 0.2, 0.06, 0.04]
OU = br.OrnsteinUhlenbeckDiffusion(0.0)
HELD = torch.tensor([True, False, False, True])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape):
    return torch.randn(*shape, generator=rng(1), dtype=DOUBLE)


# ------------------------------------------------------------------ held atoms


@pytest.mark.parametrize("batch", [N, 3])
def test_a_mixture_s_error_by_atom_is_that_of_its_point(batch):
    """Also where there are as many examples as atoms, and nothing broadcasts by chance."""
    noise = br.ZeroCentreOfMass(N)
    free, held = ~torch.zeros(batch, N, dtype=torch.bool), HELD.expand(batch, N)
    process = br.StructuredDiffusion(OU, noise)
    x_0 = noise(rows(batch, N, 3))
    said = br.Mixture(rows(batch, 2), noise(rows(batch, 2, N, 3)), rows(batch, 2).exp())
    whole = br.standardloss(process, 0.5, said, x_0).elements
    by_atom = br.standardloss(process, 0.5, said, x_0, mask=free).elements
    torch.testing.assert_close(by_atom, whole.unsqueeze(-1).expand(batch, N))
    some = br.standardloss(process, 0.5, said, x_0, mask=~held)
    assert some.counts == (~held).sum()
    assert (some.elements[held] == 0).all()
    assert (some.elements[~held] != 0).all()


def test_padding_of_an_example_and_held_atoms_of_its_copies():
    """The mask of padding is over one dimension of the batch, that of held atoms over two."""
    there = torch.tensor([[True] * 4, [True, True, True, False]])
    held = (torch.rand(2, 3, N, generator=rng()) < 0.3) & there.unsqueeze(1)
    process = br.StructuredDiffusion(OU, br.ZeroCentreOfMass(N, mask=there))
    x = process.noise(rows(2, 3, N, 3))
    x_t = process.where(~held).sample_forward(x, 0.4, generator=rng(2))
    assert torch.equal(x_t[held], x[held])
    assert (x_t[1, :, 3] == 0).all()
    moved = there.unsqueeze(1) & ~held
    assert (x_t[moved] != x[moved]).all()
    # Rows without held atoms keep their centre, the others need not.
    plain, loose = ~held.any(-1), held.any(-1) & moved.any(-1)
    assert plain.any()
    assert loose.any()
    assert x_t.mean(-2)[plain].abs().max() < 1e-12
    assert x_t.mean(-2)[loose].abs().min() > 1e-6


def test_a_wrong_mask_of_atoms_is_refused_by_its_shape():
    process = br.StructuredDiffusion(OU, br.ZeroCentreOfMass(N))
    with pytest.raises(ValueError, match=r"Expected mask to have .*4 atoms; got shape \(3, 5\)"):
        process.where(torch.ones(3, 5, dtype=torch.bool)).sample_forward(torch.zeros(3, N, 3), 0.4)


# ------------------------------------------------------------------ the order of checks


def test_unchecked_contexts_left_in_any_order():
    def steps():
        with br.unchecked():
            yield

    first, second = steps(), steps()
    next(first)
    next(second)
    first.close()
    assert not values_are_checked()
    second.close()
    assert values_are_checked()


def test_tempered_tokens_are_asked_for_logits():
    tokens = torch.tensor([0, 3, 1])
    process = br.Joint(pos=OU, seq=br.UniformDiscreteDiffusion(1.0, K)).tempered(0.5)
    state = {"pos": torch.zeros(3), "seq": tokens}
    with pytest.raises(ValueError, match="Expected the model to say logits"):
        process.sample_step(state, state, 0.2, 0.5)
    with pytest.raises(ValueError, match="Expected the model to say logits"):
        process.endpoint(state, state, 0.5)
    # A bridge draws tokens, and a factor of 1 changes nothing.
    assert process.sample_bridge(state, state, 0.2, 0.5)["seq"].shape == (3,)
    for same in (1, {"pos": 0.5, "seq": 1}):
        untempered = br.Joint(pos=OU, seq=br.UniformDiscreteDiffusion(1.0, K)).tempered(same)
        x_s, _ = untempered.sample_step(state, state, 0.2, 0.5)
        assert x_s["seq"].shape == (3,)


def test_a_rescheduled_denoiser_names_the_last_time_of_its_table():
    """A β of 1 leaves nothing of x_0, and what an ε-network says there is no x̂_0."""
    table = br.TableSchedule([0.1, 0.4, 1.0])
    unet = lambda x, n, **kwargs: x  # noqa: E731
    denoiser = br.RescheduledDenoiser(br.NoiseDenoiser(unet, table), br.CosineSchedule())
    with pytest.raises(ValueError, match="Expected"):
        denoiser(torch.ones(2), torch.ones(()))
    assert denoiser(torch.ones(2), torch.tensor(0.4)).mean.isfinite().all()


# ------------------------------------------------------------------ transforms and compiled code

SPACES = {
    "angles": (br.WrappedBrownianDiffusion(1.0), lambda: rows(6)),
    "numbers": (OU, lambda: rows(6)),
    "quaternions": (
        br.UnitQuaternionDiffusion(1.0),
        lambda: nn.functional.normalize(rows(6, 4), dim=-1),
    ),
    "sphere": (br.SphereDiffusion(1.0), lambda: nn.functional.normalize(rows(6, 3), dim=-1)),
    "rotations": (br.RotationDiffusion(1.0), lambda: torch.linalg.qr(rows(6, 3, 3))[0]),
}


@pytest.mark.parametrize("name", SPACES)
def test_vmap_of_the_gradient_of_a_bridge(name):
    process, make = SPACES[name]
    x = make()
    if name == "rotations":
        x = x * torch.linalg.det(x).sign()[:, None, None]

    def size(x_0):
        with br.unchecked():
            return process.sample_bridge(x_0, x_0, 0.2, 0.5).square().sum()

    slope = vmap(grad(size), randomness="different")(x)
    assert slope.shape == x.shape
    assert slope.isfinite().all()


def test_vmap_of_the_loss_of_ddpm():
    ddpm = br.DenoiseDiffusion(lambda x, t: 0.5 * x, n_steps=10)
    x, noise = rows(3, 2, 5), rows(3, 2, 5) + 1
    losses = vmap(ddpm.loss, randomness="different")(x, noise)
    assert losses.shape == (3,)
    x_t = vmap(ddpm.q_sample)(x, torch.tensor([[0, 4], [9, 2], [1, 7]]), noise)
    torch.testing.assert_close(x_t[1], ddpm.q_sample(x[1], torch.tensor([9, 2]), noise[1]))
    slope = grad(lambda x: vmap(ddpm.loss, randomness="different")(x, noise).sum())(x)
    assert slope.isfinite().all()
    assert (slope != 0).all()


@pytest.mark.parametrize("law", [scipy.stats.beta(2, 3), scipy.stats.weibull_min(1.7)])
def test_a_clock_of_scipy_inside_transforms(law):
    clock = br.CDFClock(law)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=DOUBLE)
    torch.testing.assert_close(vmap(clock)(t), clock(t))
    x = rows(3)
    slope = vmap(grad(lambda x, t: OU.on(clock).log_prob(x, 0.3 * x, t)))(x, t)
    a = torch.exp(-clock(t) / 2)  # an Ornstein–Uhlenbeck process of variance and reversion 1
    torch.testing.assert_close(slope, -x * (1 - 0.3 * a) ** 2 / (1 - a**2))


def test_tangents_of_the_sphere_s_law_are_finite():
    process = br.SphereDiffusion(1.0)
    x = nn.functional.normalize(rows(6, 3), dim=-1)

    def law(t):
        with br.unchecked():
            return process.log_prob(x, -x, t)

    value, slope = jvp(law, (torch.full((6,), 0.3, dtype=DOUBLE),), (torch.ones(6, dtype=DOUBLE),))
    h = 1e-4
    with torch.no_grad():
        rise = (law(torch.full((6,), 0.3 + h, dtype=DOUBLE)) - law(0.3 - h)) / (2 * h)
    assert value.isfinite().all()
    torch.testing.assert_close(slope, rise.expand(6), rtol=1e-5, atol=1e-6)


COMPILED = {
    "D3PM": (br.DiscreteTimeDiffusion.uniform([0.1, 0.2, 0.3], K), 1, 2),
    "rates": (br.GeneralDiscreteDiffusion.ordinal(K, 1.0), 0.2, 0.5),
    "uniform": (br.UniformDiscreteDiffusion(1.0, K), 0.2, 0.5),
}


@pytest.mark.parametrize("name", COMPILED)
def test_tokens_compile_without_a_break_before_they_were_used(name):
    process, _, t = COMPILED[name]
    logits, x_0 = torch.randn(B, 3, K, generator=rng()), torch.zeros(B, 3, dtype=torch.long)
    mask = torch.tensor([True, False, True]).expand(B, 3)

    def loss(logits, x_0, x_t):
        return br.standardloss(process, t, logits, x_0, x_t=x_t, mask=mask).total

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, x_0, x_0), loss(logits, x_0, x_0))


class Spaced(Draws):
    """The same numbers each time, evenly spaced."""

    def uniform(self, shape, dtype, device):
        n = math.prod(shape)
        return ((torch.arange(n, device=device, dtype=dtype) + 0.5) / n).reshape(shape)

    def normal(self, shape, dtype, device):
        return 2 * self.uniform(shape, dtype, device) - 1


AT_ANY_TIME = {
    "numbers": (OU, rows(B, 3)),
    "schedule": (br.GaussianDiffusion(br.CosineSchedule()), rows(B, 3)),
    "clock": (OU.on(br.PowerClock(2.0)), rows(B, 3)),
    "angles": (br.WrappedBrownianDiffusion(1.0), rows(B, 3)),
    "uniform": (br.UniformDiscreteDiffusion(1.0, K), torch.ones(B, 3, dtype=torch.long)),
    "masking": (br.MaskingDiscreteDiffusion(1.0, K), torch.ones(B, 3, dtype=torch.long)),
    "rates": (br.GeneralDiscreteDiffusion.ordinal(K, 1.0), torch.ones(B, 3, dtype=torch.long)),
}


@pytest.mark.parametrize("name", AT_ANY_TIME)
def test_one_graph_serves_all_times(name):
    """Times are numbers that change from step to step, and none is compiled in."""
    process, x_0 = AT_ANY_TIME[name]
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def ends(x_0, s, t):
        x_t = process.sample_forward(x_0, t, generator=Spaced())
        return process.sample_bridge(x_0, x_t, s, t, generator=Spaced())

    torch.compiler.reset()
    compiled = torch.compile(ends, backend=count, fullgraph=True)
    for s, t in ((0.2, 0.5), (0.25, 0.6), (0.3, 0.7), (0.31, 0.9), (0.0, 0.7), (0.4, 0.4)):
        with torch.no_grad():
            torch.testing.assert_close(compiled(x_0, s, t), ends(x_0, s, t))
    assert len(graphs) <= 4


def test_the_default_backend_keeps_times_as_inputs_too():
    """It compiles in what it cannot make an input of the graph, and then compiles every time."""
    process = br.Joint(OU, br.MaskingDiscreteDiffusion(1.0, K))
    counter = CompileCounterWithBackend("inductor")
    x, said = (rows(B), torch.full((B,), K)), (rows(B), torch.randn(B, K, generator=rng()))

    def step(said, x, s, t):
        return process.sample_step(said, x, s, t, generator=Spaced())[0]

    torch.compiler.reset()
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    for s, t in ((0.2, 0.5), (0.25, 0.6), (0.3, 0.7), (0.31, 0.9), (0.1, 0.8), (0.7, 0.72)):
        torch.testing.assert_close(compiled(said, x, s, t), step(said, x, s, t))
    assert counter.frame_count <= 2


@pytest.mark.parametrize("centred", [False, True])
def test_masked_losses_compile_without_a_break(centred):
    noise = br.ZeroCentreOfMass(N)
    process = br.StructuredDiffusion(OU, noise) if centred else OU
    x_0 = noise(rows(B, N, 3))
    mask = HELD.expand(B, N)

    def loss(said, x_0):
        return br.standardloss(process, 0.4, said, x_0, mask=mask).total

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(0.5 * x_0, x_0), loss(0.5 * x_0, x_0))


# ------------------------------------------------------------------ names and devices


def test_nested_parts_are_named_by_their_path():
    inner = br.Joint(pos=br.StructuredDiffusion(OU, br.ZeroCentreOfMass(N)), rot=OU)
    process = br.Joint(protein=inner, ligand=OU)
    x = {
        "protein": {"pos": torch.zeros(B, N, 3), "rot": torch.zeros(B, N)},
        "ligand": torch.ones(B),
    }
    with pytest.raises(ValueError, match=r"\['protein'\]\['pos'\]"):
        process.sample_forward(
            x, {"protein": {"pos": torch.rand(B, N), "rot": 0.1}, "ligand": 0.1}
        )
    masked = process.where({"protein": {"pos": True, "rot": torch.ones(3) > 0}, "ligand": True})
    with pytest.raises(ValueError, match=r"mask\['protein'\]\['rot'\]"):
        masked.sample_forward(x, 0.1)


CONSTRUCTORS = {
    "D3PM": lambda: br.DiscreteTimeDiffusion.uniform([0.1, 0.2, 0.3], K),
    "independent": lambda: br.IndependentDiscreteDiffusion(1.0, PI),
    "mixture": lambda: br.MixtureDiscreteDiffusion(1.0, PI, 0.3),
    "ordinal": lambda: br.GeneralDiscreteDiffusion.ordinal(K, 1.0),
    "table": lambda: br.TableSchedule([0.1, 0.2]),
    "clock": lambda: br.TableClock([0.0, 1.0], [0.0, 2.0]),
    "power": lambda: OU.on(br.PowerClock(2.0)),
    "atoms": lambda: br.ZeroCentreOfMass(N),
    "normal": lambda: br.NormalDenoiser(br.CosineSchedule(), 0.0, 1.0),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_processes_are_made_whatever_the_default_device_is(name):
    """Their constants are made on the host, and copied to where they are used."""
    with torch.device("meta"):
        CONSTRUCTORS[name]()

"""Nothing in the loop of a sampler reads a value from the device, which would stall a GPU.

The tensors here lie on the meta device: they have a shape and a dtype and no values, so whatever
reads one (`item`, `bool`, `nonzero`, indexing by a mask) raises, and so does mixing in a tensor
with dimensions that was left on the CPU. The library takes the way of a GPU for them, as for any
device but the CPU. What remains unseen is a copy that waits, and the values themselves.
"""

import pytest
import torch

from bridges import (
    Draws,
    Joint,
    LinearClock,
    Mixture,
    Noise,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    Score,
    SphereDiffusion,
    UniformDiscreteDiffusion,
    UnitQuaternionDiffusion,
    Velocity,
    WrappedBrownianDiffusion,
    standardloss,
)
from bridges._draw import as_draws
from bridges.sampler import _grid, _walk

META = torch.device("meta")
B, L, K = 4, 3, 5
PARTS = {
    "pos": OrnsteinUhlenbeckDiffusion(0.5),
    "seq": UniformDiscreteDiffusion(1.0, K),
    "angle": WrappedBrownianDiffusion(0.7, 1.0),
    "rot": RotationDiffusion(0.9),
    "sphere": SphereDiffusion(1.1),
    "quaternion": UnitQuaternionDiffusion(0.9),
}
MASK = torch.ones(B, L, dtype=torch.bool, device=META)
PROCESSES = PARTS | {
    f"{name} wrapped": part.on(LinearClock(2.0)).tempered(0.5).where(MASK)
    for name, part in PARTS.items()
}
# From narrow to wide, so that every way that the host may choose is taken.
PAIRS = [(0.0, 0.0), (0.0, 0.1), (0.1, 0.1), (0.01, 0.02), (1.0, 2.5), (2.0, 9.0)]


class Counted(Draws):
    """Draws on the meta device, so many at most."""

    def __init__(self, calls):
        self.left = calls

    def normal(self, shape, dtype, device):
        self.left -= 1
        assert self.left >= 0, "more rounds of proposals than the device should take"
        assert device == META
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    uniform = normal


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch):
    """Every round of proposals is like the last."""
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda acceptance: 2)


def times(process, x, s, t, kind):
    if kind == "per example":
        s, t = (torch.full((B,), v, dtype=torch.float64, device=META) for v in (s, t))
    elif kind == "mixed":
        t = torch.full((B,), t, dtype=torch.float64, device=META)
    return process._expand(s, x), process._expand(t, x)


def point(name):
    return PARTS[name.split()[0]].sample_prior((B, L), device=META)


def prediction(name):
    return torch.empty(B, L, K, device=META) if name.startswith("seq") else point(name)


def alike(found, x):
    assert found.device == META
    assert (found.shape, found.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in PARTS for kind in ("host", "per example", "mixed")]
    + [(name, "mixed") for name in PROCESSES if name not in PARTS],
)
def test_steps_noise_and_errors(name, kind):
    process, x, guess = PROCESSES[name], point(name), prediction(name)
    for s, t in PAIRS if kind == "host" else PAIRS[-2:]:
        s, t = times(process, x, s, t, kind)
        for eta in (1.0,) if name.startswith("seq") else (0.0, 0.6):
            for found in process._step(guess, x, s, t, eta, Counted(50)):
                alike(found, x)
        alike(process._between(x, x, s, t, 1.0, Counted(50)), x)
        alike(process._forward(x, s, t, Counted(50)), x)
        alike(process._endpoint(guess, x, t, Counted(1)), x)
        assert process._error(guess, x, None, t).shape == (B, L)
        assert process._counted(x, t).shape == (B, L)


def said(name):
    """What a network may say on a continuous space, other than a point."""
    x = point(name)
    vector = torch.empty(B, L, 3, device=META) if name.startswith(("rot", "quat")) else x
    mixture = torch.empty(B, L, 2, device=META)
    centres = x.unsqueeze(2).expand(B, L, 2, *x.shape[2:])
    return Score(vector), Noise(vector), Velocity(vector), Mixture(mixture, centres, mixture)


@pytest.mark.parametrize("name", [name for name in PROCESSES if not name.startswith("seq")])
@pytest.mark.parametrize("kind", ["host", "mixed"])
def test_tangent_vectors_and_mixtures(name, kind):
    process, x = PROCESSES[name], point(name)
    s, t = times(process, x, 1.0, 2.5, kind)
    for guess in said(name):
        for eta in (1.0,) if isinstance(guess, Mixture) else (0.0, 0.6):
            for found in process._step(guess, x, s, t, eta, Counted(50)):
                alike(found, x)
        assert process._error(guess, x, x, t).shape == (B, L)
        if not isinstance(guess, Mixture):
            assert type(process._convert(guess, Score, x, t)) is Score


@pytest.mark.parametrize("name", list(PROCESSES))
@pytest.mark.parametrize("kind", ["host", "per example"])
def test_densities(name, kind):
    process, x = PROCESSES[name], point(name)
    for s, t in PAIRS[3:]:
        s, t = times(process, x, s, t, kind)
        assert process._log_prob(x, x, s, t).shape == (B, L)
        if not name.startswith("seq"):
            assert process._score(x, x, t).shape[:2] == (B, L)


@pytest.mark.parametrize("kind", ["numbers", "tensor", "per example", "structure"])
def test_a_run_of_a_joint(kind):
    process = Joint(**PARTS).where(MASK)
    x = {name: point(name) for name in PARTS}
    grid = [0.0, 0.3, 9.0]
    if kind == "tensor":
        grid = torch.tensor(grid)
    elif kind == "per example":
        grid = torch.empty(3, B, dtype=torch.float64, device=META)
    elif kind == "structure":
        grid = {name: grid for name in PARTS} | {"seq": [0.0] * 3}

    def guess(x_t, t):
        for leaf in t.values() if isinstance(t, dict) else [t]:
            assert leaf.shape == (B,)
            assert leaf.device == META
        return {name: prediction(name) for name in PARTS}

    eta = {name: 1.0 for name in PARTS}
    steps = list(_walk(guess, process, _grid(grid), x, eta, Counted(3000)))
    assert len(steps) == 2
    for name in PARTS:
        alike(steps[-1].x_s[name], x[name])
        alike(steps[-1].x_0_hat[name], x[name])


@pytest.mark.parametrize("name", list(PARTS))
def test_the_gradient_of_an_error(name):
    guess = prediction(name).requires_grad_()
    error = PARTS[name]._error(guess, point(name), None, None)
    (slope,) = torch.autograd.grad(error.sum(), guess)
    assert slope.shape == guess.shape


def test_these_tests_can_fail():
    """A step that looks at a value raises here, and so does one that leaves a tensor behind."""
    x = point("pos")
    for look in (
        lambda: bool((x > 0).any()),
        lambda: x.sum().item(),
        lambda: x[x > 0],
        lambda: (x > 0).nonzero(),
        lambda: x + torch.ones(L),
        lambda: standardloss(PARTS["pos"], 0.5, x, x).total.item(),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            look()
    assert as_draws(None).normal((2,), torch.float32, META).device == META

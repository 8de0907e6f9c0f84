"""Pieces that work alone, together: centred noise per residue, clocks, checks, copies, spaces."""

import copy
import math
import pickle

import pytest
import torch
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import bridges as br
from bridges import recipes

DOUBLE = torch.float64
META = torch.device("meta")
OU = br.OrnsteinUhlenbeckDiffusion(0.0)
B, N = 4, 6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def centred(x, real=None):
    """Take the mean of the real atoms off, and put 0 elsewhere."""
    real = torch.ones(x.shape[:-1], dtype=torch.bool) if real is None else real
    real = real.unsqueeze(-1)
    mean = (x * real).sum(-2, keepdim=True) / real.sum(-2, keepdim=True).clamp(min=1)
    return (x - mean) * real


def positions(n=B, real=None, seed=1):
    return centred(torch.randn(n, N, 3, generator=rng(seed), dtype=DOUBLE), real)


CENTRED = br.StructuredDiffusion(OU, br.ZeroCentreOfMass(N))
REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] * 3 + [False] * 3, [True] * 6])
PADDED = br.StructuredDiffusion(OU, br.ZeroCentreOfMass(N, mask=REAL))

# ------------------------------------------------------------------ a motif on centred positions

FREE = torch.ones(B, N, dtype=torch.bool)
FREE[0, 1:3] = FREE[2, 0] = False  # examples 0 and 2 hold atoms, 1 and 3 hold nothing


def every_draw(process, x_0, x_t, said, generator):
    """Draw with every method that steps, noises or guesses."""
    yield process.sample_forward(x_0, 0.7, generator=generator)
    yield process.sample_bridge(x_0, x_t, 0.3, 0.7, generator=generator)
    yield process.sample_bridge(x_0, x_t, 0.3, 0.7, eta=0.4, generator=generator)
    yield process.endpoint(said, x_t, 0.7)
    yield from process.sample_step(said, x_t, 0.3, 0.7, generator=generator)


@pytest.mark.parametrize("wrap", ["plain", "clocked inside", "clocked outside", "tempered"])
def test_a_motif_on_centred_positions_stays_bit_for_bit(wrap):
    process, clock = CENTRED, br.PowerClock(1.7)
    if wrap == "clocked inside":
        process = br.StructuredDiffusion(OU.on(clock), br.ZeroCentreOfMass(N))
    process = process.where(FREE)
    if wrap == "clocked outside":
        process = process.on(clock)
    elif wrap == "tempered":
        process = process.tempered(0.8)
    x_0, x_t, draws = positions(seed=1), positions(seed=2), rng(3)
    x_t = torch.where(FREE.unsqueeze(-1), x_t + 5, x_0)  # off the centre where atoms are held
    x_t[1], x_t[3] = centred(x_t[1]), centred(x_t[3])
    said = torch.randn(B, N, 3, generator=rng(4), dtype=DOUBLE)
    said[~FREE] = math.nan
    for x in every_draw(process, x_0, x_t, said, draws):
        held = x_0 if torch.equal(x[~FREE], x_0[~FREE]) else x_t
        assert torch.equal(x[~FREE], held[~FREE])
        assert x.isfinite().all()
        assert x[[1, 3]].mean(1).abs().max() < 1e-12
        assert x[[0, 2]].mean(1).abs().max() > 1e-3
    end = br.sample_backward(lambda x, t: said, process, [0.0, 0.3, 0.7], x_t, generator=draws)
    assert torch.equal(end[~FREE], x_0[~FREE])
    assert torch.equal(end[0][FREE[0]], said[0][FREE[0]])


def test_the_free_atoms_of_a_motif_get_plain_noise():
    """Their variance is σ², and that of centred atoms (1 − 1/n) σ²; no two are correlated."""
    n, x_0 = 40_000, torch.zeros(N, 3)
    free = torch.ones(n, N, dtype=torch.bool)
    free[: n // 2, 0] = False
    x_t = CENTRED.where(free).sample_forward(x_0.expand(n, N, 3), 0.7, generator=rng())
    var = 1 - math.exp(-0.7)
    held, whole = x_t[: n // 2], x_t[n // 2 :]
    assert not held[:, 0].any()
    cov = torch.cov(held[:, 1:, 0].T)
    torch.testing.assert_close(cov, var * torch.eye(N - 1), rtol=0, atol=0.02)
    cov = torch.cov(whole[:, :, 1].T)
    torch.testing.assert_close(cov, var * (torch.eye(N) - 1 / N), rtol=0, atol=0.02)


@pytest.mark.parametrize("solver", [None, br.HeunSolver(), br.AdamsBashforthSolver(2)])
def test_solvers_keep_a_motif(solver):
    process, x_0 = CENTRED.where(FREE), positions()
    x = process.sample_forward(x_0, 0.9, generator=rng(2))
    guess = lambda x_t, t: 0.5 * x_t + 1.0  # noqa: E731
    end = br.sample_backward(guess, process, [0.0, 0.4, 0.9], x, solver=solver, generator=rng(3))
    assert torch.equal(end[~FREE], x_0[~FREE])
    assert end[[1, 3]].mean(1).abs().max() < 1e-12


def test_laws_of_held_points_are_those_of_the_free_numbers():
    """Densities, scores and tangent vectors: the plain process on the atoms that move."""
    process, x_0 = CENTRED.where(FREE), positions()
    x_t = process.sample_forward(x_0, 0.7, generator=rng(2))
    plain, whole = OU.log_prob(x_t, x_0, 0.7), CENTRED.log_prob(x_t[1::2], x_0[1::2], 0.7)
    found = process.log_prob(x_t, x_0, 0.7)
    free = FREE.unsqueeze(-1).expand_as(plain)
    torch.testing.assert_close(found[0], plain[0][free[0]].sum())
    torch.testing.assert_close(found[2], plain[2][free[2]].sum())
    torch.testing.assert_close(found[1::2], whole)
    score = process.score(x_t, x_0, 0.7)
    torch.testing.assert_close(score[0], OU.score(x_t[0], x_0[0], 0.7) * FREE[0].unsqueeze(-1))
    torch.testing.assert_close(score[1::2], CENTRED.score(x_t[1::2], x_0[1::2], 0.7))
    for kind in (br.Score, br.Noise, br.Velocity):
        said = process.convert(x_0, kind, x_t, 0.7)
        torch.testing.assert_close(process.endpoint(said, x_t, 0.7), x_0)
        error = process.error(said, x_0, x_t=x_t, t=0.7)
        torch.testing.assert_close(error, torch.zeros_like(error))


def test_mixtures_of_held_points():
    process, x_0 = CENTRED.where(FREE), positions()
    centre = torch.stack((x_0, x_0 + 0.0), 1)
    centre[0, :, 1:3] = math.nan
    mixture = br.Mixture(torch.zeros(B, 2), centre, torch.full((B, 2), 1e-8))
    x_t = process.sample_forward(x_0, 0.7, generator=rng(2))
    point = process.endpoint(mixture, x_t, 0.7, generator=rng(3))
    torch.testing.assert_close(point, torch.where(FREE.unsqueeze(-1), x_0, x_t), rtol=0, atol=1e-3)
    assert process.error(mixture, x_0).isfinite().all()


def test_masks_of_examples_and_of_atoms_together():
    examples = torch.tensor([True, True, False, True])
    for process in (
        CENTRED.where(FREE).where(examples),
        CENTRED.where(examples).where(FREE),
        CENTRED.where(FREE & examples.unsqueeze(-1)),
    ):
        x_0 = positions()
        x_t = process.sample_forward(x_0, 0.7, generator=rng(2))
        kept = ~(FREE & examples.unsqueeze(-1))
        assert torch.equal(x_t[kept], x_0[kept])
        assert x_t[[1, 3]].mean(1).abs().max() < 1e-12
        assert (x_t[0, 0] != x_0[0, 0]).all()
        assert process.error(0 * x_0, x_0).shape == (B, N)


def test_the_prior_of_held_points():
    process = CENTRED.where(FREE)
    x = process.sample_prior((B,), generator=rng(), dtype=DOUBLE)
    assert x[[1, 3]].mean(1).abs().max() < 1e-12
    assert x.isfinite().all()
    assert process.sample_prior((B,), generator=rng()).shape == (B, N, 3)


# ------------------------------------------------------------------ losses per residue


def by_hand(said, x_0, counted, real):
    """Squared distances of centred atoms over 3 (n − 1)/n, and their mean where they count."""
    n = real.sum(-1, keepdim=True).double()
    error = (centred(said, real) - x_0).square().sum(-1) / (3 * (n - 1) / n)
    return error * counted, (error * counted).sum() / counted.sum()


def test_losses_per_residue_on_padded_centred_positions():
    """The mask of padding: every example keeps its centre, and only real residues count."""
    x_0, said = positions(real=REAL), torch.randn(B, N, 3, generator=rng(5), dtype=DOUBLE)
    said[~REAL] = math.nan
    t, ones = torch.full((B,), 0.7), lambda process, t: torch.ones(B)
    loss = br.standardloss(PADDED, t, said, x_0, mask=REAL, scaler=ones)
    error, total = by_hand(said.nan_to_num(), x_0, REAL, REAL)
    assert loss.counts == REAL.sum()
    torch.testing.assert_close(loss.elements, error)
    torch.testing.assert_close(loss.total, total)
    without = br.standardloss(PADDED, t, said.nan_to_num(), x_0, scaler=ones)
    assert without.elements.shape == (B,)
    mean = (error.sum(-1) / REAL.sum(-1)).double()
    torch.testing.assert_close(mean, without.elements)


def test_a_loss_without_a_mask_is_as_it_was():
    x_0, said = positions(real=REAL), positions(real=REAL, seed=9)
    loss = br.standardloss(PADDED, torch.full((B,), 0.7, dtype=DOUBLE), said, x_0)
    trace = PADDED.noise.trace(x_0.device)
    right = (said - x_0).square().sum((-2, -1)) / trace / PADDED.loss_scale(0.7)
    torch.testing.assert_close(loss.elements, right, rtol=1e-14, atol=0)
    assert loss.counts == B


def test_losses_leave_out_held_and_clean_residues():
    process, x_0 = CENTRED.where(FREE), positions()
    said = torch.randn(B, N, 3, generator=rng(5), dtype=DOUBLE)
    t = torch.tensor([0.5, 0.5, 0.5, 0.0])
    count = FREE & (t > 0).unsqueeze(-1)
    mask = torch.rand(B, N, generator=rng(6)) > 0.3
    for extra in (None, mask):
        loss = br.standardloss(process, t, said, x_0, mask=extra)
        counted = count if extra is None else count & extra
        assert loss.counts == counted.sum()
        assert loss.elements.shape == (B, N)
        assert not loss.elements[~counted].any()
    held = (said[0] - x_0[0]).square().sum(-1) / 3 * FREE[0]
    torch.testing.assert_close(process.error(said, x_0)[0], held)


def test_losses_of_a_joint_by_residue():
    process = br.Joint(pos=PADDED, seq=br.UniformDiscreteDiffusion(1.0, 5))
    x_0 = {"pos": positions(real=REAL), "seq": torch.zeros(B, N, dtype=torch.int64)}
    said = {"pos": 0 * x_0["pos"], "seq": torch.zeros(B, N, 5)}
    loss = br.standardloss(process, torch.rand(B) + 0.1, said, x_0, mask=REAL)
    assert loss.counts["pos"] == loss.counts["seq"] == REAL.sum()


# ------------------------------------------------------------------ what cannot be

TIMES = torch.full((B, N), 0.5)


def test_times_inside_a_coupled_point_are_refused_by_name():
    x = positions()
    joint = br.Joint(pos=CENTRED, psi=br.WrappedBrownianDiffusion(1.0))
    state = {"pos": x, "psi": torch.zeros(B, N)}
    for call, part in (
        (lambda: CENTRED.sample_forward(x, TIMES), "of the process"),
        (lambda: CENTRED.on(br.PowerClock(2.0)).sample_forward(x, TIMES), "of the process"),
        (lambda: joint.sample_forward(state, TIMES), "of 'pos'"),
        (lambda: joint.sample_forward(state, {"pos": TIMES, "psi": TIMES}), "of 'pos'"),
        (lambda: br.standardloss(joint, TIMES, state, state), "of 'pos'"),
        (
            lambda: br.sample_backward(
                lambda x, t: x, joint, torch.stack((0 * TIMES, TIMES)), state
            ),
            "of 'pos'",
        ),
    ):
        with pytest.raises(ValueError, match=part + " to be one for each example, since its"):
            call()
    joint.sample_forward(state, {"pos": TIMES[:, 0], "psi": TIMES})


def test_masks_that_cannot_be_held_are_refused_by_name():
    chain = br.StructuredDiffusion(OU, br.CovarianceFactor.chain(N, 0.5))
    joint = br.Joint(pos=chain, psi=br.WrappedBrownianDiffusion(1.0)).where(FREE)
    state = {"pos": torch.zeros(B, N, 3), "psi": torch.zeros(B, N)}
    with pytest.raises(ValueError, match=r"Expected mask\['pos'\] to .* CovarianceFactor couples"):
        joint.sample_forward(state, 0.5)
    wrong = br.Joint(pos=CENTRED, psi=br.WrappedBrownianDiffusion(1.0)).where(FREE[:, :4])
    with pytest.raises(ValueError, match=r"Expected mask\['pos'\] to .*got shape \(4, 4\)"):
        wrong.sample_forward(state, 0.5)
    with pytest.raises(ValueError, match=r"Expected mask to .* got shape \(3,\)"):
        CENTRED.where(torch.ones(3, dtype=torch.bool)).sample_forward(positions(), 0.5)
    off = positions() + 1.0
    with pytest.raises(ValueError, match="centre of mass at 0"):
        CENTRED.where(FREE).sample_forward(off, 0.5)
    off[1], off[3] = centred(off[1]), centred(off[3])
    CENTRED.where(FREE).sample_forward(off, 0.5)


# ------------------------------------------------------------------ whatever is on a clock


def test_a_recipe_with_centred_noise():
    """FrameDiff's positions come on a clock; their noise is centred, with a prior and losses."""
    framediff = recipes.framediff()
    process = br.Joint(
        pos=br.StructuredDiffusion(framediff.parts["pos"], br.ZeroCentreOfMass(N)),
        rot=framediff.parts["rot"],
    )
    x = process.sample_prior({"pos": (B,), "rot": (B, N)}, generator=rng())
    x_t = process.sample_forward(x, torch.rand(B) + 0.01, generator=rng(1))
    assert x_t["pos"].mean(1).abs().max() < 1e-5
    guess = lambda x_t, t: {"pos": 0.1 * x_t["pos"] + 3, "rot": x_t["rot"]}  # noqa: E731
    end = br.sample_backward(guess, process, torch.linspace(0, 1, 6), x, generator=rng(2))
    assert end["pos"].mean(1).abs().max() < 1e-5
    loss = br.standardloss(process, torch.rand(B) + 0.01, guess(x_t, 0), x, mask=FREE)
    assert loss.counts["pos"] == FREE.sum()


@pytest.mark.parametrize("noise", [br.ZeroCentreOfMass(N), br.CovarianceFactor.chain(N, 0.6)])
def test_a_clock_inside_is_a_clock_outside(noise):
    clock = br.LinearRateClock(0.1, 20.0)
    inside = br.StructuredDiffusion(OU.on(clock), noise)
    outside = br.StructuredDiffusion(OU, noise).on(clock)
    x_0, t = positions(), torch.tensor([0.1, 0.3, 0.6, 0.9])
    x_t = outside.sample_forward(x_0, t, generator=rng(2))
    assert torch.equal(inside.sample_forward(x_0, t, generator=rng(2)), x_t)
    said = positions(seed=7)
    for kind in (None, br.Score, br.Noise, br.Velocity):
        prediction = said if kind is None else kind(said)
        for a, b in zip(
            inside.sample_step(prediction, x_t, 0.5 * t, t, generator=rng(3)),
            outside.sample_step(prediction, x_t, 0.5 * t, t, generator=rng(3)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
        a, b = (p.error(prediction, x_0, x_t=x_t, t=t) for p in (inside, outside))
        torch.testing.assert_close(a, b)
        if kind is not None:
            a, b = (p.convert(said, kind, x_t, t).value for p in (inside, outside))
            torch.testing.assert_close(a, b)
    for method in ("log_prob", "score"):
        a, b = (getattr(p, method)(x_t, x_0, t) for p in (inside, outside))
        torch.testing.assert_close(a, b)
    for method in ("loss_scale", "log_snr"):
        torch.testing.assert_close(getattr(inside, method)(t), getattr(outside, method)(t))
    solver = br.AdamsBashforthSolver(2)
    grid = [0.1, 0.4, 0.9]
    a, b = (
        br.sample_backward(lambda x, t: 0.3 * x, p, grid, x_0, solver=solver)
        for p in (inside, outside)
    )
    torch.testing.assert_close(a, b)


def test_remasking_on_a_clock():
    masking, clock = br.MaskingDiscreteDiffusion(1.0, 4), br.LogLinearClock(0.0)
    x = torch.full((200, 8), 4)
    guess = lambda x_t, t: torch.randn(*x_t.shape, 4, generator=rng(5))  # noqa: E731
    a, b = (
        br.sample_backward(guess, p, [0.0, 0.3, 0.6, 1.0], x, generator=rng(1))
        for p in (br.Remasking(masking.on(clock), 0.5), br.Remasking(masking, 0.5).on(clock))
    )
    assert torch.equal(a, b)
    with pytest.raises(TypeError, match="Expected process to be a MaskingDiscreteDiffusion"):
        br.Remasking(br.UniformDiscreteDiffusion(1.0, 4).on(clock), 0.5)
    with pytest.raises(TypeError, match="Expected process to be a Gaussian process"):
        br.StructuredDiffusion(br.WrappedBrownianDiffusion(1.0).on(clock), br.SymmetricNoise(3))
    with pytest.raises(TypeError, match="with its mask put around"):
        br.StructuredDiffusion(OU.where(FREE), br.ZeroCentreOfMass(N))


# ------------------------------------------------------------------ checks of values

FOUR = {
    "pos": OU,
    "rot": br.RotationDiffusion(1.0),
    "seq": br.UniformDiscreteDiffusion(1.0, 5),
    "psi": br.WrappedBrownianDiffusion(1.0),
}
SHAPES = {"pos": (B, N, 3), "rot": (B, N), "seq": (B, N), "psi": (B, N)}


class Waits(TorchDispatchMode):
    """Count how often a value is read."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        self.count += "_local_scalar_dense" in name or name.startswith("aten::nonzero")
        return func(*args, **(kwargs or {}))


def calls(process, x, t, said):
    """Name every public call that checks values."""
    return {
        "forward": lambda: process.sample_forward(x, t),
        "bridge": lambda: process.sample_bridge(x, x, 0.5 * t, t),
        "step": lambda: process.sample_step(said, x, 0.5 * t, t),
        "endpoint": lambda: process.endpoint(said, x, t),
        "error": lambda: process.error(said, x, x_t=x, t=t),
        "log_prob": lambda: process.log_prob(x, x, t),
        "loss": lambda: br.standardloss(process, t, said, x),
        "run": lambda: br.sample_backward(
            lambda x, t: said, process, torch.stack((0 * t, 0.5 * t, t)), x
        ),
    }


@pytest.mark.parametrize("name", ["forward", "bridge", "step", "endpoint", "error", "loss", "run"])
def test_unchecked_calls_wait_for_nothing(name, monkeypatch):
    """On a device; that it has no values at all makes every wait an error."""
    monkeypatch.setattr("bridges._so3_draw._rounds", lambda acceptance: 2)
    process = br.Joint(**FOUR)
    x = {key: torch.empty(*SHAPES[key], *[3] * 2 * (key == "rot"), device=META) for key in SHAPES}
    x["seq"] = x["seq"].long()
    said = {**x, "seq": torch.empty(B, N, 5, device=META)}
    t = torch.empty(B, dtype=DOUBLE, device=META)
    call = calls(process, x, t, said)[name]
    with br.unchecked():
        call()
    if name != "run":
        with pytest.raises((RuntimeError, NotImplementedError)):
            call()


def test_how_often_checked_calls_read_values():
    """With numbers, tokens and angles unchecked calls read none; a rejection reads some."""
    parts = {key: FOUR[key] for key in ("pos", "seq", "psi")}
    process = br.Joint(**parts)
    x = process.sample_prior({key: SHAPES[key] for key in parts}, generator=rng())
    said, t = {**x, "seq": torch.zeros(B, N, 5)}, torch.rand(B, dtype=DOUBLE) + 0.1
    for name in ("forward", "bridge", "error", "loss"):
        call = calls(process, x, t, said)[name]
        with Waits() as checked:
            call()
        with br.unchecked(), Waits() as free:
            call()
        assert checked.count >= 7
        assert free.count == 0


def test_unchecked_leaves_the_checks_of_shapes_and_ends():
    x = torch.zeros(3, 3, 3)
    process = br.RotationDiffusion(1.0)
    with pytest.raises(ValueError, match="rotation matrices"):
        process.sample_forward(x, 0.5)
    with br.unchecked():
        process.sample_forward(x, 0.5)
        with pytest.raises(ValueError, match=r"matrices \(…, 3, 3\)"):
            process.sample_forward(torch.zeros(3, 3, 4), 0.5)
        with pytest.raises(TypeError, match="floating"):
            process.sample_forward(x.long(), 0.5)
        with pytest.raises(ValueError, match="leading part of the batch shape"):
            process.sample_forward(x, torch.rand(2))
        with pytest.raises(ValueError, match="to have a softmax"):
            br.UniformDiscreteDiffusion(1.0, 5).endpoint(
                torch.full((2, 5), math.nan), torch.zeros(2, dtype=torch.int64), 0.5
            )
    with pytest.raises(RuntimeError, match="inside"), br.unchecked():
        raise RuntimeError("inside")
    with pytest.raises(ValueError, match="rotation matrices"):
        process.sample_forward(x, 0.5)


# ------------------------------------------------------------------ torch.func


def loss_of(weight, x, t):
    said = {
        "pos": weight[0] * x["pos"],
        "rot": x["rot"] + weight[1],
        "seq": weight.expand(N, 5),
        "psi": x["psi"] + weight[2],
    }
    return br.standardloss(br.Joint(**FOUR), t, said, x).total


def test_vmap_of_the_gradient_of_a_loss():
    x = br.Joint(**FOUR).sample_prior(SHAPES, generator=rng())
    weight, t = torch.randn(B, 5, generator=rng(1)), torch.rand(B, generator=rng(2)) + 0.1
    found = vmap(grad(loss_of))(weight, x, t)
    own = weight.clone().requires_grad_()
    rows = [{key: value[i] for key, value in x.items()} for i in range(B)]
    total = sum(loss_of(own[i], rows[i], t[i]) for i in range(B))
    torch.testing.assert_close(found, torch.autograd.grad(total, own)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", FOUR)
def test_vmap_of_noising(name):
    process = FOUR[name]
    x = process.sample_prior((2000, *SHAPES[name][2:]), generator=rng())
    t = torch.full((2000,), 0.4)
    found = vmap(lambda x, t: process.sample_forward(x, t), randomness="different")(x, t)
    process._check(found, "x")
    assert found.shape == x.shape
    torch.manual_seed(0)
    plain = process.sample_forward(x, t)
    near, far = ((y == x).double().mean() for y in (found, plain))
    assert abs(near - far) < 0.05
    half = vmap(lambda x, y, t: process.sample_bridge(x, y, 0.5 * t, t), randomness="different")(
        x, found, t
    )
    process._check(half, "x")


# ------------------------------------------------------------------ copies


class Scaled(torch.nn.Module):
    """A network that a pickle can find again."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(3, 3)

    def forward(self, x, t):
        return self.line(x)


COPIED = {
    "joint": lambda: br.Joint(**FOUR, pos2=PADDED, mask=br.MaskingDiscreteDiffusion(1.0, 4)),
    "wrapped": lambda: CENTRED.on(br.TableClock([0.0, 1.0], [0.0, 2.0])).where(FREE),
    "tempered": lambda: br.WrappedBrownianDiffusion(1.0).tempered(0.7),
    "tables": lambda: br.Joint(
        br.IndependentDiscreteDiffusion(1.0, [1, 2, 3]),
        br.GeneralDiscreteDiffusion.ordinal(4, 1.0),
        br.DiscreteTimeDiffusion.absorbing([0.2, 0.3], 4),
    ),
    "denoiser": lambda: br.PreconditionedDenoiser(Scaled(), br.VPSchedule(), 0.3),
    "guess": lambda: br.PreconditionedGuess(Scaled(), OU, 0.5),
    "schedule": lambda: br.TableSchedule.linear(10),
    "solver": lambda: br.AdamsBashforthSolver(3),
}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", COPIED)
def test_pickle_and_deepcopy(name, copied):
    thing = COPIED[name]()
    if isinstance(thing, torch.nn.Module):
        x, t = torch.randn(B, 3, generator=rng()), torch.rand(B, generator=rng())
        a, b = (net(x, t) for net in (thing, copied(thing)))
        a, b = (y.mean if isinstance(y, br.Gaussian) else y for y in (a, b))
        assert torch.equal(a, b)
        return
    twin = copied(thing)
    assert repr(twin) == repr(thing)
    if isinstance(thing, br.Process) and name != "tables":
        if name == "joint":
            shape = {**SHAPES, "pos2": (B,), "mask": (B,)}
        else:
            shape = (B,)
        x = thing.sample_prior(shape, generator=rng())
        a, b = (p.sample_forward(x, 0.5, generator=rng(1)) for p in (thing, twin))
        leaves = zip(a.values(), b.values(), strict=True) if name == "joint" else [(a, b)]
        assert all(torch.equal(x, y) for x, y in leaves)
    elif name == "tables":
        x = (torch.zeros(B, dtype=torch.int64),) * 3
        a, b = (p.sample_forward(x, 1, generator=rng(1)) for p in (thing, twin))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ------------------------------------------------------------------ a user's own space


class Scales(br.Process):
    """Positive numbers, noised by a geometric Brownian motion: a space of a user's own."""

    def _forward(self, x, s, t, draws):
        sigma = (t - s).sqrt().to(x.dtype)
        return x * torch.exp(sigma * draws.normal(x.shape, x.dtype, x.device))

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        share, sigma = (s / t).to(x_t.dtype), (s * (t - s) / t).sqrt().to(x_t.dtype)
        mean = x_0.log() + share * (x_t / x_0).log()
        return torch.exp(mean + sigma * draws.normal(x_t.shape, x_t.dtype, x_t.device))

    def _prior(self, shape, draws, dtype, device):
        return torch.exp(draws.normal(shape, dtype, device))

    def _error(self, prediction, x_0, x_t, t):
        return (prediction.log() - x_0.log()) ** 2


def test_a_space_of_a_user_s_own_in_a_preconditioned_guess():
    seen = {}

    def network(x, noise):
        seen.update(x=x, noise=noise)
        return {"size": x["size"] * 2, "pos": 0 * x["pos"]}

    process = br.Joint(size=Scales(), pos=OU)
    guess = br.PreconditionedGuess(network, process)
    x = process.sample_prior({"size": (B,), "pos": (B, 3)}, generator=rng())
    t = torch.tensor([0.1, 0.5, 1.0, 4.0])
    said = guess(x, t)
    assert torch.equal(seen["x"]["size"], x["size"])
    torch.testing.assert_close(seen["noise"]["size"], 0.5 * t.log())
    assert torch.equal(said["size"], 2 * x["size"])
    assert br.standardloss(process, t, said, x).total.isfinite()
    end = br.sample_backward(guess, process, [0.0, 0.5, 1.0], x, generator=rng(1))
    assert (end["size"] > 0).all()
    alone = br.PreconditionedGuess(lambda x, noise: x + noise, Scales())
    torch.testing.assert_close(alone(x["size"], t), x["size"] + 0.5 * t.log())


def test_a_wrong_state_of_a_guess_is_called_the_state():
    guess = br.PreconditionedGuess(lambda x, noise: x, br.Joint(pos=OU, rot=FOUR["rot"]))
    t = torch.ones(B)
    for state, words in (
        ({"pos": torch.zeros(B, 3)}, r"Expected x_t to be a dict with keys \['pos', 'rot'\]"),
        (
            {"pos": torch.zeros(B, 3), "rot": torch.zeros(B, 3)},
            r"Expected x_t\['rot'\] to ",
        ),
        (
            {"pos": torch.zeros(B, 3).long(), "rot": torch.eye(3)},
            r"Expected x_t\['pos'\] to ",
        ),
        (torch.zeros(B, 3), "Expected x_t to be a dict"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            guess(state, t)


# ------------------------------------------------------------------ self-conditioning


def both(x, t, previous):
    return {"pos": br.Noise(0 * x["pos"] + 1), "seq": torch.zeros(B, N, 5)}


def test_a_null_of_the_wrong_structure_is_refused():
    x, t = {"pos": torch.zeros(B, N, 3), "seq": torch.zeros(B, N).long()}, torch.ones(B)
    right = br.null_like(both(x, t, None))
    assert not right["pos"].value.any()
    for null, words in (
        (
            {"pos": br.Noise(torch.zeros(B, N, 3))},
            "Expected null to have .* got a dict",
        ),
        ((torch.zeros(1), torch.zeros(1)), "Expected null to have .* got a tuple of length 2"),
        (
            {**right, "pos": br.Score(torch.zeros(B, N, 3))},
            r"null\['pos'\] .* a Noise; got a S",
        ),
        (
            {**right, "seq": {"a": torch.zeros(1)}},
            r"null\['seq'\] to .* a float32",
        ),
    ):
        with pytest.raises(TypeError, match=words):
            br.selfconditioning_estimate(both, x, t, null, generator=rng())
    with pytest.raises(TypeError, match="Expected null to have the structure of the pred"):
        br.selfconditioning_estimate(
            lambda x, t, previous: x["pos"], x, t, br.Noise(torch.zeros(B, N, 3))
        )


def test_null_like_serves_training_and_runs():
    x, t = {"pos": torch.zeros(B, N, 3), "seq": torch.zeros(B, N).long()}, torch.ones(B)
    null = br.null_like(both(x, t, None))
    found = br.selfconditioning_estimate(both, x, t, null, generator=rng())
    values = found["pos"].value[:, 0, 0]
    assert set(values.tolist()) == {0.0, 1.0}
    mixture = br.Mixture(torch.ones(B, 2), torch.ones(B, 2, 3), torch.ones(B, 2) * 3)
    assert (br.null_like(mixture).variance == 1).all()
    gaussian = br.Gaussian(torch.ones(B), torch.ones(()) * 3)
    assert (br.null_like((gaussian, [torch.ones(2)]))[0].var == 1).all()
    with pytest.raises(TypeError, match="Expected a prediction to hold tensors; got 'x'"):
        br.null_like({"a": "x"})


def test_modules_come_with_the_package():
    import bridges

    for name in ("recipes", "testing", "protein", "nn", "convert"):
        assert getattr(bridges, name).__name__ == f"bridges.{name}"
        assert name in dir(bridges)
    with pytest.raises(AttributeError, match="module 'bridges' has no attribute 'nothing'"):
        bridges.nothing  # noqa: B018

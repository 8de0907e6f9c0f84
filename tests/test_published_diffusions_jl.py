"""What the page on Diffusions.jl says of it: names, weights, rates and where the two differ.

Its formulas are written anew here, from its source.
"""

import math
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

import bridges
from bridges import (
    GivenDraws,
    IndependentDiscreteDiffusion,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    WrappedInterpolatedBrownianDiffusion,
    sample_backward,
    selfconditioned,
    selfconditioning_estimate,
    standardloss,
    timeschedule,
    trajectory,
)
from bridges.angle import wrap
from bridges.convert import bcd_to_quat, bcd_to_rotmat, quat_to_rotmat, rotmat_to_quat
from bridges.nn import RandomFourierFeatures

PAGE = (Path(__file__).parents[1] / "docs" / "from_diffusions_jl.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (\S.*?) \| .+ \|$", PAGE, flags=re.MULTILINE))
DOUBLE = torch.float64

EXPORTS = """
OrnsteinUhlenbeckDiffusion MultiGaussianState WrappedBrownianDiffusion
WrappedInterpolatedBrownianDiffusion IndependentDiscreteDiffusion UniformDiscreteDiffusion
RotationDiffusion sampleforward samplebackward eq_dist randcat RandomFourierFeatures timeschedule
square Tracker reangle standardloss rots2flatquats bcds2flatquats bcds2rots flatquats2rots
""".split()


def test_the_page_has_a_row_for_every_export():
    assert sorted(ROWS) == sorted(EXPORTS)


@pytest.mark.parametrize("name", EXPORTS)
def test_what_stands_beside_it_exists(name):
    if ROWS[name] == "none":
        return
    path = re.match(r"`([\w.]+)", ROWS[name])[1].removeprefix("bridges.").split(".")
    found = getattr(bridges, path[0], None)
    found = import_module(f"bridges.{path[0]}") if found is None else found
    for part in path[1:]:
        found = getattr(found, part)
    assert callable(found)


# ------------------------------------------------------------------ the weights of losses


def scaler(rate, t):
    return math.sqrt(1 - math.exp(-rate * t))


@pytest.mark.parametrize("t", [0.02, 0.7, 5.0])
def test_losses_have_its_weights(t):
    """The factor that a unit error gets there: its constants over its scaler."""
    rate, k = 0.6, 7
    weights = {
        OrnsteinUhlenbeckDiffusion(0.3, 1.7, rate): 1 / scaler(rate, t),
        WrappedBrownianDiffusion(rate): 1 / (2 * scaler(rate / 8, t)),
        RotationDiffusion(4 * rate): 1 / (4 * scaler(5 * rate, t)),
        UniformDiscreteDiffusion(rate, k): 1.44 * k / (k - 1) / scaler(rate, t),
    }
    for process, weight in weights.items():
        assert 1 / process.loss_scale(t).item() == pytest.approx(weight, rel=2e-3)


def test_its_squared_angle_of_rotations_is_within_five_percent():
    angle = torch.linspace(0.01, math.pi, 200, dtype=DOUBLE)
    zero = torch.zeros_like(angle)
    rot = quat_to_rotmat(torch.stack(((angle / 2).cos(), zero, (angle / 2).sin(), zero), -1))
    ours = RotationDiffusion(1.0).error(rot, torch.eye(3, dtype=DOUBLE).expand_as(rot))
    x = (angle / 2).cos()
    ratio = (1 - x) * (x - 13) ** 2 / 18 / ours
    assert 0.95 < ratio.min() < ratio.max() < 1 + 1e-6


def test_its_distance_of_angles_is_right_below_three_half_turns():
    apart = torch.linspace(0, 5 * math.pi, 500, dtype=DOUBLE)
    theirs = torch.minimum(apart, 2 * math.pi - apart) ** 2
    ours = WrappedBrownianDiffusion(1.0).error(apart, torch.zeros_like(apart))
    right = torch.isclose(theirs, ours, rtol=0, atol=1e-9)
    assert right[apart < 3 * math.pi].all()
    assert not right[apart > 3 * math.pi + 0.01].any()


# ------------------------------------------------------------------ laws


def test_its_rotations_turn_twice_as_far_and_each_step_a_little_further():
    """The mean of the trace's character (1 + 2 cos ω)/3 falls as e^{−v} under the heat kernel."""
    sigma, z = math.sqrt(0.05), np.array([0.3, -0.4, 1.2])
    length = np.linalg.norm(sigma * z)
    step = [math.cos(length), *(sigma * z * math.sin(length) / length)]
    found = quat_to_rotmat(torch.tensor(step, dtype=DOUBLE)).numpy()
    np.testing.assert_allclose(found, Rotation.from_rotvec(2 * sigma * z).as_matrix(), atol=1e-14)

    v = 4 * sigma**2
    nodes, weights = np.polynomial.hermite.hermgauss(60)
    r = np.sqrt(2 * v) * nodes
    maxwell = weights * r**2 / (weights * r**2).sum()
    character = (maxwell * (1 + 2 * np.cos(r)) / 3).sum()
    assert -math.log(character) / v == pytest.approx(1.017, abs=5e-4)


def others_there(x_0, x_t, k):
    """List the states that its uniform bridge gives as neither x_0 nor x_t, counted from 1."""
    states = []
    for d in range(1, k - 1):
        d += d >= x_0
        states.append(d + (d >= x_t))
    return states


def test_its_uniform_bridge_misses_a_state_where_ours_does_not():
    k = 5
    process = UniformDiscreteDiffusion(1.0, k)
    for x_0 in range(1, k + 1):
        for x_t in set(range(1, k + 1)) - {x_0}:
            others = [z for z in range(1, k + 1) if z not in (x_0, x_t)]
            probs = process.bridge_probs(torch.tensor(x_0 - 1), torch.tensor(x_t - 1), 0.4, 1.0)
            at_others = probs[[z - 1 for z in others]]
            torch.testing.assert_close(at_others, at_others[:1].expand(k - 2))
            assert (at_others > 0).all()
            there = others_there(x_0, x_t, k)
            if x_t < x_0 < k:
                assert set(others) - set(there) == {x_0 + 1}
                assert set(there) - set(others) == {x_0}
            else:
                assert there == others


def test_its_variance_in_float32_against_ours():
    """The nearest Float32 to e^{−1e-6} is the best that an exponential can do there."""
    theirs = 1 - float(np.float32(math.exp(-1e-6)))
    assert theirs / 1e-6 == pytest.approx(1.013, abs=1e-3)
    process = OrnsteinUhlenbeckDiffusion(0.0)
    noise = bridges.GivenDraws(normals=[torch.ones(())])
    x_t = process.sample_forward(torch.zeros(()), 1e-6, generator=noise)
    assert x_t.item() ** 2 == pytest.approx(-math.expm1(-1e-6), rel=1e-6)


# ------------------------------------------------------------------ small functions


def test_wrap_is_reangle():
    x = torch.linspace(-20, 20, 1001, dtype=DOUBLE)
    there = np.mod(x.numpy() + np.pi, 2 * np.pi) - np.pi
    np.testing.assert_allclose(wrap(x, 2 * math.pi).numpy(), there, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("f", "inverse", "second"),
    [(torch.square, torch.sqrt, 4.101832885125387), (torch.exp, torch.log, 0.01)],
)
def test_timeschedule_gives_the_grids_of_its_own_tests(f, inverse, second):
    grid = timeschedule(f, inverse, 1e-3, 1e2, 6)
    assert grid[[0, 1, 5]].tolist() == pytest.approx([1e-3, second, 1e2], rel=1e-12)


# ------------------------------------------------------------------ every call, with its value


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=rng(seed), dtype=DOUBLE)


def close(found, exact, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=rtol, atol=atol)


def given(*normals):
    return GivenDraws(normals=normals)


def expect(condition):
    assert condition


def ou():
    """`forward` and `combine(forward, backward)` of src/continuous.jl, and `eq_dist`."""
    process, (mu, vol, theta) = OrnsteinUhlenbeckDiffusion(0.3, 1.2, 0.8), (0.3, 1.2, 0.8)
    assert OrnsteinUhlenbeckDiffusion(0.3) == OrnsteinUhlenbeckDiffusion(0.3, 1.0, 0.5)
    x_0, x_t, z, s, t = normal(4), normal(4, seed=2), normal(4, seed=3), 0.4, 1.1
    limit = vol**2 / (2 * theta)
    mean, var = (
        math.exp(-t * theta) * (x_0.numpy() - mu) + mu,
        limit * (1 - math.exp(-2 * t * theta)),
    )
    close(process.sample_forward(x_0, t, generator=given(z)), mean + math.sqrt(var) * z.numpy())
    prior = math.exp(-s * theta) * (x_0.numpy() - mu) + mu, limit * (1 - math.exp(-2 * s * theta))
    growth = math.exp((t - s) * theta)
    likelihood = growth * (x_t.numpy() - mu) + mu, limit * (growth**2 - 1)
    var = 1 / (1 / prior[1] + 1 / likelihood[1])
    mean = var * (prior[0] / prior[1] + likelihood[0] / likelihood[1])
    found = process.sample_bridge(x_0, x_t, s, t, generator=given(z))
    close(found, mean + math.sqrt(var) * z.numpy(), rtol=1e-8)
    found = process.sample_prior((4,), dtype=DOUBLE, generator=given(z))
    close(found, mu + math.sqrt(limit) * z.numpy())


def wrapped():
    """The marginal, wrapped once more; the bridge ends where it is pinned."""
    x, z = normal(4), normal(4, seed=2)
    for process in (WrappedBrownianDiffusion(0.7), WrappedInterpolatedBrownianDiffusion(0.7)):
        found = process.sample_forward(x, 1.3, generator=given(z))
        there = x.numpy() + np.mod(z.numpy() * math.sqrt(1.3 * 0.7) + np.pi, 2 * np.pi) - np.pi
        close(found, np.mod(there + np.pi, 2 * np.pi) - np.pi)
        assert torch.equal(process.sample_bridge(found, x, 0.0, 1.0), found)
        prior = process.sample_prior((1000,), generator=rng())
        assert -math.pi <= prior.min() < -3 < 3 < prior.max() < math.pi


def tokens():
    """P(t) = exp(r Q t), as its tests have it."""
    rate, t, pi = 0.5, 1.3, np.array([0.05, 0.05, 0.2, 0.3, 0.4])
    for process, law in [
        (IndependentDiscreteDiffusion(rate, pi), pi),
        (UniformDiscreteDiffusion(rate, 5), np.full(5, 0.2)),
    ]:
        exact = math.exp(-rate * t) * np.eye(5) + (1 - math.exp(-rate * t)) * law
        x_0, x_t = torch.arange(5).repeat_interleave(5), torch.arange(5).repeat(5)
        close(process.log_prob(x_t, x_0, t).exp().reshape(5, 5), exact, rtol=1e-6)


def independent_bridge():
    """`combine(forward, backward)` of src/discrete.jl."""
    rate, pi, s, t = 0.5, np.array([0.05, 0.05, 0.2, 0.3, 0.4]), 0.4, 1.3
    forward = math.exp(-rate * s) * np.eye(5) + (1 - math.exp(-rate * s)) * pi
    onward = math.exp(-rate * (t - s)) * np.eye(5) + (1 - math.exp(-rate * (t - s))) * pi
    weights = forward[1] * onward[:, 3]
    process = IndependentDiscreteDiffusion(rate, pi)
    found = process.bridge_probs(torch.tensor(1), torch.tensor(3), s, t)
    close(found, weights / weights.sum())


def rotations():
    """The mean of a step's matrix is e^{−v}, v = 4 r t, its first character."""
    process = RotationDiffusion(4 * 0.1)
    start = torch.eye(3).expand(20_000, 3, 3)
    x_t = process.sample_forward(start, 1.5, generator=rng())
    v = 4 * 0.1 * 1.5
    assert x_t.mean(0).diagonal().mean().item() == pytest.approx(math.exp(-v), abs=0.01)


def forward():
    """Times: one for all, or one per example, first here; tuples of processes are a Joint."""
    x_0 = torch.zeros(3, 4, 2, dtype=DOUBLE)
    process, z = OrnsteinUhlenbeckDiffusion(0.0), normal(3, 4, 2)
    t = torch.tensor([1.0, 2.0, 3.0])
    exact = (1 - torch.exp(-t.double())).sqrt().reshape(3, 1, 1) * z
    close(process.sample_forward(x_0, t, generator=given(z)), exact.numpy(), rtol=1e-7)
    both = bridges.Joint(OrnsteinUhlenbeckDiffusion(0.0), UniformDiscreteDiffusion(1.0, 4))
    found = both.sample_forward((x_0, torch.zeros(3, 4, dtype=torch.int64)), t)
    assert [part.shape for part in found] == [(3, 4, 2), (3, 4)]


def backward():
    """src/interface.jl: guess at t, bridge to the time before, and so on."""
    process, x = OrnsteinUhlenbeckDiffusion(0.0), normal(3, 2)
    timesteps, noise = [0.1, 0.5, 2.0], normal(2, 3, 2, seed=2)
    told = []

    def guess(x_t, t):
        told.append(t)
        return 0.5 * x_t

    found = sample_backward(guess, process, timesteps, x, generator=given(*noise))
    exact = x
    for s, t, z in [(0.5, 2.0, noise[0]), (0.1, 0.5, noise[1])]:
        exact = process.sample_bridge(0.5 * exact, exact, s, t, generator=given(z))
    torch.testing.assert_close(found, exact)
    assert [t.tolist() for t in told] == [[2.0] * 3, [0.5] * 3]


def tracker():
    """Its fields time, data and x0."""
    process, x = OrnsteinUhlenbeckDiffusion(0.0), normal(3, 2)
    track = list(trajectory(lambda x_t, t: 0 * x_t, process, [0.1, 0.5, 2.0], x))
    time, data, x0 = zip(*track, strict=True)
    assert time == (0.5, 0.1)
    assert [d.shape for d in data] == [(3, 2)] * 2
    assert all((x_0 == 0).all() for x_0 in x0)


def draws():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    u = torch.tensor([0.05, 0.2, 0.5, 0.95], dtype=DOUBLE).reshape(4, 1)
    found = GivenDraws(uniforms=[u]).categorical(p.log().expand(4, 4))
    assert found.tolist() == [0, 1, 2, 3]
    assert torch.multinomial(p, 1, generator=rng()).item() in range(4)


def features():
    """[cos(2π w t); sin(2π w t)], of a time and of a vector of times."""
    module = RandomFourierFeatures(1, 6, 2.0, generator=rng(), dtype=DOUBLE)
    t = torch.tensor([0.3, 0.7], dtype=DOUBLE)
    turns = 2 * np.pi * module.weight.numpy()[:, 0] * t.numpy()[:, None]
    close(module(t.unsqueeze(-1)), np.concatenate((np.cos(turns), np.sin(turns)), 1))


def loss():
    """src/loss.jl, with scalers and losses of its own."""
    t, x_0, x = torch.tensor([0.3, 2.0], dtype=DOUBLE), normal(2, 3), normal(2, 3, seed=2)
    scale = np.sqrt(1 - np.exp(-t.numpy() * 0.5))[:, None]
    found = standardloss(OrnsteinUhlenbeckDiffusion(0.0), t, x, x_0)
    close(found.total, np.mean((x.numpy() - x_0.numpy()) ** 2 / scale), rtol=1e-6)
    found = standardloss(
        OrnsteinUhlenbeckDiffusion(0.0), t, x, x_0, scaler=lambda p, t: 1 + t * p.reversion
    )
    exact = (x.numpy() - x_0.numpy()) ** 2 / (1 + 0.5 * t.numpy())[:, None]
    close(found.total, exact.mean(), rtol=1e-6)
    tokens, logits = torch.tensor([[0, 2, 1], [1, 1, 0]]), normal(2, 3, 4)
    found = standardloss(UniformDiscreteDiffusion(0.6, 4), t, logits, tokens)
    log_probs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1).numpy()
    scale = np.sqrt(1 - np.exp(-t.numpy() * 0.6))[:, None]
    close(found.total, np.mean(-log_probs / scale) / (3 / 4) * 1.44, rtol=2e-3)
    masked = OrnsteinUhlenbeckDiffusion(0.0).where(torch.tensor([[1, 0, 1], [0, 0, 1]]).bool())
    found = standardloss(masked, t, x, x_0)
    scale = np.sqrt(1 - np.exp(-t.numpy() * 0.5))[:, None]
    each = (x.numpy() - x_0.numpy()) ** 2 / scale
    close(found.total, each[[0, 0, 1], [0, 2, 2]].mean(), rtol=1e-6)


def quaternions():
    """src/rotational.jl: bcd over √(1 + b² + c² + d²), scalar first."""
    bcd = normal(5, 3)
    length = np.sqrt(1 + (bcd.numpy() ** 2).sum(-1, keepdims=True))
    flat = np.concatenate((1 / length, bcd.numpy() / length), -1)
    matrices = Rotation.from_quat(flat[:, [1, 2, 3, 0]]).as_matrix()
    close(bcd_to_quat(bcd), flat)
    close(bcd_to_rotmat(bcd), matrices)
    close(quat_to_rotmat(torch.from_numpy(flat)), matrices)
    close(rotmat_to_quat(torch.from_numpy(matrices)), flat)


def grids():
    grid = timeschedule(torch.exp, torch.log, 1e-3, 10, 100)
    close(grid, np.exp(np.linspace(math.log(1e-3), math.log(10), 100)))
    grid = timeschedule(torch.square, torch.sqrt, 1e-3, 10, 100)
    close(grid, np.linspace(math.sqrt(1e-3), math.sqrt(10), 100) ** 2)


CALLS = {
    "OrnsteinUhlenbeckDiffusion": ou,
    "MultiGaussianState": lambda: expect(not hasattr(bridges, "MultiGaussianState")),
    "WrappedBrownianDiffusion": wrapped,
    "WrappedInterpolatedBrownianDiffusion": wrapped,
    "IndependentDiscreteDiffusion": independent_bridge,
    "UniformDiscreteDiffusion": tokens,
    "RotationDiffusion": rotations,
    "sampleforward": forward,
    "samplebackward": backward,
    "eq_dist": ou,
    "randcat": draws,
    "RandomFourierFeatures": features,
    "timeschedule": grids,
    "square": grids,
    "Tracker": tracker,
    "reangle": lambda: close(wrap(torch.tensor([4.0]), 2 * math.pi), [4 - 2 * math.pi], 1e-6),
    "standardloss": loss,
    "rots2flatquats": quaternions,
    "flatquats2rots": quaternions,
    "bcds2flatquats": quaternions,
    "bcds2rots": quaternions,
}


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_typed(name):
    CALLS[name]()


def test_the_self_conditioning_of_its_readme():
    """The closure starts from zero and hands on the last estimate; in training, by a coin."""

    def model(x_t, t, previous):
        return previous + 1

    process, x = OrnsteinUhlenbeckDiffusion(0.0), normal(5, 2)
    guess = selfconditioned(model, torch.zeros(5, 2, dtype=DOUBLE))
    steps = list(trajectory(guess, process, [0.0, 0.5, 1.0, 2.0], x))
    assert [step.x_0_hat[0, 0].item() for step in steps] == [1.0, 2.0, 3.0]
    estimate = selfconditioning_estimate(
        model, normal(64, 2), torch.ones(64), torch.zeros(64, 2, dtype=DOUBLE), generator=rng()
    )
    assert set(estimate.unique().tolist()) == {0.0, 1.0}
    assert (estimate[:, 0] == estimate[:, 1]).all()

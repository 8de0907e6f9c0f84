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
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    timeschedule,
)
from bridges.angle import wrap
from bridges.convert import quat_to_rotmat

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

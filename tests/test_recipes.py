"""Recipes against the formulas of the papers, written out again here."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import karras_times, recipes
from bridges._so3 import exp, log

DOUBLE = torch.float64
TIMES = np.array([0.02, 0.1, 0.34, 0.5, 0.76, 1.0])


def numbers_at(process, t, x_0=1.7):
    """Return α_t and σ_t from the score at two points: it is linear, with slope −1/σ²."""
    x_t = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    at_0, at_1 = process.score(x_t, torch.full((2,), x_0, dtype=DOUBLE), t).tolist()
    variance = 1 / (at_0 - at_1)
    return at_0 * variance / x_0, math.sqrt(variance)


def kernel(omega, v):
    """The heat kernel on SO(3) by its series, or by images where the series is long."""
    if v > 0.5:
        order = np.arange(60)[:, None]
        waves = np.sin((order + 0.5) * omega) / np.sin(omega / 2)
        return ((2 * order + 1) * np.exp(-order * (order + 1) * v / 2) * waves).sum(0)
    shift = omega + 2 * np.pi * np.arange(-4, 5)[:, None]
    signs = (-1.0) ** np.arange(-4, 5)[:, None]
    images = (signs * shift * np.exp(-(shift**2) / (2 * v))).sum(0)
    return math.exp(v / 8) * math.sqrt(2 * math.pi) * v**-1.5 * images / np.sin(omega / 2)


def assert_rotations_have(process, variance_of):
    omega = np.array([0.05, 0.3, 0.9, 1.7])
    axis = torch.tensor([0.6, 0.0, 0.8], dtype=DOUBLE)
    rot = exp(torch.tensor(omega, dtype=DOUBLE).unsqueeze(-1) * axis)
    eye = torch.eye(3, dtype=DOUBLE).expand(4, 3, 3)
    for t in TIMES:
        found = process.log_prob(rot, eye, float(t)).exp().numpy()
        expected = kernel(omega, variance_of(t))
        near = expected > 1e-9
        np.testing.assert_allclose(found[near], expected[near], rtol=1e-7)


def test_framediff():
    process = recipes.framediff()
    for t in TIMES:
        alpha = math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
        found = numbers_at(process.parts["pos"], float(t))
        np.testing.assert_allclose(found, (alpha, math.sqrt(1 - alpha**2)), rtol=1e-10)
    assert_rotations_have(
        process.parts["rot"],
        lambda t: np.log(t * np.exp(1.5) + (1 - t) * np.exp(0.1)) ** 2,
    )


@pytest.mark.parametrize("steps", [50, 200])
def test_rfdiffusion(steps):
    process = recipes.rfdiffusion(steps)
    beta = np.linspace(0.01 * 200 / steps, 0.07 * 200 / steps, steps)
    kept = np.cumprod(1 - beta)
    for k in (1, 2, steps // 3, steps):
        found = numbers_at(process.parts["pos"], k / steps)
        expected = math.sqrt(kept[k - 1]), math.sqrt(1 - kept[k - 1])
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    if steps == 50:
        assert_rotations_have(process.parts["rot"], lambda t: (0.02 + 1.5 * t + 0.5 * t**2) ** 2)


@pytest.mark.parametrize("recipe", [recipes.frameflow, recipes.multiflow])
def test_the_flow_of_frames(recipe):
    process = recipe()
    x_0 = torch.tensor([0.3, -1.0], dtype=DOUBLE)
    noise = torch.tensor([1.1, 0.2], dtype=DOUBLE)
    pos, rot = process.parts["pos"], process.parts["rot"]
    x_t = 0.4 * x_0 + 0.6 * noise
    x_s, _ = pos.sample_step(x_0, x_t, 0.35, 0.6, eta=0.0)
    torch.testing.assert_close(x_s, 0.65 * x_0 + 0.35 * noise)
    target = exp(torch.tensor([[0.9, -0.4, 0.2]], dtype=DOUBLE))
    start = exp(torch.tensor([[-1.0, 0.7, 1.2]], dtype=DOUBLE))
    x_s, _ = rot.sample_step(target, start, 0.35, 0.6, eta=0.0)
    left = log(target.mT @ start) * math.exp(-10 * 0.25)
    torch.testing.assert_close(log(target.mT @ x_s), left)
    angle = torch.tensor([[0.0, 0.0, 1.3]], dtype=DOUBLE)
    found = rot.log_prob(exp(angle), torch.eye(3, dtype=DOUBLE).expand(1, 3, 3), 1.0)
    assert found.exp().item() == pytest.approx(kernel(np.array([1.3]), 1.5**2)[0], rel=1e-9)


def test_multiflow_masks_in_proportion_to_time(p_min):
    process = recipes.multiflow().parts["seq"]
    x = process.sample_forward(torch.full((40_000,), 7), 0.3, generator=torch.manual_seed(1))
    assert set(x.tolist()) == {7, 20}
    assert stats.binomtest(int((x == 20).sum()), 40_000, 0.3).pvalue > p_min


def test_torsional_diffusion():
    process = recipes.torsional_diffusion()
    turn = torch.tensor([0.02, 0.4, 2.9], dtype=DOUBLE)
    for t in TIMES:
        sigma = (0.01 * np.pi) ** (1 - t) * np.pi**t
        lifts = turn.numpy()[:, None] + 2 * np.pi * np.arange(-30, 31)
        density = stats.norm.pdf(lifts, scale=sigma).sum(-1)
        found = process.log_prob(turn, torch.zeros_like(turn), float(t)).exp().numpy()
        np.testing.assert_allclose(found, density, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("atoms", [1, 8, 20])
def test_mattergen_coordinates(atoms):
    process = recipes.mattergen_coordinates(atoms)
    turn = torch.tensor([0.002, 0.1, -0.45], dtype=DOUBLE)
    for t in TIMES:
        sigma = atoms ** (-1 / 3) * 0.005 ** (1 - t) * 5.0**t
        lifts = turn.numpy()[:, None] + np.arange(-60, 61)
        density = stats.norm.pdf(lifts, scale=sigma).sum(-1)
        found = process.log_prob(turn, torch.zeros_like(turn), float(t)).exp().numpy()
        np.testing.assert_allclose(found, density, rtol=1e-9, atol=1e-300)


def test_edm():
    process = recipes.edm()
    for t in karras_times(0.002, 80.0, 5).tolist():
        np.testing.assert_allclose(numbers_at(process, t), (1.0, t), rtol=1e-9)


@pytest.mark.parametrize("recipe", [recipes.framediff, recipes.rfdiffusion, recipes.multiflow])
def test_time_zero_is_data(recipe):
    process = recipe()
    shape = {"pos": (3, 2), "rot": (3,), "seq": (3,)}
    x = {k: p.sample_prior(shape[k]) for k, p in process.parts.items()}
    x["seq"] = torch.tensor([1, 2, 3])
    x = {k: x[k] for k in process.parts}
    x_t = process.sample_forward(x, 0.0)
    assert all(torch.equal(x[k], x_t[k]) for k in x)


def test_bad_numbers():
    with pytest.raises(ValueError, match="Expected steps to be an integer above 14; got 9"):
        recipes.rfdiffusion(9)
    with pytest.raises(ValueError, match="Expected num_atoms to be positive"):
        recipes.mattergen_coordinates(0)

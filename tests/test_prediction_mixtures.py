"""Mixtures as predictions, and predictions of all kinds in a Joint, under masks and in losses."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bridges import (
    Joint,
    Mixture,
    Noise,
    Score,
    UniformDiscreteDiffusion,
    Velocity,
    selfconditioned,
    selfconditioning_estimate,
    standardloss,
    trajectory,
)
from bridges._so3 import exp, log
from prediction_cases import ANGLE, CURVED, DOUBLE, OU, ROTATION, rng, state, tangent_of


@CURVED
def test_the_error_of_a_mixture_is_its_negative_log_likelihood(process):
    x_0, _ = state(process)
    centre = torch.stack((state(process, seed=4)[0], state(process, seed=5)[0]), 1)
    logits = torch.tensor([0.3, -0.8], dtype=DOUBLE).expand(6, 2)
    v = torch.tensor([0.2, 1.1], dtype=DOUBLE).expand(6, 2)
    density = 0.0
    for i, weight in enumerate(torch.softmax(logits[0], -1)):
        t = v[0, i].item() / process.rate
        density = density + weight * process.log_prob(x_0, centre[:, i], t).exp()
    error = process.error(Mixture(logits, centre, v), x_0)
    torch.testing.assert_close(error, -density.log())


def test_a_mixture_of_normals():
    x_0, centre = torch.tensor([0.4], dtype=DOUBLE), torch.tensor([[1.0, -2.0]], dtype=DOUBLE)
    v = torch.tensor([[0.5, 0.1]], dtype=DOUBLE)
    said = Mixture(torch.tensor([[0.0, math.log(3.0)]], dtype=DOUBLE), centre, v)
    law = 0.25 * stats.norm(1, math.sqrt(0.5)).pdf(0.4) + 0.75 * stats.norm(
        -2, math.sqrt(0.1)
    ).pdf(0.4)
    assert OU.error(said, x_0).item() == pytest.approx(-math.log(law), rel=1e-12)


# ------------------------------------------------------------------ draws of mixtures


@pytest.mark.parametrize("process", [OU, ANGLE], ids=["ou", "angle"])
def test_a_mixture_is_drawn_from(process, p_min):
    n, v = 40_000, (0.02, 0.3)
    parts = torch.tensor([-0.7, 0.5]).expand(n, 2), torch.tensor(v).expand(n, 2)
    said = Mixture(torch.tensor([0.0, math.log(4.0)]).expand(n, 2), *parts)
    x = process.endpoint(said, torch.zeros(n), 0.5, generator=rng(6)).double().numpy()
    turns = 3.0 * np.arange(-9, 10) if process is ANGLE else np.zeros(1)
    low = -1.5 if process is ANGLE else -np.inf

    def cdf(x):
        total = 0.0
        for weight, mean, variance in ((0.2, -0.7, v[0]), (0.8, 0.5, v[1])):
            law = stats.norm(mean, math.sqrt(variance))
            total = total + weight * (law.cdf(x[:, None] + turns) - law.cdf(low + turns)).sum(-1)
        return total

    assert stats.kstest(x, cdf).pvalue > p_min


def test_a_mixture_on_rotations_is_drawn_from(p_min):
    n = 20_000
    centres = exp(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 2.5]], dtype=DOUBLE))
    logits = torch.tensor([0.0, math.log(2.0)]).expand(n, 2)
    said = Mixture(logits, centres.expand(n, 2, 3, 3), torch.full((n, 2), 0.01))
    x = ROTATION.endpoint(said, centres[:1].expand(n, 3, 3), 0.5, generator=rng(7))
    near = log(x).norm(dim=-1) < 1.25
    assert stats.binomtest(int(near.sum()), n, 1 / 3).pvalue > p_min
    there = ROTATION.sample_forward(centres[1].expand(n, 3, 3), 0.01 / 0.9, generator=rng(8))
    both = [log(centres[1].mT @ y).norm(dim=-1).numpy() for y in (x[~near], there)]
    assert stats.ks_2samp(*both).pvalue > p_min


# ------------------------------------------------------------------ with everything else


def everything():
    process = Joint(pos=OU, angle=ANGLE, rot=ROTATION, seq=UniformDiscreteDiffusion(0.8, 5))
    parts = {"pos": OU, "angle": ANGLE, "rot": ROTATION}
    x_0 = {k: state(p)[0] for k, p in parts.items()} | {"seq": torch.arange(6) % 5}
    x_t = process.sample_forward(x_0, 0.6, generator=rng(2))
    said = {
        "pos": Velocity(tangent_of(OU, x_t["pos"])),
        "angle": Mixture(
            torch.zeros(6, 2, dtype=DOUBLE),
            torch.stack((x_0["angle"], -x_0["angle"]), -1),
            torch.full((6, 2), 0.1, dtype=DOUBLE),
        ),
        "rot": Noise(tangent_of(ROTATION, x_t["rot"])),
        "seq": torch.zeros(6, 5),
    }
    return process, x_0, x_t, said


def test_a_joint_takes_each_kind():
    process, x_0, x_t, said = everything()
    x_s, x_0_hat = process.sample_step(said, x_t, 0.3, 0.6, generator=rng(3))
    assert all(torch.isfinite(x[k]).all() for x in (x_s, x_0_hat) for k in x)
    loss = standardloss(process, 0.6, said, x_0, x_t=x_t)
    assert all(torch.isfinite(part) for part in loss.parts.values())
    continuous = Joint(pos=OU, rot=ROTATION)
    both = ({"pos": said["pos"], "rot": said["rot"]}, {"pos": x_t["pos"], "rot": x_t["rot"]})
    found = continuous.convert(both[0], {"pos": Score, "rot": Noise}, both[1], 0.6)
    assert (type(found["pos"]), type(found["rot"])) == (Score, Noise)


def test_off_a_mask_nothing_a_network_says_matters():
    process, x_0, x_t, said = everything()
    mask = torch.tensor([True, False, True, True, False, True])
    bad = {k: v for k, v in said.items() if k != "seq"}
    leaves = []
    for prediction in bad.values():
        for leaf in prediction.parts():
            leaf[~mask] = math.nan
            leaves.append(leaf.requires_grad_())
    masked = process.where(mask)
    x_s, x_0_hat = masked.sample_step(bad | {"seq": said["seq"]}, x_t, 0.3, 0.6, generator=rng(3))
    for x in (x_s, x_0_hat):
        assert all(torch.equal(x[k][~mask], x_t[k][~mask]) for k in x)
        assert all(torch.isfinite(x[k]).all() for k in x)
    standardloss(masked, 0.6, bad | {"seq": said["seq"]}, x_0, x_t=x_t).total.backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_self_conditioning_on_a_score():
    x_0, x_t = state(ROTATION)
    null = Score(torch.zeros(6, 3, dtype=DOUBLE))

    def model(x_t, t, previous):
        return Score(0.5 * previous.value + 0.1)

    previous = selfconditioning_estimate(model, x_t, 0.5, null, generator=rng(4))
    assert isinstance(previous, Score)
    assert set(previous.value.flatten().tolist()) == {0.0, 0.1}
    steps = list(trajectory(selfconditioned(model, null), ROTATION, [0.1, 0.3, 0.6], x_t))
    assert steps[-1].prediction.value[0, 0].item() == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("process", "said", "sentence"),
    [
        (ANGLE, Score(torch.zeros(2)), "shape of the state"),
        (OU, Noise(torch.zeros(2)), "shape of the state"),
        (ROTATION, Score(torch.zeros(6, 3, 3)), r"tangent vector of shape \(6, 3\)"),
        (ANGLE, Mixture(*[torch.zeros(6, 2)] * 2, torch.ones(6)), "Expected a mixture with"),
        (ROTATION, "x", "Expected a prediction for RotationDiffusion to be a tensor"),
    ],
)
def test_bad_predictions(process, said, sentence):
    _, x_t = state(process)
    with pytest.raises((TypeError, ValueError), match=sentence):
        process.sample_step(said, x_t, 0.2, 0.5)


def test_tokens_have_no_tangent_vectors():
    process = UniformDiscreteDiffusion(0.8, 5)
    with pytest.raises(NotImplementedError, match="tangent vectors"):
        process.convert(torch.zeros(3, 5), Score, torch.zeros(3, dtype=torch.int64), 0.5)

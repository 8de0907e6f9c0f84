"""Gradients on curved spaces, at coinciding ends above all: guards that are right for the value
may be wrong for the slope. Against central differences, with the noise held fixed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import normalize

from bridges import (
    RotationDiffusion,
    SphereDiffusion,
    UnitQuaternionDiffusion,
    WrappedBrownianDiffusion,
)
from bridges._draw import Draws, GivenDraws, StreamDraws
from bridges._s3_kernel import FULL
from bridges._s3_kernel import log_heat_kernel as quaternion_kernel
from bridges._so3 import sinc
from bridges._so3_draw import _straight
from bridges._so3_kernel import log_heat_kernel
from bridges.prediction import Noise, Score, Velocity
from bridges.process import Process

DOUBLE = torch.float64
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
GAPS = [0.0, 1e-17, 1e-9, 1e-6, 1e-3, 0.3, 1.4, 2.6]
EACH = 2
"""Rows at each gap."""


def hat(u):
    x, y, z = u.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*u.shape[:-1], 3, 3)


def turned(x, w):
    return x @ torch.matrix_exp(hat(w))


def lifted(q, w):
    """Move q along w/2; a change of coordinates beside exp, with the same slope at 0."""
    a, u, v = q[..., :1], q[..., 1:], w / 2
    scalar = -(u * v).sum(-1, keepdim=True)
    return normalize(q + torch.cat((scalar, a * v + torch.linalg.cross(u, v)), -1), dim=-1)


def tilted(x, w):
    """Move x by w in a frame of its own."""
    x_ = x.detach()
    across = torch.eye(3, dtype=x.dtype)[x_.abs().argmin(-1)]
    first = normalize(torch.linalg.cross(x_, across), dim=-1)
    second = torch.linalg.cross(x_, first)
    return normalize(x + w[..., :1] * first + w[..., 1:] * second, dim=-1)


@dataclass(frozen=True)
class Space:
    process: Process
    move: Callable
    size: int
    tangent: tuple[int, ...] = (3,)


SPACES = {
    "rotation": Space(RotationDiffusion(1.0), turned, 3),
    "quaternion": Space(UnitQuaternionDiffusion(1.0), lifted, 3),
    "sphere": Space(SphereDiffusion(1.0), tilted, 2),
    "angle": Space(WrappedBrownianDiffusion(1.0), lambda x, w: x + w[..., 0], 1, ()),
}
spaces = pytest.mark.parametrize("name", SPACES)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def ends(name, gaps=GAPS, dtype=DOUBLE):
    """Pairs of points, EACH at every gap. A `lifted` gap is longer; no matter how far."""
    space, n = SPACES[name], EACH * len(gaps)
    x_0 = space.process.sample_prior((n,), generator=rng(1), dtype=DOUBLE)
    way = normalize(torch.randn(n, space.size, generator=rng(2), dtype=DOUBLE), dim=-1)
    gap = torch.tensor(gaps, dtype=DOUBLE).repeat_interleave(EACH).unsqueeze(-1)
    x_t = torch.where(gap.reshape(-1, *[1] * (x_0.ndim - 1)) == 0, x_0, space.move(x_0, gap * way))
    return x_0.to(dtype), x_t.to(dtype)


class Rounded(Draws):
    """A stream per sample of float32 numbers, in any dtype."""

    def __init__(self, draws):
        self.draws = draws

    def normal(self, shape, dtype, device):
        return self.draws.normal(shape, torch.float32, device).to(dtype)

    def uniform(self, shape, dtype, device):
        return self.draws.uniform(shape, torch.float32, device).to(dtype)

    def fork(self, count):
        return Rounded(self.draws.fork(count))

    def rows(self, index):
        return Rounded(self.draws.rows(index))


def streams(n):
    return Rounded(StreamDraws(7, torch.arange(n)))


def check_slopes(f, n, size, step=1e-5):
    """Hold the gradient of f(ε), rows (n, …) of ε (n, size), against differences at ε = 0."""
    eps = torch.zeros(n, size, dtype=DOUBLE, requires_grad=True)
    value = f(eps).reshape(n, -1)
    weight = torch.randn(value.shape[-1], generator=rng(3), dtype=DOUBLE)
    (found,) = torch.autograd.grad((value * weight).sum(), eps)

    def difference(way, step):
        with torch.no_grad():
            change = f(step * way) - f(-step * way)
        return (change.reshape(n, -1) * weight).sum(-1) / (2 * step)

    def slope(way):
        return (4 * difference(way, step) - difference(way, 2 * step)) / 3

    ways = torch.eye(size, dtype=DOUBLE)
    expected = torch.stack([slope(way.expand(n, size)) for way in ways], -1)
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=3e-8)


def both(space, x_0, x_t, eps):
    return space.move(x_0, eps[..., : space.size]), space.move(x_t, eps[..., space.size :])


# ------------------------------------------------------------------ draws


@spaces
@pytest.mark.parametrize(
    ("s", "t"), [(0.01, 0.05), (0.4, 0.5), (0.6, 1.5), (1.5, 4.0), (3.0, 8.0), (1e-9, 1.0)]
)
@pytest.mark.parametrize("eta", [1.0, 0.5, 0.0])
def test_a_bridges_slope_in_both_ends(name, s, t, eta):
    space, (x_0, x_t) = SPACES[name], ends(name)

    def drawn(eps):
        start, end = both(space, x_0, x_t, eps)
        return space.process.sample_bridge(start, end, s, t, eta=eta, generator=streams(len(x_0)))

    check_slopes(drawn, len(x_0), 2 * space.size)


@spaces
def test_a_bridges_slope_at_times_per_example(name):
    space, (x_0, x_t) = SPACES[name], ends(name)
    t = torch.rand(len(x_0), generator=rng(4), dtype=DOUBLE).mul(3).exp() / 5
    s = t * torch.rand(len(x_0), generator=rng(5), dtype=DOUBLE)
    s[::5], s[1::5] = 0.0, t[1::5]

    def drawn(eps):
        start, end = both(space, x_0, x_t, eps)
        return space.process.sample_bridge(start, end, s, t, generator=streams(len(x_0)))

    check_slopes(drawn, len(x_0), 2 * space.size)


@spaces
@pytest.mark.parametrize("kind", [Score, Noise, Velocity])
@pytest.mark.parametrize("size", [0.0, 1e-9, 0.8])
def test_a_steps_slope_in_its_prediction_and_its_state(name, kind, size):
    space, (_, x_t) = SPACES[name], ends(name)
    value = torch.randn(len(x_t), *space.tangent, generator=rng(6), dtype=DOUBLE) * size

    def stepped(eps):
        moved = value + eps[..., space.size :].reshape(value.shape)
        state = space.move(x_t, eps[..., : space.size])
        steps = [
            space.process.sample_step(
                kind(moved), state, 0.4, 1.1, eta=eta, generator=streams(len(x_t))
            )
            for eta in (1.0, 0.0)
        ]
        return torch.stack([x for step in steps for x in step], 1)

    check_slopes(stepped, len(x_t), space.size + value[0].numel())


@spaces
@pytest.mark.parametrize("t", [0.05, 5.0])
def test_a_forward_draws_slope(name, t):
    space, (x_0, _) = SPACES[name], ends(name)

    def drawn(eps):
        state = space.move(x_0, eps)
        return space.process.sample_forward(state, t, generator=streams(len(x_0)))

    check_slopes(drawn, len(x_0), space.size)


@pytest.mark.parametrize("name", ["rotation", "quaternion", "angle"])
def test_a_bridge_without_noise_follows_its_ends(name):
    """Nothing is left to divide by where both the noise and the way are 0."""
    space, (x_0, _) = SPACES[name], ends(name, [0.0])

    def drawn(eps):
        zeros = [torch.zeros(2, *space.tangent, dtype=DOUBLE)]
        draws = GivenDraws(normals=zeros, uniforms=[torch.full((2,), 0.5, dtype=DOUBLE)] * 2)
        start, end = both(space, x_0, x_0, eps)
        return space.process.sample_bridge(start, end, 0.2, 0.5, generator=draws)

    check_slopes(drawn, 2, 2 * space.size)


@pytest.mark.parametrize("name", ["rotation", "quaternion", "sphere"])
@pytest.mark.parametrize("t", [0.05, 1.5, 4.0])
def test_float32_keeps_a_bridges_slope(name, t):
    space, given = SPACES[name], ends(name, [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.1], torch.float32)

    def slopes(dtype):
        x_0, x_t = (x.to(dtype).requires_grad_() for x in given)
        x_s = space.process.sample_bridge(x_0, x_t, 0.4 * t, t, generator=streams(len(x_0)))
        weight = torch.randn(x_s.shape, generator=rng(8)).to(dtype)
        return [g.double() for g in torch.autograd.grad((x_s * weight).sum(), (x_0, x_t))]

    for found, expected in zip(slopes(torch.float32), slopes(DOUBLE), strict=True):
        torch.testing.assert_close(found, expected, rtol=5e-4, atol=5e-4)


# ------------------------------------------------------------------ densities and errors


@spaces
@pytest.mark.parametrize("v", [0.05, 1.5, 2.9, 4.5, 8.0])
def test_the_slopes_of_densities_and_errors(name, v):
    space, (x_0, x_t) = SPACES[name], ends(name)
    process, still = space.process, torch.zeros(len(x_0), *space.tangent, dtype=DOUBLE)

    def measures(eps):
        start, end = both(space, x_0, x_t, eps)
        n = len(x_0)
        return torch.cat(
            [
                process.log_prob(end, start, v).reshape(n, -1),
                process.score(end, start, v).reshape(n, -1),
                process.error(end, start).reshape(n, -1),
                process.error(Score(still), start, x_t=end, t=v).reshape(n, -1),
                process.convert(start, to=Score, x_t=end, t=v).value.reshape(n, -1),
            ],
            -1,
        )

    check_slopes(measures, len(x_0), 2 * space.size)


TINY = [0.0, 1e-30, 1e-17, 1e-13, 1e-9, 1e-5, 1e-3, 0.02]


@pytest.mark.parametrize("v", [0.3, 1.5, 2.9, 3.1, 4.5, 6.0])
def test_the_heat_kernels_slope_next_to_0(v):
    """The angle is the leaf here, not a norm whose slope at 0 is 0 whatever follows."""
    v = torch.tensor(v, dtype=DOUBLE)
    for kernel in (
        lambda w: log_heat_kernel(w, v),
        lambda w: quaternion_kernel(w, FULL - w, v),
        lambda w: quaternion_kernel(w, FULL - w, v.expand(w.shape)),
    ):
        angle = torch.tensor(TINY, dtype=DOUBLE, requires_grad=True)
        log_density, by_angle = kernel(angle)
        (found,) = torch.autograd.grad(log_density.sum(), angle, retain_graph=True)
        torch.testing.assert_close(found, (by_angle * angle).detach(), rtol=1e-6, atol=1e-12)
        (bend,) = torch.autograd.grad(by_angle.sum(), angle)
        torch.testing.assert_close(bend[:5], torch.zeros(5, dtype=DOUBLE), rtol=0, atol=1e-8)


@DTYPES
def test_the_slope_of_sinc_keeps_its_digits(dtype):
    x = torch.tensor(
        [0.0, 1e-30, 1e-12, 1e-6, 3e-4, 1e-3, 2e-3, 5e-3, 0.0099, 0.0101, 0.3, 3.0, 9.0],
        dtype=dtype,
    )
    x.requires_grad_()
    value = sinc(x)
    value.sum().backward()
    y = x.detach().double()
    torch.testing.assert_close(value.double(), torch.sinc(y / math.pi), rtol=3e-7, atol=3e-7)
    exact = torch.where(y < 0.1, -y / 3 + y**3 / 30, (y.cos() - y.sin() / y) / y)
    tol = 2e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(x.grad.double(), exact, rtol=1e-6, atol=tol)


# ------------------------------------------------------------------ no slope, but finite


def opposite(name, dtype):
    """Points and the farthest from them, those on the axes too."""
    eye = torch.eye(4, dtype=dtype)
    if name == "rotation":
        x_0 = torch.eye(3, dtype=dtype).expand(4, 3, 3)
        way = normalize(torch.randn(3, generator=rng(9), dtype=DOUBLE), dim=0).to(dtype)
        ways = torch.stack([*eye[:3, :3], way])
        return x_0, 2 * ways.unsqueeze(-1) * ways.unsqueeze(-2) - eye[:3, :3]
    if name == "angle":
        x_0 = torch.tensor([0.0, 1.0, -1.0, 3.0], dtype=dtype)
        return x_0, x_0 + math.pi
    x_0 = torch.cat((eye, -eye))[:, : 4 if name == "quaternion" else 3]
    x_0 = x_0[x_0.norm(dim=-1) > 0]
    return x_0, -x_0


@spaces
@DTYPES
@pytest.mark.parametrize("v", [1e-9, 1e-3, 0.6, 2.9, 5.5, 1e3])
def test_slopes_are_finite_at_opposite_ends(name, dtype, v):
    process = SPACES[name].process
    for times in (v, torch.tensor(v, dtype=DOUBLE)[None]):
        for share, eta in ((0.0, 1.0), (1e-9, 1.0), (0.3, 1.0), (0.7, 0.5), (0.3, 0.0)):
            x_0, x_t = (x.clone().requires_grad_() for x in opposite(name, dtype))
            t = times if isinstance(times, float) else times.expand(len(x_0))
            x_s = process.sample_bridge(
                x_0, x_t, share * t, t, eta=eta, generator=streams(len(x_0))
            )
            parts = [x_s, process.score(x_t, x_0, t), process.log_prob(x_t, x_0, t)]
            total = sum(part.sum() for part in parts) + process.error(x_t, x_0).sum()
            grads = torch.autograd.grad(total, (x_0, x_t))
            assert all(g.isfinite().all() for g in (total, *grads))


def test_refused_proposals_leave_slopes_finite():
    """A straight proposal whose triangle does not close on S³ has no axis."""
    target = torch.tensor([[FULL - 0.1, 0.0, 0.0]], dtype=DOUBLE, requires_grad=True)
    length = target.norm(dim=-1)
    noise = torch.tensor([[0.0, 3.0, 0.0]], dtype=DOUBLE)
    a = torch.tensor(1.0, dtype=DOUBLE)
    q, _, _, fits = _straight(target, length, a, a, noise)
    assert not fits.any()
    assert torch.autograd.grad(q.sum(), target)[0].isfinite().all()

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_simpson

from bridges import RotationDiffusion
from bridges._draw import Draws, GeneratorDraws

P_MIN = 1e-4
MANY = 200_000
VARIANCES = [1e-6, 1e-3, 0.1, 1.0, 2.9, 3.1, 10.0, 1e3]
PAIRS = [
    (1e-6, 1e-6),
    (0.01, 2.5),
    (0.2, 0.3),
    (1.0, 1.0),
    (2.0, 0.9),
    (2.9, 2.9),
    (3.5, 0.1),
    (50.0, 50.0),
]
UNIT = RotationDiffusion(1.0)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


class Budget(Draws):
    """Draws that give out: a rejection that cannot end fails at once instead of stalling."""

    def __init__(self, seed, calls=500):
        self.left, self.source = calls, GeneratorDraws(rng(seed))

    def normal(self, shape, dtype, device):
        self.left -= 1
        assert self.left >= 0, "a rejection sampler goes on and on"
        return self.source.normal(shape, dtype, device)

    def uniform(self, shape, dtype, device):
        return self.source.uniform(shape, dtype, device)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def kernel(w, v):
    """f(ω; v) in numpy, written apart from the library: the images below 2, the series above."""
    w = np.maximum(np.asarray(w, dtype=np.longdouble), 1e-9)
    if v < 2:
        k = np.arange(-4, 5)[:, None]
        y = w.reshape(1, -1) + 2 * np.pi * k
        total = ((-1.0) ** k * y * np.exp(-(y**2) / (2 * v))).sum(0).reshape(w.shape)
        return total * np.exp(v / 8) * np.sqrt(2 * np.pi) * v**-1.5 / np.sin(w / 2)
    order = np.arange(12)[:, None]
    waves = np.sin((order + 0.5) * w.reshape(1, -1)) * (2 * order + 1)
    return (waves * np.exp(-order * (order + 1) * v / 2)).sum(0).reshape(w.shape) / np.sin(w / 2)


def angle_cdf(v):
    """Return the CDF of the kernel's angle: its series, or the integral if v is small."""
    grid = np.linspace(0, min(math.pi, 14 * math.sqrt(v)), 20_001)
    if v < 0.3:
        values = cumulative_simpson(
            (1 - np.cos(grid)) / np.pi * kernel(grid, v), x=grid, initial=0
        )
        assert abs(values[-1] - 1) < 1e-6
    else:
        values = (grid - np.sin(grid)) / np.pi
        for order in range(1, 30):
            term = np.sin(order * grid) / order - np.sin((order + 1) * grid) / (order + 1)
            weight = (2 * order + 1) * math.exp(-order * (order + 1) * v / 2)
            values = values + weight * term / np.pi
    return lambda w: np.interp(w, grid, values.astype(float))


def vee(rot):
    """Return sin ω · n, from the antisymmetric part."""
    rot = rot.double()
    return 0.5 * torch.stack(
        [
            rot[..., 2, 1] - rot[..., 1, 2],
            rot[..., 0, 2] - rot[..., 2, 0],
            rot[..., 1, 0] - rot[..., 0, 1],
        ],
        -1,
    )


def angle(rot):
    cos = (rot.double().diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return torch.atan2(vee(rot).norm(dim=-1), cos)


def ks(rot, v):
    return stats.kstest(angle(rot).numpy(), angle_cdf(v)).pvalue


def about(axis, w, dtype=torch.float64):
    axis = torch.as_tensor(axis, dtype=torch.float64)
    return torch.matrix_exp(hat(w * axis / axis.norm())).to(dtype)


def hat(u):
    x, y, z = u.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*u.shape[:-1], 3, 3)


def uniform(n, seed, dtype=torch.float64):
    return UNIT.sample_prior((n,), generator=rng(seed), dtype=dtype)


def off_orthonormal(rot):
    rot = rot.double()
    return (rot.mT @ rot - torch.eye(3, dtype=torch.float64)).abs().max().item()


# ------------------------------------------------------------------ laws of the draws


@DTYPES
@pytest.mark.parametrize("v", VARIANCES)
def test_forward_has_the_kernels_angle(v, dtype):
    x_0 = uniform(1, 1, dtype).expand(MANY, 3, 3)
    x_t = RotationDiffusion(2.0).sample_forward(x_0, 0.75 * v, start=0.25 * v, generator=rng(2))
    step = x_0.mT @ x_t
    assert x_t.dtype == dtype
    assert ks(step, v) > P_MIN
    # The axis is uniform: each of its components is, on [−1, 1].
    axis = torch.nn.functional.normalize(vee(step), dim=-1)
    for component in axis.unbind(-1):
        assert stats.kstest(component.numpy(), stats.uniform(-1, 2).cdf).pvalue > P_MIN


@DTYPES
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_bridge_splits_the_way_into_two_kernels(a, b, dtype):
    x_0 = uniform(MANY, 3, dtype)
    x_t = UNIT.sample_forward(x_0, a + b, generator=rng(4))
    x_s = UNIT.sample_bridge(x_0, x_t, a, a + b, generator=rng(5))
    assert x_s.dtype == dtype
    first, second = x_0.mT @ x_s, x_s.mT @ x_t
    assert ks(first, a) > P_MIN
    assert ks(second, b) > P_MIN
    # The two steps are independent, in length and, in the frame of x_s, in direction.
    lengths = torch.stack([angle(first), angle(second)])
    assert abs(torch.corrcoef(lengths)[0, 1].item()) * math.sqrt(MANY) < 4
    along = (vee(first) * vee(second)).sum(-1)
    assert abs(along.mean() / along.std()) * math.sqrt(MANY) < 4


@pytest.mark.parametrize("theta", [0.0, 0.3, 0.99, 1.01, 1.5, 2.5, 3.1, math.pi])
@pytest.mark.parametrize(("a", "b"), [(0.2, 0.4), (0.4, 1.5), (1.4, 1.1), (2.9, 2.8), (0.8, 3.4)])
def test_bridge_between_fixed_ends(theta, a, b):
    """Compare with a quadrature over the angle r of R and the slope c of its axis against D's."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r, c = np.meshgrid(math.pi * (nodes + 1) / 2, nodes, indexing="ij")
    half = np.cos(r / 2) * math.cos(theta / 2) + np.sin(r / 2) * math.sin(theta / 2) * c
    rho = 2 * np.arccos(np.clip(np.abs(half), 0, 1))
    mass = np.outer(weights, weights) * (1 - np.cos(r)) * kernel(r, a) * kernel(rho, b)
    mass = (mass / mass.sum()).astype(float)

    n, axis = 50_000, torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    x_0 = uniform(1, 6).expand(n, 3, 3)
    x_t = x_0 @ about(axis, theta)
    rot = x_0.mT @ UNIT.sample_bridge(x_0, x_t, a, a + b, generator=rng(7))
    along = vee(rot) @ (axis / axis.norm())
    cos_r, cos_rho = angle(rot).cos(), angle(rot.mT @ about(axis, theta)).cos()
    found = [cos_r, cos_rho, along, cos_r**2, cos_rho**2, cos_r * cos_rho, along**2, along * cos_r]
    cos, cosine, sin = np.cos(r), np.cos(rho), np.sin(r) * c
    exact = [cos, cosine, sin, cos**2, cosine**2, cos * cosine, sin**2, sin * cos]
    for drawn, moment in zip(found, exact, strict=True):
        assert abs(drawn.mean().item() - (mass * moment).sum()) < 4.5 * drawn.std() / math.sqrt(n)


def test_times_per_example_have_the_law_of_numbers():
    per = 25_000
    a, b = (
        torch.tensor(v, dtype=torch.float64).repeat_interleave(per)
        for v in zip(*PAIRS, strict=True)
    )
    x_0 = uniform(len(a), 8)
    x_t = UNIT.sample_forward(x_0, a + b, generator=rng(9))
    x_s = UNIT.sample_bridge(x_0, x_t, a, a + b, generator=rng(10))
    ways = [(x_0.mT @ x_t).split(per), (x_0.mT @ x_s).split(per), (x_s.mT @ x_t).split(per)]
    for (v_a, v_b), whole, first, second in zip(PAIRS, *ways, strict=True):
        assert ks(whole, v_a + v_b) > P_MIN
        assert ks(first, v_a) > P_MIN
        assert ks(second, v_b) > P_MIN


def test_rate_against_diffusions_jl():
    """There a step is exp(quat(0, σz)), a turn by 2σ|z| with σ² = rt: our rate is 4r."""
    sigma = math.sqrt(1e-5 * 0.7)
    x_t = RotationDiffusion(4 * 1e-5).sample_forward(
        torch.eye(3, dtype=torch.float64).expand(MANY, 3, 3), 0.7, generator=rng(11)
    )
    assert stats.kstest(angle(x_t).numpy(), stats.maxwell(scale=2 * sigma).cdf).pvalue > P_MIN


def test_eta_zero_is_the_geodesic_point():
    x_0 = uniform(5, 12)
    x_t = x_0 @ about([1.0, 2.0, 3.0], 1.2)
    x_s = UNIT.sample_bridge(x_0, x_t, 0.36, 1.0, eta=0.0, generator=Budget(13, calls=0))
    torch.testing.assert_close(x_s, x_0 @ about([1.0, 2.0, 3.0], 0.6 * 1.2))


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_eta_keeps_the_marginal_at_small_noise(eta):
    x_0 = uniform(50_000, 14)
    x_t = UNIT.sample_forward(x_0, 0.01, generator=rng(15))
    x_s = UNIT.sample_bridge(x_0, x_t, 0.004, 0.01, eta=eta, generator=rng(16))
    assert ks(x_0.mT @ x_s, 0.004) > P_MIN


# ------------------------------------------------------------------ degenerate input


@DTYPES
@pytest.mark.parametrize("v", [1e-8, 1e-5, 1e-2, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("turn", [0.0, 1e-7, 1.0, math.pi])
def test_bridge_lies_on_the_space(v, turn, dtype):
    x_0 = uniform(64, 17, dtype)
    x_0 = x_0 + 3e-7 * torch.randn(64, 3, 3, generator=rng(18), dtype=dtype)
    x_t = x_0 @ about([1.0, -1.0, 0.3], turn, dtype)
    for s, t in [(0.3 * v, v), (torch.full((64,), 0.3 * v), torch.full((64,), v))]:
        x_s = UNIT.sample_bridge(x_0, x_t, s, t, generator=Budget(19))
        assert off_orthonormal(x_s) < 1e-5
        assert (torch.linalg.det(x_s) > 0).all()
        assert off_orthonormal(UNIT.sample_forward(x_0, t, generator=Budget(20))) < 1e-5


@pytest.mark.parametrize(
    ("s", "t"),
    [
        (0.0, 1.0),
        (1.0, 1.0),
        (0.0, 0.0),
        (0.0, [0.5, 1.0, 2.0, 4.0]),
        ([0.0, 0.1, 0.2, 5.0], [0.5, 0.1, 0.2, 9.0]),
        ([0.0, 0.0, 0.2, 0.0], [0.0, 0.0, 0.2, 1.0]),
    ],
)
def test_ends_are_pinned_bit_for_bit(s, t):
    s, t = (torch.tensor(v) if isinstance(v, list) else v for v in (s, t))
    x_0, x_t = uniform(4, 21), uniform(4, 22)
    x_s = UNIT.sample_bridge(x_0, x_t, s, t, generator=Budget(23))
    s, t = torch.as_tensor(s).expand(4), torch.as_tensor(t).expand(4)
    assert torch.equal(x_s[(s == 0) & (s < t)], x_0[(s == 0) & (s < t)])
    assert torch.equal(x_s[s == t], x_t[s == t])


@pytest.mark.parametrize("eta", [1e-9, 1e-8, 1e-6, 1e-3])
def test_tiny_eta_is_nearly_deterministic(eta):
    x_0, draws = uniform(8, 24), Budget(25, calls=2000)
    x_t = x_0 @ about([1.0, 2.0, 3.0], 0.9)
    for s, t in torch.rand(50, 2, generator=rng(26), dtype=torch.float64).sort(-1).values.tolist():
        x_s = UNIT.sample_bridge(x_0, x_t, s, t, eta=eta, generator=draws)
        straight = UNIT.sample_bridge(x_0, x_t, s, t, eta=0.0)
        assert (x_s - straight).abs().max() < 10 * eta + 1e-7


# ------------------------------------------------------------------ score and gradients


@pytest.mark.parametrize("v", [0.01, 0.3, 2.0, 2.9, 3.1, 10.0])
def test_score_is_the_slope_of_log_prob(v):
    x_0 = uniform(1, 27).expand(6, 3, 3)
    x_t = x_0 @ torch.stack(
        [about([1.0, -2.0, 0.4], w) for w in (0.0, 1e-4, 0.3, 1.5, 3.0, 3.141)]
    )
    for t in (v, torch.full((6,), v, dtype=torch.float64)):
        shift = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
        UNIT.log_prob(x_t @ torch.matrix_exp(hat(shift)), x_0, t).sum().backward()
        torch.testing.assert_close(UNIT.score(x_t, x_0, t), shift.grad, rtol=1e-6, atol=1e-6)


@DTYPES
@pytest.mark.parametrize("v", [1e-6, 0.1, 2.0, 5.0])
def test_gradients_are_finite_at_every_angle(v, dtype):
    x_0 = torch.eye(3, dtype=dtype).expand(4, 3, 3)
    turns = torch.stack([about([1.0, 0.0, 0.0], w, dtype) for w in (0.0, 1e-4, 3.0, math.pi)])
    turns[-1] = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=dtype))
    for f in (UNIT.error, lambda x, y: UNIT.log_prob(x, y, v)):
        x_t = turns.clone().requires_grad_()
        value = f(x_t, x_0)
        value.sum().backward()
        assert value.isfinite().all()
        assert x_t.grad.isfinite().all()
    expected = torch.tensor([0.0, 1e-8, 9.0, math.pi**2], dtype=dtype)
    torch.testing.assert_close(UNIT.error(turns, x_0), expected, rtol=1e-3, atol=1e-9)

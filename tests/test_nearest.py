"""The nearest rotation against SciPy's SVD and roma, and its slope at every kind of matrix."""

import math

import pytest
import roma
import torch

from bridges import RotationDiffusion, _nearest, _so3
from bridges._nearest import nearest

DOUBLE = torch.float64
EYE = torch.eye(3, dtype=DOUBLE)
UNIQUE = [(1.0, 1.0, 1.0), (2.0, 1.0, 0.3), (2.0, 1.0, -0.3), (1.0, 0.5, -0.4), (1.0, 1.0, 0.0)]
MANY = [
    (1.0, 1.0, -1.0),
    (-1.0, -1.0, -1.0),
    (3.0, 1.0, -1.0),
    (1.0, 0.0, 0.0),
    (-1.0, 0.0, 0.0),
    (1.0, 1e-6, -1e-6),
    (1e8, 1.0, -1.0),
    (3.0, 1.0, -1.0 + 1e-6),
    (3.0, 1.0, -1.0 + 1e-10),
]


def rotations(n, seed):
    g = torch.Generator().manual_seed(seed)
    return _so3.exp(3 * torch.randn(n, 3, generator=g, dtype=DOUBLE))


def matrices(values, n=400):
    """Return matrices with these singular values; the last has the sign of the determinant."""
    values = torch.tensor(values, dtype=DOUBLE)
    return rotations(n, 3) @ values.diag() @ rotations(n, 4).mT


def largest_trace(m):
    """The trace of RᵀM at the nearest R: the sum of the singular values, the last one signed."""
    values = torch.linalg.svdvals(m)
    return values[:, 0] + values[:, 1] + torch.linalg.det(m).sign() * values[:, 2]


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e-35, 1e30])
@pytest.mark.parametrize("values", [*UNIQUE, *MANY])
def test_it_is_a_rotation_and_nearest(values, scale):
    m = matrices(values)
    rot = nearest(scale * m)
    torch.testing.assert_close(rot.mT @ rot, EYE.expand_as(rot), rtol=0, atol=1e-13)
    assert (torch.linalg.det(rot) > 0).all()
    size = torch.linalg.matrix_norm(m, 2)
    miss = (largest_trace(m) - (rot * m).sum((-2, -1))) / size
    assert miss.abs().max() < 2e-8
    if values in UNIQUE:
        torch.testing.assert_close(rot, roma.special_procrustes(m), rtol=0, atol=1e-12)


def test_random_matrices_and_zero():
    m = torch.randn(5000, 3, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    torch.testing.assert_close(nearest(m), roma.special_procrustes(m), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        nearest(m.float()), roma.special_procrustes(m).float(), rtol=0, atol=1e-3
    )
    assert torch.equal(nearest(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))
    assert nearest(torch.full((3, 3), math.nan)).isnan().all()
    assert nearest(torch.zeros(0, 3, 3)).shape == (0, 3, 3)


@pytest.mark.parametrize("values", UNIQUE)
def test_slopes_and_second_slopes_against_differences(values):
    m = matrices(values, n=3).requires_grad_()
    torch.autograd.gradcheck(nearest, (m,))
    torch.autograd.gradgradcheck(nearest, (m,))
    g = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    _, along = torch.func.jvp(nearest, (m.detach(),), (g,))
    (back,) = torch.autograd.grad(nearest(m), m, along)
    torch.testing.assert_close((back * g).sum(), along.square().sum())


def test_slopes_at_rotations():
    """Whose singular values are all one, exactly or to rounding."""
    m = torch.cat((EYE[None], 3.0 * EYE[[1, 2, 0]][None], rotations(2000, 6))).requires_grad_()
    g = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    (slope,) = torch.autograd.grad((nearest(m) * g).sum(), m)
    found = m.detach()
    scale = torch.linalg.matrix_norm(found, 2)[:, None, None]
    inside = (found / scale).mT @ g
    right = found / scale @ (inside - inside.mT) / (2 * scale)
    torch.testing.assert_close(slope, right, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16])
@pytest.mark.parametrize("values", [*UNIQUE, *MANY])
def test_slopes_are_finite_and_small_at_every_matrix(values, dtype):
    m = matrices(values).to(dtype).requires_grad_()
    weight = torch.arange(9.0).reshape(3, 3)
    (slope,) = torch.autograd.grad((nearest(m) * weight).sum(), m)
    assert slope.isfinite().all()
    assert (slope * m.detach().abs().amax()).abs().max() < 1e6


@pytest.mark.parametrize(
    "m",
    [
        torch.zeros(3, 3),
        -torch.eye(3),
        torch.diag(torch.tensor([1.0, 1.0, -1.0])),
        torch.diag(torch.tensor([0.0, 0.0, 2.0])),
        1e-40 * torch.eye(3),
        torch.full((3, 3), 0.3),
        torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
)
def test_slopes_at_single_matrices(m):
    m = m.clone().requires_grad_()
    (slope,) = torch.autograd.grad((nearest(m) * torch.arange(9.0).reshape(3, 3)).sum(), m)
    assert slope.isfinite().all()
    if m.detach().abs().max() < 1e-30:
        assert not slope.any()


def test_the_way_of_a_device_is_the_same(monkeypatch):
    m = torch.cat([matrices(values, n=20) for values in (*UNIQUE, *MANY)])
    looked = nearest(m)
    monkeypatch.setattr(_nearest, "may_look", lambda x: False)
    torch.testing.assert_close(nearest(m), looked, rtol=0, atol=1e-12)


# ------------------------------------------------------------------ error and endpoint


def test_the_error_is_the_squared_angle_from_the_nearest_rotation():
    """A head that starts at 0 says the identity, and half a rotation says that rotation."""
    process, x_0 = RotationDiffusion(1.0), rotations(50, 7)
    angle = torch.acos(((x_0.diagonal(dim1=-2, dim2=-1).sum(-1)) - 1).div(2).clamp(-1, 1))
    torch.testing.assert_close(process.error(0 * x_0, x_0), angle**2, rtol=0, atol=1e-7)
    other = rotations(50, 8)
    for scale in (0.5, 1.0, 3.0):
        error = process.error(scale * other, x_0)
        torch.testing.assert_close(error, process.error(other, x_0), rtol=0, atol=1e-9)
    for said in (torch.randn(50, 3, 3, dtype=DOUBLE), -other):
        point = process.endpoint(said, x_0, 1.0)
        angle = roma.rotmat_geodesic_distance(point, x_0)
        torch.testing.assert_close(process.error(said, x_0), angle**2, rtol=0, atol=1e-6)


def test_the_slope_of_an_error_is_finite_everywhere():
    process, x_0 = RotationDiffusion(1.0), rotations(4, 9).float()
    turn = _so3.exp(torch.tensor([math.pi, 0.0, 0.0]))
    for said in (0 * x_0, -x_0, x_0, x_0 @ turn, 0.5 * x_0, x_0 - x_0.mT):
        said = said.clone().requires_grad_()
        (slope,) = torch.autograd.grad(process.error(said, x_0).sum(), said)
        assert slope.isfinite().all()
        (slope,) = torch.autograd.grad(process.endpoint(said, x_0, 1.0).sum(), said)
        assert slope.isfinite().all()

"""The maps between matrices, quaternions and (b, c, d), against SciPy, RoMa and closed forms."""

import math
import re

import pytest
import roma
import torch
from scipy.spatial.transform import Rotation

from bridges import RotationDiffusion, standardloss
from bridges.convert import bcd_to_quat, bcd_to_rotmat, quat_to_rotmat, rotmat_to_quat

DOUBLE = torch.float64
ANGLES = [0.0, 1e-9, 1e-4, 0.3, 2.0, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]
IDENTITY = torch.tensor([1.0, 0.0, 0.0, 0.0])
MAPS = {
    rotmat_to_quat: ("rot", "(…, 3, 3)", torch.eye(3)),
    quat_to_rotmat: ("quat", "(…, 4)", IDENTITY),
    bcd_to_quat: ("bcd", "(…, 3)", torch.zeros(3)),
    bcd_to_rotmat: ("bcd", "(…, 3)", torch.zeros(3)),
}
maps = pytest.mark.parametrize("f", MAPS, ids=lambda f: f.__name__)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def normals(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=rng(seed))


def rotations(angle, n=100):
    """Return turns by an angle about n random axes and the six along the coordinates."""
    axes = torch.nn.functional.normalize(normals(n, 3), dim=-1)
    eye = torch.eye(3, dtype=DOUBLE)
    return Rotation.from_rotvec((angle * torch.cat([axes, eye, -eye])).numpy())


def close(a, b, tol=1e-14):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=tol)


# ------------------------------------------------------------------ values


@pytest.mark.parametrize("angle", ANGLES)
def test_rotmat_to_quat_against_scipy(angle):
    scipy = rotations(angle)
    q = rotmat_to_quat(torch.as_tensor(scipy.as_matrix()))
    expected = torch.as_tensor(scipy.as_quat(canonical=True, scalar_first=True))
    assert (q[..., 0] >= 0).all()
    close(q.norm(dim=-1), torch.ones(len(q), dtype=DOUBLE))
    if angle < math.pi:
        close(q, expected)
    close((q * expected).sum(-1).abs(), torch.ones(len(q), dtype=DOUBLE))


@pytest.mark.parametrize("angle", ANGLES)
def test_quat_to_rotmat_against_scipy(angle):
    scipy = rotations(angle)
    q = torch.as_tensor(scipy.as_quat(scalar_first=True))
    close(quat_to_rotmat(q), scipy.as_matrix())


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 0.3, 7.0, 1e160, 1e300])
@pytest.mark.parametrize("sign", [1, -1])
def test_length_and_sign_of_a_quaternion_do_not_matter(factor, sign):
    q = normals(50, 4, seed=1)
    scipy = Rotation.from_quat(q.numpy(), scalar_first=True).as_matrix()
    close(quat_to_rotmat(sign * factor * q), scipy)


def test_one_quaternion_by_hand():
    """A quarter turn about z takes x to y; the scalar stands first."""
    half = math.sqrt(0.5)
    rot = quat_to_rotmat(torch.tensor([half, 0.0, 0.0, half], dtype=DOUBLE))
    close(rot @ torch.tensor([1.0, 0.0, 0.0], dtype=DOUBLE), [0.0, 1.0, 0.0])
    close(rotmat_to_quat(rot), [half, 0.0, 0.0, half])


def test_no_direction_is_the_identity():
    quat = torch.zeros(2, 4).requires_grad_()
    close(quat_to_rotmat(quat), torch.eye(3).expand(2, 3, 3))
    quat_to_rotmat(quat).square().sum().backward()
    assert not quat.grad.any()


def test_nan_stays_where_it_is():
    quat = normals(3, 4, seed=2)
    quat[1, 2] = math.nan
    assert quat_to_rotmat(quat).isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("length", [0.0, 1e-8, 0.02, 1.0, 30.0, 1e9])
def test_bcd_is_the_axis_times_the_tangent_of_half_the_angle(length):
    axis = torch.nn.functional.normalize(normals(100, 3, seed=3), dim=-1)
    scipy = Rotation.from_rotvec((2 * math.atan(length) * axis).numpy())
    close(bcd_to_rotmat(length * axis), scipy.as_matrix())
    close(bcd_to_quat(length * axis), scipy.as_quat(canonical=True, scalar_first=True))


def test_bcd_is_diffusions_jl():
    bcd = normals(4, 5, 3, seed=4)
    b, c, d = bcd.unbind(-1)
    q = torch.stack((torch.ones_like(b), b, c, d), -1) / (1 + b**2 + c**2 + d**2).sqrt()[..., None]
    close(bcd_to_quat(bcd), q)
    close(bcd_to_rotmat(bcd), quat_to_rotmat(q))


@pytest.mark.parametrize("value", [1e30, -1e38])
def test_huge_bcd_in_float32_are_half_turns(value):
    bcd = torch.tensor([0.0, value, 0.0])
    close(bcd_to_rotmat(bcd), torch.diag(torch.tensor([-1.0, 1.0, -1.0])), 1e-6)


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (DOUBLE, 1e-14)])
def test_there_and_back(angle, dtype, tol):
    rot = torch.as_tensor(rotations(angle).as_matrix()).to(dtype)
    close(quat_to_rotmat(rotmat_to_quat(rot)), rot, tol)


def test_small_turns_keep_their_digits_in_float32():
    bcd = 1e-6 * normals(100, 3, seed=5).float()
    found = rotmat_to_quat(bcd_to_rotmat(bcd))[:, 1:]
    torch.testing.assert_close(found, bcd, rtol=1e-6, atol=1e-13)


def test_roma_puts_the_scalar_last():
    q = torch.nn.functional.normalize(normals(20, 4, seed=6), dim=-1)
    close(quat_to_rotmat(q), roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(q)))


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("angle", ANGLES)
def test_gradients_are_finite_at_every_angle(angle):
    scipy = rotations(angle, n=10)
    weight = torch.tensor([0.7, -1.1, 0.4, 2.0], dtype=DOUBLE)
    rot = torch.as_tensor(scipy.as_matrix()).requires_grad_()
    (rotmat_to_quat(rot) * weight).sum().backward()
    quat = torch.as_tensor(scipy.as_quat(scalar_first=True)).requires_grad_()
    (quat_to_rotmat(quat) * torch.outer(weight, weight)[:3, 1:]).sum().backward()
    assert rot.grad.isfinite().all()
    assert quat.grad.isfinite().all()


@pytest.mark.parametrize("angle", ANGLES[:-2])
def test_the_gradient_of_rotmat_to_quat_in_closed_form(angle):
    """Along R exp(ε) the quaternion moves by q (0, ε/2)."""
    scipy = rotations(angle, n=10)
    rot, q = torch.as_tensor(scipy.as_matrix()), rotmat_to_quat(torch.as_tensor(scipy.as_matrix()))
    a, b, c = eps = torch.tensor([0.3, -1.2, 0.5], dtype=DOUBLE)
    cross = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]], dtype=DOUBLE)
    _, moved = torch.autograd.functional.jvp(rotmat_to_quat, rot, rot @ cross)
    w, v = q[:, :1], q[:, 1:]
    vector = w * eps + torch.linalg.cross(v, eps.expand_as(v))
    close(moved, 0.5 * torch.cat((-(v * eps).sum(-1, keepdim=True), vector), -1), 1e-13)


@pytest.mark.parametrize("f", [quat_to_rotmat, bcd_to_quat, bcd_to_rotmat])
def test_gradients_against_differences(f):
    x = normals(3, *MAPS[f][2].shape, seed=7).requires_grad_()
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradcheck(f, (100 * x).detach().requires_grad_())


def test_gradients_at_bcd_zero():
    jacobian = torch.func.jacrev(bcd_to_quat)(torch.zeros(3, dtype=DOUBLE))
    close(jacobian, torch.cat((torch.zeros(1, 3), torch.eye(3))).double())


def test_the_gradient_does_not_point_along_the_length():
    quat = normals(20, 4, seed=8).requires_grad_()
    (quat_to_rotmat(quat) * normals(3, 3, seed=9)).sum().backward()
    close((quat * quat.grad).sum(-1), torch.zeros(20, dtype=DOUBLE), 1e-13)


def test_a_network_that_says_bcd_learns():
    process, x_0 = RotationDiffusion(1.0), torch.as_tensor(rotations(2.0, n=4).as_matrix())
    bcd = torch.zeros(len(x_0), 3, dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.Adam([bcd], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss = standardloss(process, 0.5, bcd_to_rotmat(bcd), x_0).total
        loss.backward()
        optimizer.step()
    assert loss < 1e-3


# ------------------------------------------------------------------ shapes and refusals


@maps
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, DOUBLE])
def test_batch_dtype_and_device_come_out(f, batch, dtype, device):
    point = MAPS[f][2].to(device, dtype)
    out = f(point.expand(*batch, *point.shape))
    expected = torch.eye(3) if f in (quat_to_rotmat, bcd_to_rotmat) else IDENTITY
    assert out.dtype == dtype
    assert out.device == point.device
    close(out.cpu().float(), expected.expand(*batch, *expected.shape))


@maps
def test_what_is_refused(f):
    name, shape, point = MAPS[f]
    for x, got in ((point.long(), "a int64 tensor"), (None, "None"), (True, "True")):
        with pytest.raises(
            TypeError, match=f"^Expected {name} to be a floating tensor; got {got}"
        ):
            f(x)
    for x in (torch.zeros(2), torch.zeros(()), point[..., :-1]):
        words = f"Expected {name} to have shape {shape}; got {tuple(x.shape)}."
        with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
            f(x)

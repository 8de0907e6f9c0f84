"""The maps of structured noise against dense matrices."""

import math

import numpy as np
import pytest
import torch

from bridges.correlated_noise import CovarianceFactor, SymmetricNoise
from bridges.linear_noise import ZeroCentreOfMass
from gaussian_cases import MASS, NOISES, PADDED

DOUBLE = torch.float64
CPU = torch.device("cpu")
BY_NAME = pytest.mark.parametrize("name", NOISES)
BATCH_MASK = torch.tensor([[True, True, False, True], [False, True, True, True], [False] * 4])


def matrix(noise, f):
    """Return a linear map of points as a matrix on flattened points."""
    k = math.prod(noise.point_shape)
    basis = torch.eye(k, dtype=DOUBLE).reshape(k, *noise.point_shape)
    return f(basis).reshape(k, k).T.numpy()


def check_maps(noise, a):
    covariance = a @ a.T
    own = matrix(noise, noise)
    np.testing.assert_allclose(own @ own.T, covariance, atol=1e-12)
    np.testing.assert_allclose(matrix(noise, noise.covariance) @ a, covariance @ a, atol=1e-12)
    inverse = np.linalg.pinv(covariance, rcond=1e-10)
    np.testing.assert_allclose(matrix(noise, noise.precision) @ a, inverse @ a, atol=1e-10)
    project = matrix(noise, noise.project)
    np.testing.assert_allclose(project @ a, a, atol=1e-12)
    np.testing.assert_allclose(covariance @ inverse @ project, project, atol=1e-10)


def check_sizes(noise, a):
    values = np.linalg.eigvalsh(a @ a.T)
    values = values[values > 1e-10]
    assert noise.rank(CPU).item() == len(values)
    assert noise.trace(CPU).item() == pytest.approx(values.sum())
    assert noise.log_det(CPU).item() == pytest.approx(np.log(values).sum(), abs=1e-12)


@BY_NAME
def test_maps_are_those_of_the_matrix(name):
    check_maps(*NOISES[name])
    check_sizes(*NOISES[name])


class Flat(ZeroCentreOfMass):
    """A symmetric precision, as for equal masses: the projection itself."""

    def precision(self, y):
        return self(y)


class Doubled(ZeroCentreOfMass):
    """A A in place of A Aᵀ."""

    def covariance(self, y):
        return self(self(y))


@pytest.mark.parametrize("twin", [Flat, Doubled])
def test_maps_for_equal_masses_are_refused_for_others(twin):
    check_maps(twin(4, 3), NOISES["equal atoms"][1])
    with pytest.raises(AssertionError):
        check_maps(twin(4, 2, weight=MASS), NOISES["masses"][1])


class Tight(ZeroCentreOfMass):
    """A density in coordinates that drop an atom would have another determinant."""

    def log_det(self, device):
        return super().log_det(device) - math.log(self.n)


def test_another_measure_is_refused():
    with pytest.raises(AssertionError):
        check_sizes(Tight(4, 3), NOISES["equal atoms"][1])


@BY_NAME
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE, torch.bfloat16])
@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 3)])
def test_batches_and_dtypes(name, dtype, batch):
    noise, _ = NOISES[name]
    z = torch.randn(*batch, *noise.point_shape, generator=torch.Generator().manual_seed(0))
    for f in (noise, noise.project, noise.covariance, noise.precision):
        y = f(z.to(dtype))
        assert (y.shape, y.dtype) == (z.shape, dtype)
        rows = z.reshape(-1, *noise.point_shape).double()
        alone = torch.stack([f(row) for row in rows]) if len(rows) else rows
        slack = 0.2 if dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(y.double(), alone.reshape(z.shape), rtol=slack, atol=slack)


# ------------------------------------------------------------------ atoms


@pytest.mark.parametrize("weight", [None, MASS, MASS.expand(3, 4)])
def test_every_example_has_its_own_mask(weight):
    noise = ZeroCentreOfMass(4, 2, BATCH_MASK, weight)
    assert noise.batch_shape == (3,)
    z = torch.randn(3, 5, 4, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    w = None if weight is None else MASS
    for i in range(3):
        alone = ZeroCentreOfMass(4, 2, BATCH_MASK[i], w)
        for f, g in ((noise, alone), (noise.covariance, alone.covariance)):
            torch.testing.assert_close(f(z)[i], g(z[i]), rtol=0, atol=1e-14)
        torch.testing.assert_close(noise.precision(z)[i], alone.precision(z[i]))
        for size in ("rank", "trace", "log_det"):
            found, exact = (getattr(x, size)(CPU) for x in (noise, alone))
            torch.testing.assert_close(found[i], exact)


def test_padding_is_zero_whatever_stands_there():
    noise = ZeroCentreOfMass(4, 2, PADDED, MASS)
    z = torch.randn(4, 2)
    z[~PADDED] = math.nan
    for f in (noise.project, noise.covariance, noise.precision):
        assert f(z).isfinite().all()
        assert f(z)[~PADDED].tolist() == [[0.0, 0.0]]


def test_an_example_without_atoms_is_zero():
    noise = ZeroCentreOfMass(4, 2, BATCH_MASK)
    assert not noise(torch.randn(3, 4, 2))[2].any()
    assert noise.rank(CPU).tolist() == [4.0, 4.0, 0.0]
    assert noise.log_det(CPU)[2] == 0


def test_one_atom_does_not_move():
    noise = ZeroCentreOfMass(1, 3)
    assert not noise(torch.randn(5, 1, 3)).any()
    assert [f(CPU).item() for f in (noise.rank, noise.trace, noise.log_det)] == [0.0, 0.0, 0.0]


def test_projecting_moves_all_atoms_together():
    noise, x = ZeroCentreOfMass(4, 3, weight=MASS), torch.randn(2, 4, 3, dtype=DOUBLE)
    shift = noise.project(x) - x
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
    assert (MASS[:, None] * noise.project(x)).sum(-2).abs().max() < 1e-12


# ------------------------------------------------------------------ matrices and chains


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("diagonal", [0.0, 0.3, math.sqrt(2)])
def test_symmetric_noise_is_symmetric_bit_for_bit(n, diagonal):
    x = SymmetricNoise(n, diagonal)(torch.randn(7, n, n))
    assert torch.equal(x, x.mT)
    if diagonal == 0:
        assert not x.diagonal(dim1=-2, dim2=-1).any()


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.95])
def test_a_chain_is_correlated_as_an_autoregressive_one(rho):
    noise = CovarianceFactor.chain(6, rho, 1)
    i = np.arange(6)
    expected = np.power(float(rho), np.abs(i[:, None] - i))
    np.testing.assert_allclose(matrix(noise, noise.covariance), expected, atol=1e-14)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZeroCentreOfMass(0), "Expected n to be a positive integer; got 0"),
        (lambda: ZeroCentreOfMass(2, 2.0), "Expected d to be a positive integer"),
        (lambda: ZeroCentreOfMass(3, mask=PADDED), r"Expected mask to have shape \(…, 3\)"),
        (lambda: ZeroCentreOfMass(4, weight=MASS[:3]), "Expected weight to have shape"),
        (lambda: ZeroCentreOfMass(4, weight=-MASS), "Expected weight to be at least 0"),
        (lambda: ZeroCentreOfMass(4, weight=0 * MASS), "Expected weight to be at least 0"),
        (
            lambda: ZeroCentreOfMass(4, 3, BATCH_MASK, MASS.expand(2, 4)),
            "Expected weight to have shape",
        ),
        (lambda: SymmetricNoise(3, -1.0), "Expected diagonal to be at least 0"),
        (lambda: CovarianceFactor(torch.ones(2, 3)), "Expected factor to be a square matrix"),
        (lambda: CovarianceFactor(torch.ones(2, 2)), "Expected factor to be invertible; got rank"),
        (lambda: CovarianceFactor.chain(3, 1.0), "Expected correlation to lie in"),
    ],
)
def test_values_that_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_types_that_are_refused():
    with pytest.raises(TypeError, match="Expected mask to be bool"):
        ZeroCentreOfMass(4, mask=MASS)
    with pytest.raises(TypeError, match="Expected weight to be a real tensor"):
        ZeroCentreOfMass(4, weight=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(TypeError, match="Expected factor to be floating"):
        CovarianceFactor(torch.eye(3, dtype=torch.int64))

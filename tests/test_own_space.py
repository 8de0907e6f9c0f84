"""The space that the documentation writes passes every law, and a broken twin of it fails each."""

import math

import pytest
import torch

from bridges.testing import check_process
from test_docs import ROOT, blocks

PAGE: dict = {}
for block in blocks(ROOT / "docs" / "own_space.md"):
    if "class SimplexDiffusion" in block or "class MeasuredSimplex" in block:
        exec(compile(block, "own_space.md", "exec"), PAGE)
Simplex, log_ratios = PAGE["MeasuredSimplex"], PAGE["log_ratios"]
GIVEN = PAGE["check"] | {"density": True, "point": PAGE["point"][:10_000]}


class LogRatioScore(Simplex):
    """The gradient in the log-ratios, not in the numbers of the state."""

    def _score(self, x_t, x_0, t):
        return x_t * super()._score(x_t, x_0, t)


class Doubled(Simplex):
    def _score(self, x_t, x_0, t):
        return 2 * super()._score(x_t, x_0, t)


class Signed(Simplex):
    def _error(self, prediction, x_0, x_t, t):
        return (log_ratios(prediction) - log_ratios(x_0)).sum(-1)


class LikelyZero(Simplex):
    """Cross-entropy: it is the entropy of x_0 at the truth, not 0."""

    def _error(self, prediction, x_0, x_t, t):
        return -(x_0 * prediction.log()).sum(-1)


class FallingScale(Simplex):
    def _loss_scale(self, t):
        return torch.exp(-t / 2)


class NoiseToSignal(Simplex):
    def _log_snr(self, t):
        return torch.log(torch.expm1(t))


class Deaf(Simplex):
    def _weights(self, s, t, eta):
        return super()._weights(s, t, 1.0)


class Narrow(Simplex):
    """Leaves noise out and nothing in its place."""

    def _weights(self, s, t, eta):
        to_0, to_t, spread = super()._weights(s, t, 1.0)
        return to_0, to_t, eta * spread


TWINS = [
    (LogRatioScore, "score as the gradient of log_prob"),
    (Doubled, "score as the gradient of log_prob"),
    (Signed, "error of a point"),
    (LikelyZero, "error of a point"),
    (FallingScale, "loss scale"),
    (NoiseToSignal, "log-SNR"),
    (Deaf, "deterministic path at eta = 0"),
    (Narrow, "marginal at eta = 0"),
]


@pytest.mark.parametrize(("twin", "law"), TWINS)
def test_a_twin_of_the_simplex_fails(twin, law):
    with pytest.raises(AssertionError, match=f"^Expected the {law} to hold at times"):
        check_process(twin(3), **GIVEN)


def test_the_density_is_one_of_log_ratios():
    x_0 = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    y = torch.linspace(-9, 9, 361, dtype=torch.float64)
    # An orthonormal basis of what sums to 0.
    basis = torch.tensor([[1, -1, 0], [1, 1, -2]]).double() / torch.tensor([[2.0], [6.0]]).sqrt()
    grid = torch.cartesian_prod(y, y) @ basis
    log_prob = Simplex(3).log_prob(grid.softmax(-1), x_0.expand_as(grid), 0.8)
    assert math.isclose(log_prob.exp().sum().item() * (y[1] - y[0]).item() ** 2, 1, rel_tol=1e-6)

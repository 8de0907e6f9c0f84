"""`check_process` finds the mistakes that writers of spaces make, and says where and by how much.

Each is made once, in an exact process on a circle that is otherwise right.
"""

import re
from dataclasses import dataclass

import pytest
import torch

from bridges import Process
from bridges.angle import wrap
from bridges.testing import check_process
from cases import angles, circle

PERIOD = 3.0
POINT, VIEW = angles(period=PERIOD)(torch.float32), circle(PERIOD)


@dataclass(frozen=True)
class Circle(Process):
    """Brownian motion on a circle, as a user would write it; it has no deterministic path."""

    rate: float = 0.9

    def normal(self, x, draws):
        return draws.normal(x.shape, x.dtype, x.device)

    def sigma(self, v, x):
        return v.sqrt().to(x.dtype)

    def placed(self, x):
        return wrap(x, PERIOD)

    def _forward(self, x, s, t, draws):
        return self.placed(x + self.sigma(self.rate * (t - s), x) * self.normal(x, draws))

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        turns = PERIOD * torch.arange(-8, 9, device=x_t.device)
        lifts = wrap(x_t - x_0, PERIOD).unsqueeze(-1) + turns
        v = (self.rate * t).to(x_t.dtype)
        chosen = draws.categorical(-(lifts**2) / (2 * v if v.ndim == 0 else 2 * v.unsqueeze(-1)))
        way = lifts.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        noise = self.normal(x_t, draws)
        spread = self.sigma(self.rate * s * (t - s) / t, x_t)
        return self.placed(x_0 + (s / t).to(x_t.dtype) * way + spread * noise)

    def _prior(self, shape, draws, dtype, device):
        return PERIOD * (draws.uniform(shape, dtype, device) - 0.5)

    def _error(self, prediction, x_0, x_t, t):
        return wrap(prediction - x_0, PERIOD) ** 2

    def _eta(self, eta):
        if eta != 1:
            raise ValueError(f"Expected eta to be 1; got {eta!r}.")
        return eta

    def _check_values(self, x, name):
        if not bool((x.abs() <= PERIOD / 2).all()):
            raise ValueError(f"Expected {name} to lie on the circle; got {x.abs().max():.3g}.")


class SwappedTimes(Circle):
    """The bridge takes s for t − s."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return super()._bridge(x_0, x_t, t - s, t, eta, draws)


class NoFactor(Circle):
    """The variance of the bridge lacks its factor s/t."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        share = (s / t).to(x_t.dtype)
        mean = x_0 + share * wrap(x_t - x_0, PERIOD)
        return wrap(mean + self.sigma(self.rate * (t - s), x_t) * self.normal(x_t, draws), PERIOD)


class NotWrapped(Circle):
    """The noise is wrapped, not the sum."""

    def _forward(self, x, s, t, draws):
        return x + wrap(self.sigma(self.rate * (t - s), x) * self.normal(x, draws), PERIOD)


class Forgetful(Circle):
    """The bridge ignores x_t."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self._forward(x_0, torch.zeros_like(s), s, draws)


class Unseeded(Circle):
    """One draw goes past the generator."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        x_s = super()._bridge(x_0, x_t, s, t, eta, draws)
        return self.placed(x_s + 1e-3 * torch.randn_like(x_s))


class LosesDtype(Circle):
    """A float64 coefficient makes the state float64."""

    def sigma(self, v, x):
        return v.sqrt().expand(x.shape)


class TooWide(Circle):
    """The variance of the bridge has a factor too many."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        x_s = super()._bridge(x_0, x_t, s, t, eta, draws)
        extra = self.sigma(0.3 * s * (t - s) / t, x_t)
        return wrap(x_s + extra * self.normal(x_t, draws), PERIOD)


MISTAKES = [
    (TooWide, "semigroup of bridges|joint law of two times"),
    (SwappedTimes, "pinned ends"),
    (NoFactor, "semigroup of bridges|pinned ends|joint law of two times"),
    (NotWrapped, "results on the space"),
    (Forgetful, "pinned ends|semigroup of bridges"),
    (Unseeded, "generator as the only source"),
    (LosesDtype, "shape, dtype and device"),
]


def check(process):
    check_process(process, point=POINT, view=VIEW, density=False)


def test_the_right_process_passes():
    check(Circle())


@pytest.mark.parametrize(("mistake", "law"), MISTAKES, ids=lambda m: getattr(m, "__name__", None))
def test_a_mistake_is_found(mistake, law):
    with pytest.raises(AssertionError) as caught:
        check(mistake())
    message = str(caught.value)
    assert re.match(rf"Expected the ({law}) to hold at times [\d.e-]+ and [\d.e-]+; .+\.", message)


def test_the_size_of_a_miss_is_said():
    with pytest.raises(AssertionError, match=r"the states are 1 of the way to x_t apart\."):
        check(SwappedTimes())
    with pytest.raises(AssertionError, match=r"the two laws of .+ are [\d.]+ apart, which has"):
        check(TooWide())

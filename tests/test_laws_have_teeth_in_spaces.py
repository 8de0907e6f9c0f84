"""Broken twins of the spaces and of a Joint, and the law that refuses each.

As in `test_laws_have_teeth.py`, on processes that are ours.
"""

from dataclasses import dataclass

import pytest
import torch

from bridges import Draws, Joint, Process, testing
from bridges._shapes import cast
from bridges._so3 import between as turn_between
from bridges._so3 import compose, log
from bridges._so3_draw import _by_lift, _lift
from bridges.angle import wrap
from bridges.wrapper import Wrapper
from cases import (
    ANGLE,
    OU,
    ROTATION,
    UNIFORM,
    angles,
    circle,
    column,
    entries,
    rotations,
    tokens,
)
from test_laws_have_teeth import LAWS, NUMBERS, TIMES, Brownian

TOKENS, ANGLES = (f()(torch.float32) for f in (tokens, angles))


@dataclass(frozen=True)
class Twin(Wrapper):
    """A process with some of its hooks broken."""

    process: Process


class Unwrapped(Twin):
    """Wraps the noise and not the sum."""

    def _forward(self, x, s, t, draws):
        return x + self.process._forward(torch.zeros_like(x), s, t, draws)


class ShortWay(Twin):
    """A bridge that never goes the long way round."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        turn = wrap(x_t - x_0, self.process.period)
        spread = (self.process.rate * s * (t - s) / t).sqrt()
        noise = draws.normal(x_t.shape, x_t.dtype, x_t.device)
        x_s = x_0 + cast(s / t, x_t) * turn + cast(spread, x_t) * noise
        return wrap(x_s, self.process.period)


class NarrowPrior(Twin):
    def _prior(self, shape, draws, dtype, device):
        return 0.9 * self.process._prior(shape, draws, dtype, device)


class DoublePrior(Twin):
    def _prior(self, shape, draws, dtype, device):
        return self.process._prior(shape, draws, torch.float64, device)


@pytest.mark.parametrize("law", ["results on the space", "semigroup"])
def test_an_angle_that_forgets_to_wrap(law):
    with pytest.raises(AssertionError, match=law):
        LAWS[law](Unwrapped(ANGLE), ANGLES, circle(), (0.3, 2.9))


def test_an_angle_that_never_goes_the_long_way_round():
    testing.check_two_times(ShortWay(ANGLE), ANGLES, circle(), (0.05, 0.2))
    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(ShortWay(ANGLE), ANGLES, circle(), (0.6, 2.9))
    with pytest.raises(AssertionError, match="general process"):
        testing.check_general(ShortWay(ANGLE), ANGLES, circle(), (0.6, 2.9), general=ANGLE)


@pytest.mark.parametrize("twin", [NarrowPrior(OU), NarrowPrior(ANGLE), DoublePrior(OU)])
def test_a_wrong_prior(twin):
    with pytest.raises(AssertionError, match="prior as the far limit"):
        testing.check_prior(twin, NUMBERS, column)


class OtherThanEnds(Twin):
    """Draws "a state other than x_0 and x_t" by two shifts in the wrong order."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        fresh, to_t = self.process._weights(x_0, x_t, s, t)
        k = self.process.k
        u = draws.uniform(x_t.shape, torch.float64, x_t.device)
        other = (draws.uniform(x_t.shape, torch.float64, x_t.device) * (k - 2)).long()
        other = other + (other >= x_0)
        other = other + (other >= x_t)
        ends = torch.where(u < (fresh + to_t - fresh / k), x_t, x_0)
        shifted = torch.where(u > 1 - fresh * (k - 2) / k, other, ends)
        return torch.where(x_0 == x_t, self.process._bridge(x_0, x_t, s, t, eta, draws), shifted)


class FreshTokens(Twin):
    """Forgets that a token which has not jumped stays."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return torch.where(
            draws.uniform(x_t.shape, torch.float64, x_t.device) < s / t,
            self.process._prior(x_t.shape, draws, torch.float32, x_t.device),
            x_0,
        )


class OutOfRange(Twin):
    def _forward(self, x, s, t, draws):
        return self.process._forward(x, s, t, draws) + 1


class Int32(Twin):
    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self.process._bridge(x_0, x_t, s, t, eta, draws).int()


@pytest.mark.parametrize("twin", [OtherThanEnds, FreshTokens])
def test_tokens_with_a_wrong_bridge(twin):
    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(twin(UNIFORM), TOKENS, column, (0.5, 1.4))


def test_tokens_out_of_range_or_of_another_dtype():
    with pytest.raises(AssertionError, match="shape, dtype and device"):
        testing.check_shapes(Int32(UNIFORM), TOKENS, column)
    with pytest.raises(AssertionError, match="results on the space"):
        testing.check_space(OutOfRange(UNIFORM), TOKENS - 1, column)


# ---------------------------------------------------------------- rotations


class RedrawnLift(Twin):
    """Draws the lift to SU(2) again with each proposal, which favours the one accepted more."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        a, b = self.process.rate * s, self.process.rate * (t - s)
        target = log(turn_between(x_0, x_t))
        step, waiting = torch.zeros_like(x_0), torch.arange(len(x_0), device=x_0.device)
        while len(waiting):
            lift = _lift(target[waiting], a + b, draws)
            step[waiting], done = _by_lift(*lift, a, b, draws)
            waiting = waiting[~done]
        return compose(x_0, step)


class Stretched(Twin):
    """Leaves the group by less than the process checks for."""

    def _forward(self, x, s, t, draws):
        return 1.0003 * self.process._forward(x, s, t, draws)


def test_a_rotation_that_redraws_its_lift():
    given = rotations()(torch.float32), entries, (3.2, 6.4)
    testing.check_two_times(RedrawnLift(ROTATION), *given)  # too rare to show in walks
    testing.check_density(ROTATION, *given)
    with pytest.raises(AssertionError, match="density of the bridge"):
        testing.check_density(RedrawnLift(ROTATION), *given)


def test_a_rotation_off_the_group():
    with pytest.raises(AssertionError, match="results on the space"):
        testing.check_space(Stretched(ROTATION), rotations(1000)(torch.float32), entries)


# ---------------------------------------------------------------- a Joint


class OneNoise(Draws):
    """Starts the same stream again for every member."""

    def __init__(self, seed):
        self.seed = seed

    def normal(self, shape, dtype, device):
        return torch.randn(shape, dtype=dtype, device=device, generator=self.stream(device))

    def uniform(self, shape, dtype, device):
        return torch.rand(shape, dtype=dtype, device=device, generator=self.stream(device))

    def stream(self, device):
        return torch.Generator(device).manual_seed(self.seed)


def one_noise(draws):
    u = draws.uniform((), torch.float64, torch.device("cpu"))
    return OneNoise(int(u.item() * 2**52))


class JointWrapper(Wrapper):
    """Passes the structure on as well."""

    def _check(self, x, name):
        self.process._check(x, name)

    def _check_alike(self, x_0, x_t):
        self.process._check_alike(x_0, x_t)

    def _times(self, x, **times):
        return self.process._times(x, **times)

    def _between(self, x_0, x_t, s, t, eta, draws):
        return self._bridge(x_0, x_t, s, t, eta, draws)


@dataclass(frozen=True)
class CorrelatedBridge(JointWrapper):
    process: Process

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self.process._between(x_0, x_t, s, t, eta, one_noise(draws))


@dataclass(frozen=True)
class Correlated(CorrelatedBridge):
    """Correlates everywhere: a right process of its own, but not the product of its members."""

    def _forward(self, x, s, t, draws):
        return self.process._forward(x, s, t, one_noise(draws))


def test_a_joint_whose_members_share_their_noise():
    joint, point = Joint(OU, Brownian()), (NUMBERS, NUMBERS)

    def view(x):
        return torch.stack(x, -1)

    for law in ("semigroup", "joint law of two times"):
        LAWS[law](joint, point, view, TIMES)
    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(CorrelatedBridge(joint), point, view, TIMES)
    with pytest.raises(AssertionError, match="general process"):
        testing.check_general(Correlated(joint), point, view, TIMES, general=joint)

"""Every law is seen to fail: broken twins of right processes, and the law that refuses each.

A twin also passes some laws, which shows that the law that refuses it is needed.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from bridges import Clock, Draws, Joint, LinearClock, Process, testing
from bridges._draw import as_draws
from bridges._shapes import cast
from bridges._so3 import between as turn_between
from bridges._so3 import compose, log
from bridges._so3_draw import _by_lift, _lift
from bridges.angle import wrap
from bridges.partial import Wrapper
from cases import (
    ANGLE,
    OU,
    ROTATION,
    UNIFORM,
    angles,
    circle,
    column,
    entries,
    numbers,
    rotations,
    tokens,
)

TIMES = (0.13, 0.71)
NUMBERS, TOKENS, ANGLES = (f()(torch.float32) for f in (numbers, tokens, angles))


@dataclass(frozen=True)
class Brownian(Process):
    """A right process with every hook in plain sight: Brownian motion on numbers with a clock."""

    rate: float = 1.7
    clock: Clock = LinearClock()

    def v(self, t):
        return self.rate * self.clock(t)

    def on(self, clock):
        return replace(self, clock=clock)

    def share(self, s, t):
        return self.v(s) / self.v(t)

    def spread(self, s, t):
        return (self.v(s) * (1 - self.share(s, t))).sqrt()

    def normal(self, x, draws):
        return draws.normal(x.shape, x.dtype, x.device)

    def _forward(self, x, s, t, draws):
        return x + cast((self.v(t) - self.v(s)).sqrt(), x) * self.normal(x, draws)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        mean = x_0 + cast(self.share(s, t), x_t) * (x_t - x_0)
        return mean + cast(self.spread(s, t), x_t) * self.normal(x_t, draws)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        return (prediction - x_0) ** 2

    def _log_prob(self, x_t, x_0, s, t):
        v = cast(self.v(t) - self.v(s), x_t)
        return -((x_t - x_0) ** 2) / (2 * v) - 0.5 * torch.log(2 * math.pi * v)


class WrongVariance(Brownian):
    """One factor on every variance of the bridge: two bridges in a row are still one."""

    def spread(self, s, t):
        return math.sqrt(1.2) * super().spread(s, t)


class WrongForward(Brownian):
    def _forward(self, x, s, t, draws):
        return x + 1.1 * (super()._forward(x, s, t, draws) - x)


class LinearShare(Brownian):
    def share(self, s, t):
        return s / t


class DeafToClocks(Brownian):
    def on(self, clock):
        return self


class Forgetful(Brownian):
    """The bridge forgets x_t: x_s is right at every single time."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return self._forward(x_0, torch.zeros_like(s), s, draws)


class NoRoot(Brownian):
    def _forward(self, x, s, t, draws):
        return x + cast(self.v(t) - self.v(s), x) * self.normal(x, draws)


class NoRootInBridge(Brownian):
    def spread(self, s, t):
        return super().spread(s, t) ** 2


class StepwiseStart(Brownian):
    """Forgets `start`: noises from time 0 whatever the start is."""

    def _forward(self, x, s, t, draws):
        return super()._forward(x, torch.zeros_like(s), t, draws)


class Unseeded(Brownian):
    def normal(self, x, draws):
        return torch.randn(x.shape, dtype=x.dtype, device=x.device)


class SeedFixed(Brownian):
    def normal(self, x, draws):
        return as_draws(torch.Generator(x.device).manual_seed(0)).normal(
            x.shape, x.dtype, x.device
        )


class Swapped(Brownian):
    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return super()._bridge(x_t, x_0, s, t, eta, draws)


class SwappedTimes(Brownian):
    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return super()._bridge(x_0, x_t, t - s, t, eta, draws)


class LosesDtype(Brownian):
    def _forward(self, x, s, t, draws):
        return x + (self.v(t) - self.v(s)).sqrt().expand(x.shape) * self.normal(x, draws)


class LosesRank(Brownian):
    def _forward(self, x, s, t, draws):
        return super()._forward(x.reshape(-1), s, t, draws)


class FirstTimeForAll(Brownian):
    """Takes the first row's time for all rows."""

    def _forward(self, x, s, t, draws):
        return super()._forward(x, s.flatten()[:1], t.flatten()[:1], draws)


class WritesToInput(Brownian):
    def _bridge(self, x_0, x_t, s, t, eta, draws):
        return x_0.copy_(super()._bridge(x_0, x_t, s, t, eta, draws))


class EndsUnpinned(Brownian):
    def _between(self, x_0, x_t, s, t, eta, draws):
        return self._bridge(x_0, x_t, s.clamp(min=1e-12), t.clamp(min=2e-12), eta, draws)


class Floor(Brownian):
    """A variance that does not vanish at time 0."""

    def v(self, t):
        return super().v(t) + 0.1 * (t > 0)


def test_the_twins_come_from_a_right_process():
    testing.check_process(Brownian(), point=NUMBERS, view=column, prior=False, general=Brownian())


LAWS = {
    "pinned ends": testing.check_pinned_ends,
    "near limit": testing.check_near_limit,
    "semigroup": testing.check_semigroup,
    "joint law of two times": testing.check_two_times,
    "density of the bridge": testing.check_density,
    "time of every row": testing.check_times,
    "nonlinear clock": testing.check_clock,
    "results on the space": testing.check_space,
    "shape, dtype and device": testing.check_shapes,
    "generator as the only source": testing.check_randomness,
}


@pytest.mark.parametrize(
    ("twin", "broken", "held"),
    [
        (WrongVariance, "joint law of two times", "pinned ends"),
        (WrongVariance, "density of the bridge", "semigroup"),
        (WrongForward, "joint law of two times", "semigroup"),
        (LinearShare, "nonlinear clock", "joint law of two times"),
        (DeafToClocks, "nonlinear clock", "joint law of two times"),
        (Forgetful, "joint law of two times", "shape, dtype and device"),
        (Forgetful, "pinned ends", "near limit"),
        (Forgetful, "density of the bridge", "generator as the only source"),
        (NoRoot, "semigroup", "pinned ends"),
        (NoRoot, "joint law of two times", "near limit"),
        (NoRootInBridge, "joint law of two times", "pinned ends"),
        (StepwiseStart, "semigroup", "pinned ends"),
        (StepwiseStart, "near limit", "shape, dtype and device"),
        (Unseeded, "generator as the only source", "joint law of two times"),
        (SeedFixed, "generator as the only source", "shape, dtype and device"),
        (Swapped, "pinned ends", "generator as the only source"),
        (Swapped, "joint law of two times", "shape, dtype and device"),
        (SwappedTimes, "pinned ends", "generator as the only source"),
        (SwappedTimes, "joint law of two times", "shape, dtype and device"),
        (LosesDtype, "shape, dtype and device", "joint law of two times"),
        (LosesRank, "shape, dtype and device", "joint law of two times"),
        (FirstTimeForAll, "time of every row", "joint law of two times"),
        (WritesToInput, "generator as the only source", "shape, dtype and device"),
        (EndsUnpinned, "pinned ends", "joint law of two times"),
        (Floor, "near limit", "joint law of two times"),
    ],
)
def test_a_twin_fails_its_law(twin, broken, held):
    LAWS[held](twin(), NUMBERS.clone(), column, TIMES)
    with pytest.raises(AssertionError, match=f"the {broken}.*at times .*; "):
        LAWS[broken](twin(), NUMBERS.clone(), column, TIMES)
    with pytest.raises(AssertionError, match="Expected the "):
        testing.check_process(twin(), point=NUMBERS.clone(), view=column, prior=False)


@pytest.mark.parametrize("share", [1.06, 0.94])
def test_a_miss_of_six_percent_in_a_spread_is_seen(share):
    class Slightly(Brownian):
        def spread(self, s, t):
            return share * super().spread(s, t)

    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(Slightly(), NUMBERS, column, TIMES)


# ---------------------------------------------------------------- twins of the spaces


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

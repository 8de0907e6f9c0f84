"""Every law is seen to fail: broken twins of right processes, and the law that refuses each.

A twin also passes some laws, which shows that the law that refuses it is needed.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from bridges import Clock, LinearClock, Process, testing
from bridges._draw import as_draws
from bridges._shapes import cast
from cases import (
    column,
    numbers,
)

TIMES = (0.13, 0.71)
NUMBERS = numbers()(torch.float32)


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

    def spread(self, s, t, eta):
        return (self.v(s) * (1 - self.share(s, t) ** eta**2)).sqrt()

    def normal(self, x, draws):
        return draws.normal(x.shape, x.dtype, x.device)

    def _forward(self, x, s, t, draws):
        return x + cast((self.v(t) - self.v(s)).sqrt(), x) * self.normal(x, draws)

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        mean = x_0 + cast(self.share(s, t) ** ((1 + eta**2) / 2), x_t) * (x_t - x_0)
        return mean + cast(self.spread(s, t, eta), x_t) * self.normal(x_t, draws)

    def _prior(self, shape, draws, dtype, device):
        raise NotImplementedError

    def _error(self, prediction, x_0, x_t, t):
        return (prediction - x_0) ** 2

    def _log_prob(self, x_t, x_0, s, t):
        v = cast(self.v(t) - self.v(s), x_t)
        return -((x_t - x_0) ** 2) / (2 * v) - 0.5 * torch.log(2 * math.pi * v)

    def _score(self, x_t, x_0, t):
        return (x_0 - x_t) / cast(self.v(t), x_t)

    def _loss_scale(self, t):
        return self.v(t).sqrt()

    def _log_snr(self, t):
        return -self.v(t).log()


class WrongVariance(Brownian):
    """One factor on every variance of the bridge: two bridges in a row are still one."""

    def spread(self, s, t, eta):
        return math.sqrt(1.2) * super().spread(s, t, eta)


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
    def spread(self, s, t, eta):
        return super().spread(s, t, eta) ** 2


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
        def spread(self, s, t, eta):
            return share * super().spread(s, t, eta)

    with pytest.raises(AssertionError, match="joint law of two times"):
        testing.check_two_times(Slightly(), NUMBERS, column, TIMES)

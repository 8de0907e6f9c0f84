"""Broken twins for the laws of scores, errors, loss scales, noise levels and eta, on numbers.

As in `test_laws_have_teeth.py`: each is refused by the law that it breaks, and passes another.
"""

import math

import pytest
import torch

from bridges import Joint, Process, testing
from bridges._shapes import cast
from bridges._trial import ladder
from cases import OU, UNIFORM, column, tokens
from test_laws_have_teeth import NUMBERS, TIMES, Brownian

LAWS = {
    "score as the gradient of log_prob": testing.check_score,
    "error of a point": testing.check_error,
    "loss scale": testing.check_loss_scale,
    "log-SNR": testing.check_log_snr,
    "deterministic path at eta = 0": testing.check_eta,
    "marginal at eta = 0": testing.check_eta,
    "marginal at eta = 0.5": testing.check_eta,
    "joint law of two times": testing.check_two_times,
}
SCORE, ERROR, STILL = list(LAWS)[0], list(LAWS)[1], list(LAWS)[4]


# ---------------------------------------------------------------- on numbers


class Doubled(Brownian):
    def _score(self, x_t, x_0, t):
        return 2 * super()._score(x_t, x_0, t)


class ThreePercent(Brownian):
    def _score(self, x_t, x_0, t):
        return 1.03 * super()._score(x_t, x_0, t)


class OtherSign(Brownian):
    def _score(self, x_t, x_0, t):
        return -super()._score(x_t, x_0, t)


class NotDivided(Brownian):
    """Takes the standard deviation for the variance."""

    def _score(self, x_t, x_0, t):
        return super()._score(x_t, x_0, t) * cast(self.v(t).sqrt(), x_t)


class UndefinedScore(Brownian):
    def _score(self, x_t, x_0, t):
        return torch.where(x_t > x_0 + 1, math.nan, super()._score(x_t, x_0, t))


class WideDensity(Brownian):
    """The density of another process than the score's."""

    def _log_prob(self, x_t, x_0, s, t):
        return super()._log_prob(x_t, x_0, s, 1.2 * t)


class Negative(Brownian):
    def _error(self, prediction, x_0, x_t, t):
        return -((prediction - x_0) ** 2)


class Offset(Brownian):
    """Never 0: a constant that a loss should not have."""

    def _error(self, prediction, x_0, x_t, t):
        return (prediction - x_0) ** 2 + 0.01


class OneSided(Brownian):
    """0 below the truth."""

    def _error(self, prediction, x_0, x_t, t):
        return (prediction - x_0).clamp(min=0) ** 2


class Averaged(Brownian):
    def _error(self, prediction, x_0, x_t, t):
        return ((prediction - x_0) ** 2).mean()


class OtherWithNoise(Brownian):
    """Right without x_t, and compares with x_t where it is given."""

    def _error(self, prediction, x_0, x_t, t):
        return (prediction - (x_0 if x_t is None else x_t)) ** 2


class FallingScale(Brownian):
    def _loss_scale(self, t):
        return torch.exp(-t)


class LateFall(Brownian):
    """Grows up to times of a few units only."""

    def _loss_scale(self, t):
        return t * torch.exp(-0.2 * t)


class EndlessScale(Brownian):
    def _loss_scale(self, t):
        return 1 / self.v(t)


class NegativeScale(Brownian):
    def _loss_scale(self, t):
        return self.v(t).log()


class RisingSNR(Brownian):
    def _log_snr(self, t):
        return self.v(t).log()


class FiniteSNR(Brownian):
    def _log_snr(self, t):
        return -(self.v(t) + 1e-3).log()


class StillSNR(Brownian):
    def _log_snr(self, t):
        return torch.where(t > 0, 0.0, math.inf)


class DeafToEta(Brownian):
    def spread(self, s, t, eta):
        return super().spread(s, t, 1.0)


class NoisyStep(Brownian):
    """Heeds eta in the bridge and not in its own step."""

    def _step(self, prediction, x_t, s, t, eta, draws):
        return super()._step(prediction, x_t, s, t, 1.0, draws)


class EtaOnce(Brownian):
    """The noise shrinks by η where the mean shrinks by η²."""

    def spread(self, s, t, eta):
        return super().spread(s, t, eta**0.5)


class MeanOfBridge(Brownian):
    """Leaves out noise, and the mean where it was: x_s comes out too near its mean."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        mean = x_0 + cast(self.share(s, t), x_t) * (x_t - x_0)
        return mean + eta * cast(self.spread(s, t, 1.0), x_t) * self.normal(x_t, draws)


TWINS = [
    (Doubled, SCORE, ERROR),
    (ThreePercent, SCORE, ERROR),
    (OtherSign, SCORE, ERROR),
    (NotDivided, SCORE, ERROR),
    (UndefinedScore, SCORE, ERROR),
    (WideDensity, SCORE, ERROR),
    (Negative, ERROR, SCORE),
    (Offset, ERROR, SCORE),
    (OneSided, ERROR, SCORE),
    (Averaged, ERROR, SCORE),
    (OtherWithNoise, ERROR, SCORE),
    (FallingScale, "loss scale", "log-SNR"),
    (EndlessScale, "loss scale", "log-SNR"),
    (NegativeScale, "loss scale", "log-SNR"),
    (RisingSNR, "log-SNR", "loss scale"),
    (FiniteSNR, "log-SNR", "loss scale"),
    (StillSNR, "log-SNR", "loss scale"),
    (DeafToEta, STILL, "joint law of two times"),
    (NoisyStep, STILL, "joint law of two times"),
    (EtaOnce, "marginal at eta = 0.5", "joint law of two times"),
    (MeanOfBridge, "marginal at eta = 0", "joint law of two times"),
]


@pytest.mark.parametrize(("twin", "broken", "held"), TWINS)
def test_a_twin_fails_its_law(twin, broken, held):
    LAWS[held](twin(), NUMBERS, column, TIMES)
    message = rf"^Expected the {broken} to hold at times .*; [^;]+\.$"
    with pytest.raises(AssertionError, match=message):
        LAWS[broken](twin(), NUMBERS, column, TIMES)
    with pytest.raises(AssertionError, match="^Expected the "):
        testing.check_process(twin(), point=NUMBERS, view=column, prior=False)


def test_the_size_of_a_miss_is_said():
    for twin, miss in ((Doubled, r"by 1 of it"), (OtherSign, r"by 2 of it")):
        with pytest.raises(AssertionError, match=miss):
            testing.check_score(twin(), NUMBERS, column)
    with pytest.raises(AssertionError, match=r"at the truth it is up to 0\.01, against 1\.2"):
        testing.check_error(Offset(), NUMBERS, column)
    fall = r"it falls from 0\.605\d+ at 0\.502\d+ to 0\.491\d+ at 0\.71\."
    with pytest.raises(AssertionError, match=fall):
        testing.check_loss_scale(FallingScale(), NUMBERS, column)


def test_a_fall_beyond_t_shows_as_far_as_is_said():
    testing.check_loss_scale(LateFall(), NUMBERS, column)
    with pytest.raises(AssertionError, match="loss scale"):
        testing.check_loss_scale(LateFall(), NUMBERS, column, far=40.0)


def test_a_part_of_a_joint_fails_its_law():
    point = {"pos": NUMBERS, "seq": tokens()(torch.float32), "turn": (NUMBERS, NUMBERS)}

    def view(x):
        return torch.stack((x["pos"], x["seq"], *x["turn"]), -1).double()

    for twin, broken, _ in TWINS:
        for parts in ((Brownian(), twin()), (twin(), Brownian())):
            joint = Joint(pos=OU, seq=UNIFORM, turn=Joint(*parts))
            with pytest.raises(AssertionError, match=f"^Expected the {broken} to hold"):
                LAWS[broken](joint, point, view, TIMES)


# ---------------------------------------------------------------- what is not asked


class Steps(Brownian):
    """Has no deterministic path, and says so with one error or another."""

    refusal: type[Exception] = ValueError

    def _eta(self, eta):
        if eta != 1:
            raise self.refusal("Expected eta to be 1.")
        return eta


class Unmeasured(Brownian):
    def _score(self, x_t, x_0, t):
        return Process._score(self, x_t, x_0, t)

    def _log_snr(self, t):
        return Process._log_snr(self, t)


def test_what_a_process_does_not_have_is_not_asked():
    for refusal in (ValueError, TypeError, NotImplementedError):
        process = type("Refusing", (Steps,), {"refusal": refusal})()
        testing.check_eta(process, NUMBERS, column)
    testing.check_process(Unmeasured(), point=NUMBERS, view=column, prior=False)
    with pytest.raises(AssertionError, match="deterministic path"):
        testing.check_eta(type("Deaf", (Unmeasured, DeafToEta), {})(), NUMBERS, column)


def test_the_ladder_of_times():
    t = ladder(Brownian(), TIMES, 100.0)
    assert t[0] == 0
    assert t[-1] == 100
    assert (t.diff() > 0).all()
    assert set(TIMES) <= set(t.tolist())
    assert (t[2:-1] / t[1:-2]).max() < 2

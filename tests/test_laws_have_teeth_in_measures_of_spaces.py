"""Broken twins of the spaces for the laws of scores, errors and eta, and what the laws cannot ask.

As in `test_laws_have_teeth_in_measures.py`, on processes that are ours.
"""

import pytest
import torch

from bridges import Joint, PowerClock, Process, testing
from bridges._s3_kernel import product
from bridges._shapes import cast
from bridges._trial import tokens_of
from bridges.angle import wrap
from cases import ANGLE, OU, ROTATION, UNIFORM, angles, circle, column, entries, rotations, tokens
from gaussian_cases import NOISES, four_sums, points_of, structured
from quaternion_cases import QUATERNION, coordinates, quaternions
from sphere_cases import SPHERE, vectors
from test_laws_have_teeth import NUMBERS, TIMES
from test_laws_have_teeth_in_measures import ERROR, LAWS, SCORE
from test_laws_have_teeth_in_spaces import Twin


class ShortWayScore(Twin):
    """Knows one image of x_0 only."""

    def _score(self, x_t, x_0, t):
        return -wrap(x_t - x_0, self.process.period) / cast(self.process.rate * t, x_t)


class LeftFrame(Twin):
    """Gives the rotation vector in the frame that does not turn: ε in exp(ε) x_t."""

    def _score(self, x_t, x_0, t):
        return (x_t @ self.process._score(x_t, x_0, t).unsqueeze(-1)).squeeze(-1)


class LeftQuaternion(Twin):
    def _score(self, x_t, x_0, t):
        score = self.process._score(x_t, x_0, t)
        pure = torch.cat((torch.zeros_like(score[..., :1]), score), -1)
        back = torch.cat((x_t[..., :1], -x_t[..., 1:]), -1)
        return product(product(x_t, pure), back)[..., 1:]


class HalfAngle(Twin):
    """The gradient along x_t exp(ε), which turns by 2ε."""

    def _score(self, x_t, x_0, t):
        return 2 * self.process._score(x_t, x_0, t)


class OtherWay(Twin):
    def _score(self, x_t, x_0, t):
        return -self.process._score(x_t, x_0, t)


class PlainScore(Twin):
    """Forgets the covariance of the noise."""

    def _score(self, x_t, x_0, t):
        inner, over = self.process.process, self.process._over
        return self.process.noise.project(inner._score(x_t, x_0, over(t)))


class NextToken(Twin):
    """Counts from 1: the cross-entropy of the next token."""

    def _error(self, prediction, x_0, x_t, t):
        return self.process._error(prediction, (x_0 + 1) % self.process.k, x_t, t)


class HalfWay(Twin):
    """The deterministic path goes the share s/t of the way, not its root."""

    def _bridge(self, x_0, x_t, s, t, eta, draws):
        exact = self.process._bridge(x_0, x_t, s, t, eta, draws)
        way = self.process._log(x_0, x_t)
        return exact if eta else self.process._exp(x_0, cast(s / t, way, 1) * way)


def structure(name):
    return structured(name)[0], points_of(NOISES[name][0]), four_sums


ON_SPACES = [
    (ShortWayScore, (ANGLE, angles(), circle()), SCORE, (0.6, 2.9)),
    (OtherWay, (ANGLE, angles(), circle()), SCORE, TIMES),
    (LeftFrame, (ROTATION, rotations(), entries), SCORE, TIMES),
    (OtherWay, (ROTATION, rotations(), entries), SCORE, TIMES),
    (LeftQuaternion, (QUATERNION, quaternions(), coordinates), SCORE, TIMES),
    (HalfAngle, (QUATERNION, quaternions(), coordinates), SCORE, TIMES),
    (OtherWay, (SPHERE, vectors(), coordinates), SCORE, TIMES),
    (PlainScore, structure("masses"), SCORE, TIMES),
    (PlainScore, structure("chain"), SCORE, TIMES),
    (NextToken, (UNIFORM, tokens(), column), ERROR, TIMES),
    (HalfWay, (ROTATION, rotations(), entries), "marginal at eta = 0", TIMES),
    (HalfWay, (QUATERNION, quaternions(), coordinates), "marginal at eta = 0", TIMES),
]


@pytest.mark.parametrize(("twin", "given", "law", "times"), ON_SPACES)
def test_a_twin_of_a_space_fails_its_law(twin, given, law, times):
    process, point, view = given
    LAWS[law](process, point(torch.float32), view, times)
    with pytest.raises(AssertionError, match=f"^Expected the {law} to hold"):
        LAWS[law](twin(process), point(torch.float32), view, times)


@pytest.mark.parametrize(
    ("process", "point"),
    [(LeftFrame(ROTATION), rotations()), (LeftQuaternion(QUATERNION), quaternions())],
)
def test_a_frame_is_seen_through_a_mask_and_a_clock(process, point):
    x_0 = point(torch.float32)
    mask = torch.arange(len(x_0)) % 100 == 0

    def around(process):
        return Joint(process.where(mask).on(PowerClock(1.7, 0.8)), OU)

    given = (x_0, NUMBERS[: len(x_0)]), column
    testing.check_score(around(process.process), *given)
    with pytest.raises(AssertionError, match=f"^Expected the {SCORE} to hold"):
        testing.check_score(around(process), *given)


class Matrices(Twin):
    """Has a score in a frame that nothing explains."""

    def _log_snr(self, t):
        return Process._log_snr(self, t)


def test_a_score_in_a_frame_that_nothing_explains():
    with pytest.raises(AssertionError, match="Expected the score to have the shape of the state"):
        testing.check_score(Matrices(ROTATION), rotations(100)(torch.float32), entries)


def test_curved_spaces_keep_the_marginal_at_small_variance_only():
    given = ROTATION, rotations()(torch.float32), entries
    testing.check_eta(*given, (0.6, 2.9))
    with pytest.raises(
        AssertionError, match=r"marginal at eta = 0 to hold at times 0\.6 and 2\.9"
    ):
        testing.check_eta(*given, (0.6, 2.9), small=(0.6, 2.9))


def test_logits_are_for_tokens_alone():
    x_0 = torch.tensor([1, 2])
    assert tokens_of(UNIFORM.where(torch.tensor(True)), x_0) == UNIFORM.k
    assert tokens_of(OU, x_0.double()) is None

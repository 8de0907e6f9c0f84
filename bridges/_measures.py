"""The public methods of a process that draw nothing: errors, densities, scores, conversions."""

from typing import Any, final

from bridges._hooks import Hooks
from bridges._precision import exact, narrowed, widened
from bridges._shapes import State, Time
from bridges.prediction import Tangent


class Measures(Hooks):
    """How far predictions are from x_0, how likely x_t is, and what its noise level is."""

    @final
    @exact
    def error(
        self, prediction: Any, x_0: State, *, x_t: State | None = None, t: Time | None = None
    ) -> Any:
        """Return how far a prediction is from x_0.

        Args:
            prediction: what the network said about x_0.
            x_0: the clean state, shape `(*B, *P)`.
            x_t: the noised state, for predictions that need it.
            t: its time, likewise.

        Returns:
            A number per element of the batch, shape `(*B,)`: squared distance, squared angle in
            radians, or cross-entropy in nats (see each space); for a Joint, a structure.

        Raises:
            TypeError, ValueError: if a state or the prediction is not what the space expects.
        """
        self._check_clean(x_0, "x_0")
        if x_t is not None:
            self._check(x_t, "x_t")
            self._check_alike(x_0, x_t)
        if t is not None:
            (t,) = self._times(x_0, t=t)
        wide = None if x_t is None else widened(x_t)
        return narrowed(self._error(prediction, widened(x_0), wide, t), x_0)

    @final
    @exact
    def convert(self, prediction: Any, to: type[Tangent], x_t: State, t: Time) -> Any:
        """Say a prediction as a tangent vector: `Score`, `Noise` or `Velocity`.

        `endpoint` turns any of them back into a point. On curved spaces the point of a tangent
        vector is where its geodesic ends, and that of a point the shorter geodesic to it.

        Args:
            prediction: a point or a tangent vector.
            to: the type to return; for a Joint, one type or a structure.
            x_t: the noised state, shape `(*B, *P)`.
            t: its time, above 0.

        Returns:
            An instance of `to`; for a Joint, a structure.

        Raises:
            TypeError, ValueError: if a state, a time or the prediction is not as expected.
            NotImplementedError: if the space has no tangent vectors, as tokens have none.
        """
        self._check(x_t, "x_t")
        (t,) = self._times(x_t, t=t)
        return narrowed(self._convert(prediction, to, widened(x_t), t), x_t)

    @final
    @exact
    def loss_scale(self, t: Time) -> Any:
        """Return what `standardloss` divides the error by.

        Args:
            t: a number or a tensor of any shape.

        Returns:
            A float64 tensor of the shape of t, 0 at t = 0, or 1 throughout on a space that says
            none; for a Joint, a structure.
        """
        return self._loss_scale(self._bare_time(t))

    @final
    @exact
    def log_snr(self, t: Time) -> Any:
        r"""Return the logarithm of the signal-to-noise ratio of x_t.

        It is :math:`\log(\alpha_t^2/\sigma_t^2)` on numbers, and :math:`-\log v_t` on curved
        spaces, whose points have size 1. Weights of losses are functions of it.

        Args:
            t: a number or a tensor of any shape.

        Returns:
            A float64 tensor of the shape of t, ∞ at t = 0; for a Joint, a structure.

        Raises:
            NotImplementedError: if the space has none, as tokens have none.
        """
        return self._log_snr(self._bare_time(t))

    @final
    @exact
    def log_prob(self, x_t: State, x_0: State, t: Time, *, start: Time = 0.0) -> Any:
        """Return the log-density of x_t given x_start = x_0.

        With respect to Lebesgue measure on numbers and angles, counting measure on tokens, and the
        normalised invariant measure on rotations and spheres. Where t = start there is no density:
        tokens give log 1 or log 0, the others NaN.

        Args:
            x_t: the state at time t, shape `(*B, *P)`.
            x_0: the state at time `start`, like x_t.
            t: a time above `start`.
            start: the time to go from.

        Returns:
            A number per element of the batch, shape `(*B,)`; for a Joint, a structure.

        Raises:
            TypeError, ValueError: if a state or a time is not what the space expects.
            NotImplementedError: if the space has no density.
        """
        self._check(x_t, "x_t")
        self._check(x_0, "x_0")
        self._check_alike(x_0, x_t)
        start, t = self._times(x_t, start=start, t=t)
        return narrowed(self._log_prob(widened(x_t), widened(x_0), start, t), x_t)

    @final
    @exact
    def score(self, x_t: State, x_0: State, t: Time) -> Any:
        """Return the gradient of log p(x_t | x_0) with respect to x_t, a tangent vector at x_t.

        Args:
            x_t: the state at time t, shape `(*B, *P)`.
            x_0: the state at time 0, like x_t.
            t: a time above 0.

        Returns:
            A tensor like x_t on numbers and angles, and on the sphere, where it is perpendicular
            to x_t; rotation vectors `(*B, 3)` in the frame of x_t on rotations and unit
            quaternions; for a Joint, a structure.

        Raises:
            TypeError, ValueError: if a state or a time is not what the space expects.
            NotImplementedError: if the space has no score, as tokens have none.
        """
        self._check(x_t, "x_t")
        self._check(x_0, "x_0")
        self._check_alike(x_0, x_t)
        (t,) = self._times(x_t, t=t)
        return narrowed(self._score(widened(x_t), widened(x_0), t), x_t)

r"""The protocol: what every process can do.

A process noises points of a space and knows its bridge, the law of :math:`x_s` given both
:math:`x_0` and :math:`x_t`. Time 0 is data; time grows towards noise. Public methods check their
input, expand times and call the hook of the same name with an underscore (see `_hooks`). Those
that draw nothing (errors, densities, scores, conversions) are in `_measures`.
"""

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from bridges._draw import Generator, as_draws
from bridges._measures import Measures
from bridges._precision import at_least_float32, exact, widened
from bridges._shapes import State, Time, map_structure

if TYPE_CHECKING:
    from bridges.clock import Clock


class Process(Measures):
    """A Markov process on a space, with its bridge.

    States are tensors `(*B, *P)`: any batch shape, then the `point_ndim` dimensions of one point.
    Times are numbers or tensors whose shape is `()` or a leading part of the batch shape. Device
    and floating dtype that go in come out; half precision is computed on in float32, and autocast
    is off. Randomness comes from `generator` alone (None: the
    global state).
    """

    @final
    @exact
    def sample_forward(
        self, x: State, t: Time, *, start: Time = 0.0, generator: Generator = None
    ) -> State:
        """Draw x_t given that the process is at x at time `start`.

        Args:
            x: the state at time `start`, shape `(*B, *P)`.
            t: the time to go to.
            start: the time to go from, 0 ≤ start ≤ t.
            generator: the source of randomness.

        Returns:
            x_t, like x.

        Raises:
            TypeError, ValueError: if a state or a time is not what the space expects.
        """
        self._check(x, "x")
        start, t = self._times(x, start=start, t=t)
        x_t = self._forward(widened(x), start, t, as_draws(generator))
        return self._narrowed(x_t, x)

    @final
    @exact
    def sample_bridge(
        self,
        x_0: State,
        x_t: State,
        s: Time,
        t: Time,
        *,
        eta: Any = 1.0,
        generator: Generator = None,
    ) -> State:
        """Draw x_s given x_0 and x_t.

        Args:
            x_0: the state at time 0, shape `(*B, *P)`.
            x_t: the state at time t, like x_0.
            s: the time to draw at, 0 ≤ s ≤ t. At t the answer is x_t and at 0 it is x_0, exactly;
                at s = t = 0 it is x_t, so that a part kept clean stays.
            t: the time of x_t.
            eta: stochasticity; 1 is the exact law, 0 deterministic.
            generator: the source of randomness.

        Returns:
            x_s, like x_t.

        Raises:
            TypeError, ValueError: if a state, a time or eta is not what the space expects.
        """
        self._check_clean(x_0, "x_0")
        self._check(x_t, "x_t")
        self._check_alike(x_0, x_t)
        s, t = self._times(x_t, s=s, t=t)
        ends, draws = (widened(x_0), widened(x_t)), as_draws(generator)
        return self._narrowed(self._between(*ends, s, t, self._eta(eta), draws), x_t, x_0)

    @final
    @exact
    def sample_prior(
        self,
        shape: Any,
        *,
        generator: Generator = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> State:
        """Draw from the law at t → ∞.

        Args:
            shape: the batch shape (for a Joint, a structure of batch shapes).
            generator: the source of randomness.
            dtype: floating dtype; None for torch's default. Tokens are int64 whatever it is.
            device: None for the CPU.

        Returns:
            A state of shape `(*shape, *P)`.
        """
        dtype = torch.get_default_dtype() if dtype is None else dtype
        device = torch.device("cpu" if device is None else device)
        wide = at_least_float32(dtype)
        x = self._prior(self._shape(shape), as_draws(generator), wide, device)
        if wide == dtype:
            return x
        return self._narrowed(x, map_structure(lambda leaf: _like(leaf, dtype), x))

    @final
    @exact
    def endpoint(
        self, prediction: Any, x_t: State, t: Time, *, generator: Generator = None
    ) -> State:
        """Turn what a network says about x_0 into a point of the space.

        Args:
            prediction: what the network said: a point, logits for tokens, a tangent vector or a
                distribution (see `bridges.prediction` and each space).
            x_t: the noised state, shape `(*B, *P)`.
            t: its time.
            generator: the source of randomness, where a point is drawn.

        Returns:
            x̂_0, like x_t.

        Raises:
            TypeError, ValueError: if the prediction is not one for this space and this state.
        """
        self._check(x_t, "x_t")
        (t,) = self._times(x_t, t=t)
        x_0_hat = self._endpoint(prediction, widened(x_t), t, as_draws(generator))
        return self._narrowed(x_0_hat, x_t)

    @final
    @exact
    def sample_step(
        self,
        prediction: Any,
        x_t: State,
        s: Time,
        t: Time,
        *,
        eta: Any = 1.0,
        generator: Generator = None,
    ) -> tuple[State, State]:
        """Take one reverse step: `endpoint`, then `sample_bridge` towards it.

        Args:
            prediction: what the network said about x_0.
            x_t: the state at time t, shape `(*B, *P)`.
            s: the time to go to, 0 ≤ s ≤ t.
            t: the time of x_t.
            eta: stochasticity; 1 is the exact law, 0 deterministic.
            generator: the source of randomness.

        Returns:
            `(x_s, x_0_hat)`, both like x_t.

        Raises:
            TypeError, ValueError: if a state, a time, eta or the prediction is not as expected.
        """
        self._check(x_t, "x_t")
        s, t = self._times(x_t, s=s, t=t)
        eta, draws = self._eta(eta), as_draws(generator)
        x_s, x_0_hat = self._step(prediction, widened(x_t), s, t, eta, draws)
        return self._narrowed(x_s, x_t), self._narrowed(x_0_hat, x_t)

    def where(self, mask: Any) -> "Process":
        """Return the process on the elements where the mask is true; the rest stays bit for bit.

        Args:
            mask: bool, over a leading part of the batch shape. For a Joint, one for all parts, or
                a structure, with None for a part that is left whole.
        """
        from bridges.partial import Partial

        return Partial(self, mask)

    def on(self, clock: "Clock") -> "Process":
        """Return the same process run on another clock: every time t becomes clock(t)."""
        from bridges.clocked import Clocked

        return Clocked(self, clock)

    def tempered(self, scale: Any) -> "Process":
        """Return the process with its bridge at another temperature: no longer the law.

        Normals are multiplied by `scale`, and logits divided by it. Forward noising is unchanged.
        Where no noise is drawn there is nothing to scale: `eta` = 0, solvers that draw none, and
        a model that says tokens in place of logits raise.

        Args:
            scale: the factor, positive; for a Joint, one or a structure.
        """
        from bridges.wrapper import Tempered

        return Tempered(self, scale)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return zeros like a tensor, of a dtype; tokens keep theirs."""
    return torch.zeros_like(x, dtype=dtype if x.is_floating_point() else x.dtype)

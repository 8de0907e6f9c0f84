r"""Tokens: integers, and what a network says about them. What all processes on tokens share.

A state holds integers in [0, S), x_0 in [0, K): some processes have states that only noise can
reach, such as a mask, and they come last.

A network gives logits of :math:`p(x_0 \mid x_t)`, which is the posterior that cross-entropy
learns. They are read by drawing x_0 from them and then x_s from the bridge: exact for one token at
any number of steps. Several tokens are drawn independently, and their joint law is recovered as
the steps shrink.

The plug-in reading puts probabilities in place of x_0 in :math:`p(x_s \mid x_t) \propto p(x_s)\,
p(x_t \mid x_s)`. It needs the leave-one-out law, what everything but the token's own noised value
says; given the posterior it counts that value twice, and is wrong at any step. By Bayes

.. math:: p_\text{post}(x_0) \propto p_\text{loo}(x_0)\,P(x_t \mid x_0),

so leave-one-out logits, marked `PlugIn`, are turned into the posterior's and read as those: that
is the plug-in reading, exactly.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from bridges._device import may_look, widest
from bridges._draw import Draws, refuse
from bridges._precision import at_least_float32, exact
from bridges._shapes import as_number, describe
from bridges.prediction import PlugIn
from bridges.process import Process

TOKEN_DTYPES: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""What tokens may be predicted in; states are int64."""

BITS: Final = 1 / math.log(2)
"""Bits in a nat: Diffusions.jl measures the cross-entropy in bits."""


class TokenProcess(Process):
    """A process on tokens.

    An integer prediction is a point in [0, K); a floating one of shape `(*B, K)` is logits of the
    posterior; `PlugIn` holds leave-one-out logits. The error is the cross-entropy of the posterior
    in nats.

    What is no token (an integer outside [0, K), logits that are NaN, all −∞ or ∞ somewhere)
    raises on the CPU. On a device and in compiled code, where nobody may look, it becomes −1, in
    x̂_0 and in x_s, and stays so.
    """

    k: int

    @property
    def states(self) -> int:
        """S, the number of values that a state may take; K of them x_0 may take too."""
        return self.k

    # ---------------------------------------------------------------- what a process writes

    @abstractmethod
    def _bridge_probs(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return the law of x_s given x_0 and x_t, shape `(*B, S)`."""

    @abstractmethod
    def _reverse_probs(self, p: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Return the law of x_s for x_0 drawn from the probabilities p, `(*B, K)` in float64."""

    @abstractmethod
    def _weighed(self, logits: Tensor, x_t: Tensor, t: Tensor, sign: int) -> Tensor:
        """Add sign · log P(x_t | x_0) to logits of x_0, up to a constant."""

    # ---------------------------------------------------------------- laws

    @exact
    def bridge_probs(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any) -> Tensor:
        """Return the law of x_s given x_0 and x_t, as `sample_bridge` draws it.

        Args:
            x_0: tokens, shape `(*B,)`.
            x_t: tokens, shape `(*B,)`.
            s: time, 0 ≤ s ≤ t.
            t: time of x_t, positive.

        Returns:
            Probabilities in float64, shape `(*B, S)`.

        Raises:
            TypeError, ValueError: if a state or a time is not what the process expects.

        >>> from bridges import UniformDiscreteDiffusion
        >>> process = UniformDiscreteDiffusion(1.0, 3)
        >>> process.bridge_probs(torch.tensor(0), torch.tensor(2), 0.0, 1.0)
        tensor([1., 0., 0.], dtype=torch.float64)
        """
        self._check_clean(x_0, "x_0")
        self._check(x_t, "x_t")
        self._check_alike(x_0, x_t)
        s, t = self._times(x_t, s=s, t=t)
        return self._bridge_probs(x_0, x_t, s, t)

    @exact
    def reverse_probs(self, prediction: Tensor | PlugIn, x_t: Tensor, s: Any, t: Any) -> Tensor:
        r"""Return the law of x_s that `sample_step` draws from, token by token. Exact.

        .. math:: p(x_s \mid x_t) = \sum_{x_0} p(x_0 \mid x_t)\,p(x_s \mid x_0, x_t)

        Args:
            prediction: logits of the posterior, shape `(*B, K)`, or `PlugIn`.
            x_t: tokens, shape `(*B,)`.
            s: time, 0 ≤ s ≤ t.
            t: time of x_t, positive.

        Returns:
            Probabilities in float64, shape `(*B, S)`, with the gradient of the logits.

        Raises:
            TypeError, ValueError: if an argument is not what the process expects.

        >>> from bridges import UniformDiscreteDiffusion
        >>> process, x_t = UniformDiscreteDiffusion(1.0, 2), torch.tensor(0)
        >>> process.reverse_probs(torch.zeros(2), x_t, 0.0, 1.0)
        tensor([0.5000, 0.5000], dtype=torch.float64)
        """
        self._check(x_t, "x_t")
        s, t = self._times(x_t, s=s, t=t)
        logits = self._posterior(prediction, x_t, t)
        return self._reverse_probs(logits.softmax(-1, dtype=widest(x_t.device)), x_t, s, t)

    @exact
    def posterior(self, logits: Tensor, x_t: Tensor, t: Any) -> Tensor:
        """Turn leave-one-out logits of x_0 into logits of the posterior, by Bayes.

        Args:
            logits: what everything but the token itself says of x_0, shape `(*B, K)`.
            x_t: tokens, shape `(*B,)`.
            t: time of x_t.

        Returns:
            Logits, like `logits`, finite where those are: an x_0 that x_t rules out loses 708, as
            if it had probability 10⁻³⁰⁸.

        Raises:
            TypeError, ValueError: if an argument is not what the process expects.

        >>> from bridges import UniformDiscreteDiffusion
        >>> process, x_t = UniformDiscreteDiffusion(math.log(2), 2), torch.tensor(0)
        >>> process.posterior(torch.zeros(2), x_t, 1.0).softmax(-1)
        tensor([0.7500, 0.2500])
        """
        return self._converted(logits, x_t, t, 1)

    @exact
    def leave_one_out(self, logits: Tensor, x_t: Tensor, t: Any) -> Tensor:
        """Turn logits of the posterior of x_0 into leave-one-out logits: undo `posterior`.

        Where x_t tells x_0 (small times, revealed tokens) nothing is known of the others, and
        rounding is all that is left.

        Args:
            logits: logits of the posterior, as cross-entropy learns them, shape `(*B, K)`.
            x_t: tokens, shape `(*B,)`.
            t: time of x_t.

        Returns:
            Logits, like `logits`; what `PlugIn` holds.

        Raises:
            TypeError, ValueError: if an argument is not what the process expects.
        """
        return self._converted(logits, x_t, t, -1)

    def _converted(self, logits: Tensor, x_t: Tensor, t: Any, sign: int) -> Tensor:
        self._check(x_t, "x_t")
        (t,) = self._times(x_t, t=t)
        return self._weighed(self._logits(logits, x_t), x_t, t, sign)

    # ---------------------------------------------------------------- predictions

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if may_look(x_t):
            return self._drawn(prediction, x_t, t, draws)
        return torch.where(x_t < 0, -1, self._drawn(prediction, x_t.clamp(min=0), t, draws))

    def _drawn(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        told = self._is_told(x_t)
        if isinstance(prediction, Tensor) and prediction.dtype in TOKEN_DTYPES:
            x_0_hat = self._point(prediction, x_t)
            wrong = (x_0_hat < 0) | (x_0_hat >= self.k)
            refuse(wrong, told, f"predicted tokens to lie in [0, {self.k}); got others for")
            x_0_hat = x_0_hat if may_look(wrong) else torch.where(wrong, -1, x_0_hat)
        else:
            logits = self._known(self._posterior(prediction, x_t, t), x_t, t)
            x_0_hat = draws.categorical(logits, unused=told)
        return x_0_hat if told is None else torch.where(told, x_t, x_0_hat)

    def _step(
        self, prediction: Any, x_t: Tensor, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        x_0_hat = self._endpoint(prediction, x_t, t, draws)
        return on_tokens(self._between, x_0_hat, x_t, s, t, eta, draws), x_0_hat

    def _is_told(self, x_t: Tensor) -> Tensor | None:
        """Whether x_t is x_0 for certain, and no guess is believed; None for nowhere."""
        return None

    def _known(self, logits: Tensor, x_t: Tensor, t: Any) -> Tensor:
        """Take from the logits of the posterior what x_t rules out."""
        return logits

    def _posterior(self, prediction: Any, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits of the posterior that a prediction stands for."""
        if isinstance(prediction, PlugIn):
            return self._weighed(self._logits(prediction.logits, x_t), x_t, t, 1)
        return self._logits(prediction, x_t)

    def _logits(self, prediction: Any, x: Tensor) -> Tensor:
        expected = (*x.shape, self.k)
        if not isinstance(prediction, Tensor) or not prediction.is_floating_point():
            raise TypeError(
                f"Expected logits of shape {tuple(expected)} for {type(self).__name__}; "
                f"got {describe(prediction)}."
            )
        if prediction.shape != expected:
            raise ValueError(
                f"Expected logits to have shape {tuple(expected)}; got {tuple(prediction.shape)}."
            )
        return prediction

    def _error(self, prediction: Any, x_0: Tensor, x_t: Tensor | None, t: Any) -> Tensor:
        if isinstance(prediction, PlugIn) and (x_t is None or t is None):
            raise ValueError("Expected x_t and t beside leave-one-out logits; got None.")
        logits = self._posterior(prediction, x_0 if x_t is None else x_t, t)
        if x_t is not None and t is not None:
            logits = self._known(logits, x_t, t)
        logits = logits.to(at_least_float32(logits.dtype))
        rows, target = logits.reshape(-1, self.k), x_0.reshape(-1)
        error = functional.cross_entropy(rows, target, reduction="none").reshape(x_0.shape)
        told = None if x_t is None else self._is_told(x_t)
        return error if told is None else torch.where(told, 0.0, error)

    # ---------------------------------------------------------------- checks

    def _check_dtype(self, x: Tensor, name: str) -> None:
        if x.dtype != torch.int64:
            raise TypeError(f"Expected {name} to be an int64 tensor of tokens; got {describe(x)}.")

    def _check_values(self, x: Tensor, name: str) -> None:
        _check_below(x, name, self.states, "tokens")

    def _check_clean_values(self, x_0: Tensor, name: str) -> None:
        if self.states > self.k:
            _check_below(x_0, name, self.k, "clean tokens, no mask,")

    def _eta(self, eta: Any) -> float:
        number = as_number(eta, "eta")
        if number != 1:
            raise ValueError(
                f"Expected eta to be 1 for tokens, which have no deterministic path; got {eta!r}."
            )
        return number


def on_tokens(draw: Callable[..., Tensor], x_0_hat: Tensor, x_t: Tensor, *more: Any) -> Tensor:
    """Return draw(x_0_hat, x_t, *more), and −1 where either is no token."""
    if may_look(x_t):  # what is no token was refused
        return draw(x_0_hat, x_t, *more)
    legal = (x_0_hat >= 0) & (x_t >= 0)
    x_s = draw(torch.where(legal, x_0_hat, 0), torch.where(legal, x_t, 0), *more)
    return torch.where(legal, x_s, -1)


def above_0(probs: Tensor) -> Tensor:
    """Return probabilities with the least positive number, e⁻⁷⁰⁸ in float64, in place of 0."""
    return probs.clamp(min=torch.finfo(probs.dtype).tiny)


def _check_below(x: Tensor, name: str, bound: int, kind: str) -> None:
    if x.numel() and not bool(((x >= 0) & (x < bound)).all()):
        raise ValueError(
            f"Expected {name} to hold {kind} in [0, {bound}); "
            f"got values from {int(x.min())} to {int(x.max())}."
        )

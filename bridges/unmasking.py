r"""Sampling from masks beyond the bridge: no step-size error, or second thoughts.

`sample_backward` on a `MaskingDiscreteDiffusion` reveals the masks of a step independently of each
other, which is right only as steps shrink. `sample_by_first_hitting` reveals them one by one, at
the times at which the process would. `Remasking` is a process that takes tokens back, so that they
are drawn again when more is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bridges._device import widest
from bridges._draw import Draws, Generator, TemperedDraws, as_draws
from bridges._precision import exact
from bridges._shapes import State, Time, as_number, describe
from bridges._space import expand_mask
from bridges.categorical import MaskingDiscreteDiffusion
from bridges.clock import Clock
from bridges.clocked import Clocked
from bridges.partial import Partial
from bridges.prediction import Prediction
from bridges.process import Process
from bridges.sampler import Guess
from bridges.selfcondition import RunGuess
from bridges.token_process import above_0, on_tokens
from bridges.wrapper import Tempered, Wrapper


def sample_by_first_hitting(
    guess: Guess, process: Process, x: Tensor, t: Time, *, generator: Generator = None
) -> Tensor:
    r"""Reveal the masks of every example one by one, in as many calls of the guess. Exact.

    With n masks left and :math:`m = 1 - \alpha_t` the share of masks at the present time, the next
    is revealed at the time where

    .. math:: m \leftarrow m\,u^{1/n}, \qquad u \sim U(0, 1),

    n uniform numbers below m being largest there, and it is any of the n. Its token is drawn from
    the guess's logits. If these are the true posterior, the samples have the law of the data:
    there is no step, and no step-size error. The examples keep times of their own.

    References:
        Zheng et al., Masked diffusion models are secretly time-agnostic masked models and exploit
        inaccurate categorical sampling, 2024 (the first-hitting sampler).

    Args:
        guess: `guess(x_t, t)` returns logits `(B, *, K)`; t has shape (B,).
        process: a `MaskingDiscreteDiffusion`, or one on a clock, tempered, or on a mask.
        x: tokens of shape `(B, *)`; what is not a mask stays, bit for bit.
        t: the time of x, a number or one per example, (B,): 1 on `LogLinearClock`, or a time at
            which all is masked.
        generator: the source of randomness.

    Returns:
        Tokens, like x, without a mask where the process is.

    Raises:
        TypeError: if the process is another, or the guess cannot be called.
        ValueError: if x or a prediction has not the shape or the values of the process.

    >>> process = MaskingDiscreteDiffusion(1.0, 3)
    >>> x = torch.tensor([[3, 1, 3, 3]])
    >>> sample_by_first_hitting(lambda x_t, t: torch.tensor([0.0, 0.0, 99.0]).expand(1, 4, 3),
    ...                         process, x, 100.0)
    tensor([[2, 1, 2, 2]])
    """
    process._check(x, "x")
    if not callable(guess):
        raise TypeError(f"Expected guess to be callable; got {describe(guess)}.")
    if x.ndim == 0:
        raise ValueError("Expected x to have at least 1 dimension; got shape ().")
    (t,) = process._times(x, t=t)
    masking, hidden, share, inverse, draws = _unwrapped(process, x, t, as_draws(generator))
    if x.numel() == 0:
        return x
    hidden = hidden.reshape(len(x), -1)
    rounds = int(hidden.sum(1).max())
    run = guess.start() if isinstance(guess, RunGuess) else guess
    with torch.no_grad():
        return _reveal(run, masking, x, hidden, share, inverse, rounds, draws)


def _unwrapped(
    process: Process, x: Tensor, t: Tensor, draws: Draws
) -> tuple[MaskingDiscreteDiffusion, Tensor, Tensor, Callable[[Tensor], Tensor], Draws]:
    """Return the masking process, its masks, their share at t, its times to t, and its draws."""
    clocks: list[Clock] = []
    free = torch.ones_like(x, dtype=torch.bool)
    while not isinstance(process, MaskingDiscreteDiffusion):
        if isinstance(process, Clocked):
            clocks.append(process.clock)
            t = process.clock(t)
        elif isinstance(process, Partial):
            free = free & expand_mask(process.mask, x, 0)
        elif isinstance(process, Tempered):
            draws = TemperedDraws(draws, process.scale)
        else:
            raise TypeError(
                "Expected process to be a MaskingDiscreteDiffusion, or one on a clock, tempered "
                f"or on a mask; got {type(process).__name__}."
            )
        process = process.process

    def inverse(tau: Tensor) -> Tensor:
        for clock in reversed(clocks):
            tau = clock.inverse(tau)
        return tau

    share = -torch.expm1(-process.rate * t).to(x.device)
    share = share.reshape(share.shape[:1]).expand(len(x))
    return process, free & (x == process.k), share, inverse, draws


def _reveal(
    guess: Guess,
    masking: MaskingDiscreteDiffusion,
    x: Tensor,
    hidden: Tensor,
    share: Tensor,
    inverse: Callable[[Tensor], Tensor],
    rounds: int,
    draws: Draws,
) -> Tensor:
    """Walk through all rounds; `hidden` says where masks are left, shape (B, positions).

    `share` is the share of masks at the start, (B,).
    """
    position = torch.arange(hidden.shape[1], device=x.device)
    for _ in range(rounds):
        left = hidden.sum(1)
        u = draws.uniform((len(x), 2), widest(x.device), x.device)
        share = share * u[:, 0] ** (1 / left.clamp(min=1))
        most = 1 - torch.finfo(share.dtype).eps / 2
        t = inverse(-torch.log1p(-share.clamp(max=most)) / masking.rate)
        rank = (u[:, 1] * left).long().unsqueeze(1)
        at = torch.searchsorted(hidden.cumsum(1), rank, right=True).clamp_(max=len(position) - 1)
        prediction = _picked(guess(x, masking._model_time(t, x)), x, at)
        masks = torch.full_like(at, masking.k)
        token = exact(masking._endpoint)(prediction, masks, t[:, None], draws)
        chosen = hidden & (position == at)
        x = torch.where(chosen.reshape(x.shape), token.reshape(-1, *[1] * (x.ndim - 1)), x)
        hidden = hidden & ~chosen
    return x


def _picked(prediction: Any, x: Tensor, at: Tensor) -> Any:
    """Take what a prediction says of one position of every example."""

    def pick(part: Any, _: float = 0.0) -> Any:
        if not isinstance(part, Tensor) or part.shape[: x.ndim] != x.shape:
            raise ValueError(
                f"Expected the prediction to have the batch shape {tuple(x.shape)}; "
                f"got {describe(part)}."
            )
        rows = torch.arange(len(x), device=x.device).unsqueeze(1)
        return part.reshape(len(x), -1, *part.shape[x.ndim :])[rows, at]

    return prediction.filled(pick) if isinstance(prediction, Prediction) else pick(prediction)


@final
@dataclass(frozen=True)
class Remasking(Wrapper):
    r"""A masking process whose reverse steps also take revealed tokens back to the mask.

    In a step from t to s a revealed token is masked with probability σ, and a mask becomes x_0
    with a larger one to make up for it:

    .. math:: \sigma = c\,\min\!\Big(1, \frac{1 - \alpha_s}{\alpha_t}\Big), \qquad
        P(\text{mask} \to x_0) = \frac{\alpha_s - (1 - \sigma)\,\alpha_t}{1 - \alpha_t}

    The law at every single time is kept, exactly; the joint law of two times is not, and σ does
    not shrink with the step, so the number of steps sets how often a token is drawn. It corrects
    what a network says wrongly while little is known. With the true posterior it is no help: more
    masks are revealed at once, and the samples are further off than by the plain bridge.

    References:
        Wang et al., Remasking discrete diffusion models with inference-time scaling, 2025.

    Args:
        process: a `MaskingDiscreteDiffusion`, or one on a clock; put masks around the result.
        share: c, 0 ≤ c ≤ 1, the share of the largest σ; 0 is the plain bridge.

    Raises:
        TypeError: if the process is another.
        ValueError: if the share is not in [0, 1].

    >>> process = Remasking(MaskingDiscreteDiffusion(1.0, 3), 0.5)
    >>> process.sample_step(torch.zeros(2, 3), process.sample_prior((2,)), 0.0, 1.0)[0] < 3
    tensor([True, True])
    """

    process: Process
    share: float

    def __post_init__(self) -> None:
        if not isinstance(_off_clocks(self.process)[0], MaskingDiscreteDiffusion):
            raise TypeError(
                "Expected process to be a MaskingDiscreteDiffusion; "
                f"got {type(self.process).__name__}."
            )
        if not 0 <= as_number(self.share, "share") <= 1:
            raise ValueError(f"Expected share to lie in [0, 1]; got {self.share!r}.")

    def _masking(self) -> MaskingDiscreteDiffusion:
        return _off_clocks(self.process)[0]  # type: ignore[return-value]

    def _bridge(self, x_0: State, x_t: State, s: Any, t: Any, eta: Any, draws: Draws) -> State:
        return on_tokens(self._remasked, x_0, x_t, s, t, draws)

    def _remasked(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any, draws: Draws) -> Tensor:
        def inside(s: Tensor, t: Tensor) -> Tensor:
            u = draws.uniform(x_t.shape, widest(x_t.device), x_t.device)
            hide, reveal = (p.to(u.dtype) for p in self._shares(s, t))
            masked = x_t == self._masking().k
            moves = u < torch.where(masked, reveal, hide)
            return torch.where(moves, torch.where(masked, x_0, self._masking().k), x_t)

        x_s: Tensor = self._pinned(x_0, x_t, s, t, inside)
        return x_s

    def _shares(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities to mask a token, and to reveal a mask."""
        rate, (s, t) = self._masking().rate, _off_clocks(self.process, s, t)[1]
        alpha_s, alpha_t = torch.exp(-rate * s), torch.exp(-rate * t)
        hide = self.share * (-torch.expm1(-rate * s) / above_0(alpha_t)).clamp(max=1)
        gained = -alpha_s * torch.expm1(-rate * (t - s)) + hide * alpha_t
        return hide, gained / -torch.expm1(-rate * t)

    def _step(
        self, prediction: Any, x_t: State, s: Any, t: Any, eta: Any, draws: Draws
    ) -> tuple[State, State]:
        x_0_hat = self._endpoint(prediction, x_t, t, draws)
        return self._bridge(x_0_hat, x_t, s, t, eta, draws), x_0_hat


def _off_clocks(process: Process, *times: Tensor) -> tuple[Process, tuple[Tensor, ...]]:
    """Return a process without its clocks, and its own times."""
    while isinstance(process, Clocked):
        times = tuple(process.clock(t) for t in times)
        process = process.process
    return process, times

r"""Solvers: how a sampler goes from x_t to x_s, for Gaussian processes.

The process's own step holds x̂_0 through the step and is exact but for that. A solver of the
probability flow follows how x̂_0 changes, and so needs fewer guesses:

.. math:: \frac{d}{du}\,\frac{y}{\alpha} = \varepsilon(y), \qquad
    \varepsilon = \frac{y - \alpha\,\hat y_0(y)}{\sigma}, \qquad u = \sigma/\alpha,

where y is x with the mean taken off. All solvers here are linear in the states and the guesses,
with factors that depend on the times only: `start` computes them for a whole grid, in float64, and
a step is a few products. At s = 0 each of them ends at its last x̂_0 exactly. The flow has the
marginals of the process, so all are exact as the steps shrink, if the guess is the posterior mean;
they differ in how fast. The solvers are in `one_step` and `multistep`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from bridges._draw import Draws
from bridges._shapes import State, leaves
from bridges.curve import Scales
from bridges.process import Process


class Solver(ABC):
    """What a sampler does between two guesses.

    A solver holds its own numbers only. What belongs to a run is in its carry, a value that is
    never written to: a step is a function.
    """

    @property
    def corrections(self) -> int:
        """How many further guesses a step to s > 0 takes, each at x_s."""
        return 0

    @property
    def draws_noise(self) -> bool:
        """Whether its steps draw noise; a tempered process refuses a solver that draws none."""
        return True

    @abstractmethod
    def start(self, process: Process, times: Sequence[Tensor]) -> Any:
        """Return the carry of a run.

        Args:
            process: the process, of one space.
            times: increasing float64 times that broadcast over the batch; they are walked from
                the last to the first.

        Raises:
            NotImplementedError: if this is not a process for the solver.
        """

    @abstractmethod
    def step(
        self, carry: Any, prediction: Any, x_t: State, s: Any, t: Any, draws: Draws
    ) -> tuple[Any, State, State]:
        """Return the carry, x_s and x̂_0 after one step.

        Args:
            carry: as `start` or the last step left it.
            prediction: what the guess said at x_t.
            x_t: the state at time t.
            s: the time to go to; it is t where an element waits.
            t: the time of x_t.
            draws: the source of randomness.
        """

    def correct(
        self, carry: Any, prediction: Any, x_s: State, s: Any, t: Any, draws: Draws
    ) -> tuple[Any, State]:
        """Return the carry and a better x_s, given what the guess said at it."""
        return carry, x_s


@final
@dataclass(frozen=True)
class OwnStep(Solver):
    """The process's own step, with stochasticity η: what a sampler does without a solver."""

    eta: Any

    def start(self, process: Process, times: Sequence[Tensor]) -> Process:
        return process

    def step(
        self, carry: Process, prediction: Any, x_t: State, s: Any, t: Any, draws: Draws
    ) -> tuple[Process, State, State]:
        x_s, x_0_hat = carry._step(prediction, x_t, s, t, self.eta, draws)
        return carry, x_s, x_0_hat


@final
class Together(Solver):
    """The solvers of the parts of a Joint as one; a carry counts the corrections made."""

    def __init__(self, solvers: Any) -> None:
        self.solvers = solvers

    @property
    def corrections(self) -> int:
        """The most that a part makes; the others stay as they are."""
        each: list[Solver] = leaves(self.solvers)
        return max(solver.corrections for solver in each)

    def start(self, process: Process, times: Sequence[Any]) -> Any:
        carry = process._each(lambda part, solver, *t: solver.start(part, t), self.solvers, *times)
        return process, carry, 0

    def step(
        self, carry: Any, prediction: Any, x_t: State, s: Any, t: Any, draws: Draws
    ) -> tuple[Any, State, State]:
        process, inner, _ = carry
        done = process._each(
            lambda part, solver, *state: solver.step(*state, draws),
            *(self.solvers, inner, prediction, x_t, s, t),
        )
        inner, x_s, x_0 = (process._each(lambda part, one, k=k: one[k], done) for k in range(3))
        return (process, inner, 0), x_s, x_0

    def correct(
        self, carry: Any, prediction: Any, x_s: State, s: Any, t: Any, draws: Draws
    ) -> tuple[Any, State]:
        process, inner, made = carry

        def one(
            part: Process, solver: Solver, inner: Any, prediction: Any, x_s: State, s: Any, t: Any
        ) -> tuple[Any, State]:
            if made >= solver.corrections:
                return inner, x_s
            return solver.correct(inner, prediction, x_s, s, t, draws)

        done = process._each(one, self.solvers, inner, prediction, x_s, s, t)
        inner, x_s = (process._each(lambda part, one, k=k: one[k], done) for k in range(2))
        return (process, inner, made + 1), x_s


def together(solvers: Any) -> Solver:
    """Return a structure of solvers as one solver."""
    return solvers if isinstance(solvers, Solver) else Together(solvers)


class Carry(NamedTuple):
    """Where a run of a Gaussian solver stands."""

    process: Process
    factors: Sequence[Sequence[Any]]
    taken: int = 0
    history: tuple[Tensor, ...] = ()

    def now(self) -> Sequence[Any]:
        """Return the factors of the step to take."""
        return self.factors[self.taken]

    def last(self) -> Sequence[Any]:
        """Return the factors of the step that was taken."""
        return self.factors[self.taken - 1]


class GaussianSolver(Solver):
    """A solver whose steps are linear, with factors from the α and σ of the grid alone.

    It follows the probability flow and draws nothing, unless it says so.
    """

    @property
    def draws_noise(self) -> bool:
        """No, unless a solver says otherwise."""
        return False

    @abstractmethod
    def _factors(self, t: Scales, s: Scales) -> Sequence[Tensor]:
        """Return the factors (n, …) of n steps, from the scales before and after each."""

    def _inside(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> Tensor:
        """Return x_s where it is neither x_t nor x̂_0: of the first two factors, without noise."""
        of_x_t, of_x_0, *_ = carry.now()
        found: Tensor = carry.process._combine(x_t, of_x_t, ((of_x_0, x_0),), 0.0, draws)
        return found

    def _kept(self, carry: Carry, x_t: Tensor, x_0: Tensor, draws: Draws) -> tuple[Tensor, ...]:
        """Return what the next step, or the correction, remembers."""
        return ()

    def start(self, process: Process, times: Sequence[Tensor]) -> Carry:
        alpha, sigma = process._scales(torch.stack(tuple(reversed(times))))
        t, s = Scales(alpha[:-1], sigma[:-1]), Scales(alpha[1:], sigma[1:])
        return Carry(process, _rows(torch.stack(tuple(self._factors(t, s)), 1)))

    def step(
        self, carry: Carry, prediction: Any, x_t: Tensor, s: Any, t: Any, draws: Draws
    ) -> tuple[Carry, Tensor, Tensor]:
        process = carry.process
        x_0 = process._endpoint(prediction, x_t, t, draws)
        x_s = process._pinned(x_0, x_t, s, t, lambda s, t: self._inside(carry, x_t, x_0, draws))
        kept = self._kept(carry, x_t, x_0, draws)
        return Carry(process, carry.factors, carry.taken + 1, kept), x_s, x_0


def _rows(factors: Tensor) -> Sequence[Sequence[Any]]:
    """List factors step by step: as numbers where they are numbers on the host."""
    if factors.ndim == 2 and factors.device.type == "cpu":
        rows: list[list[float]] = factors.tolist()
        return rows
    return [row.unbind() for row in factors.unbind()]

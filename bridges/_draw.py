"""Every random draw of the library.

A method that draws takes a keyword `generator`: a `torch.Generator`, a `Draws` object, or None for
the global state. Nothing here is stored between calls, and the global state is untouched when a
generator is given. Tokens are drawn from logits by inversion in float64: float32 noise cannot tell
probabilities below 2⁻²⁴ apart and would never draw a rare token (Zheng et al., "Masked diffusion
models are secretly time-agnostic masked models and exploit inaccurate categorical sampling",
2024).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

import torch
from torch import Tensor

from bridges._shapes import describe, positive

MAX_ROUNDS: Final = 10_000
"""Rounds after which a rejection sampler gives up on the host; 1 % acceptance ends long before."""


class Draws(ABC):
    """Where random numbers come from."""

    @abstractmethod
    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Draw standard normals."""

    @abstractmethod
    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Draw uniform numbers in [0, 1)."""

    def categorical(self, logits: Tensor) -> Tensor:
        r"""Draw tokens with probabilities softmax(logits).

        Args:
            logits: shape `(*B, K)`, any floating dtype; never written to.

        Returns:
            int64 tokens of shape (*B,).
        """
        cdf = torch.softmax(logits, -1, dtype=torch.float64).cumsum(-1)
        u = self.uniform((*logits.shape[:-1], 1), torch.float64, logits.device)
        token = torch.searchsorted(cdf, u * cdf[..., -1:], right=True)
        return token.squeeze(-1).clamp_(max=logits.shape[-1] - 1)


@final
class GeneratorDraws(Draws):
    """Draws from a `torch.Generator`, or from the global state."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device, generator=self.generator)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.rand(shape, dtype=dtype, device=device, generator=self.generator)


@final
class TemperedDraws(Draws):
    """Draws at another temperature: normals times `scale`, logits divided by it.

    Not the law of the process any more: below one, samples crowd towards the likely.
    """

    def __init__(self, draws: Draws, scale: float) -> None:
        self.draws = draws
        self.scale = positive(scale, "scale")

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.scale * self.draws.normal(shape, dtype, device)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return self.draws.uniform(shape, dtype, device)

    def categorical(self, logits: Tensor) -> Tensor:
        return self.draws.categorical(logits / self.scale)


Generator: TypeAlias = torch.Generator | Draws | None


def as_draws(generator: Generator) -> Draws:
    """Wrap what a caller passed as `generator`."""
    if isinstance(generator, Draws):
        return generator
    if generator is None or isinstance(generator, torch.Generator):
        return GeneratorDraws(generator)
    raise TypeError(
        "Expected generator to be a torch.Generator, a Draws object or None; "
        f"got {describe(generator)}."
    )


def first_accepted(
    propose: Callable[..., tuple[Tensor, Tensor]], rows: Sequence[Tensor], rounds: int
) -> Tensor:
    """Propose for every row until it accepts.

    On the host the rows still waiting are proposed again, until none waits. On a device nobody may
    look, so all rows are proposed `rounds` times and each keeps the first proposal that it
    accepted; the caller chooses `rounds` so that the share still waiting is below 1e-9, and those
    keep the last proposal.

    Args:
        propose: maps rows to proposals (N, …) and whether each is accepted (N,).
        rows: tensors (N, …) that the proposals depend on.
        rounds: how often a device proposes.
    """
    value, done = propose(*rows)
    if value.device.type != "cpu":
        for _ in range(rounds - 1):
            proposal, accepted = propose(*rows)
            value = torch.where(done.reshape(-1, *[1] * (value.ndim - 1)), value, proposal)
            done = done | accepted
        return value
    waiting = (~done).nonzero().squeeze(-1)
    for _ in range(MAX_ROUNDS):
        if waiting.numel() == 0:
            return value
        proposal, accepted = propose(*(row[waiting] for row in rows))
        value = value.index_copy(0, waiting, proposal)
        waiting = waiting[~accepted]
    return value

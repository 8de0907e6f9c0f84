"""Every random draw of the library.

A method that draws takes a keyword `generator`: a `torch.Generator`, a `Draws` object, or None for
the global state. Nothing here is stored between calls, and the global state is untouched when a
generator is given. Tokens are drawn from logits by inversion in float64: float32 noise cannot tell
probabilities below 2⁻²⁴ apart and would never draw a rare token (Zheng et al., "Masked diffusion
models are secretly time-agnostic masked models and exploit inaccurate categorical sampling",
2024).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

import torch
from torch import Tensor

from bridges._device import in_transform, may_look, widest
from bridges._inversion import draw_from_logits
from bridges._shapes import describe, positive

DIGITS: Final = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
"""Binary digits of a floating number; 53 for float64."""

STEP: Final = -0x61C8864680B583EB
"""The odd number nearest to 2⁶⁴ over the golden ratio, as a signed integer."""

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

    def fork(self, count: int) -> "Draws":
        """Return draws for one rejection loop over `count` rows, the batch flattened."""
        return self

    def rows(self, index: Tensor) -> "Draws":
        """Return the draws of some rows of a fork, as its next rounds see them."""
        return self

    def categorical(self, logits: Tensor, *, unused: Tensor | None = None) -> Tensor:
        r"""Draw tokens with probabilities softmax(logits).

        Args:
            logits: shape `(*B, K)`, any floating dtype; never written to.
            unused: bool, shape (*B,): tokens that are not used, whatever their logits are.

        Returns:
            int64 tokens of shape (*B,). Where logits are NaN, all −∞ or ∞ somewhere there is no
            law: the token is −1 on a device and in compiled code, where nobody may look.

        Raises:
            ValueError: on the CPU, where there is no law.
        """
        u = self.uniform((*logits.shape[:-1], 1), widest(logits.device), logits.device)
        token = draw_from_logits(logits, u)
        refuse(token < 0, unused, "logits to have a softmax; got NaN, all −∞ or ∞ for")
        return token


def refuse(wrong: Tensor, unused: Tensor | None, what: str) -> None:
    """Raise a ValueError where tokens are wrong and used, if anybody may look.

    Args:
        wrong: bool, shape (*B,).
        unused: bool, likewise, or None.
        what: "… to be …; got … for", before the number of tokens.
    """
    if not may_look(wrong) or not bool(wrong.any()):
        return
    count = int((wrong if unused is None else wrong & ~unused).sum())
    if count:
        raise ValueError(f"Expected {what} {count} of {wrong.numel()} tokens.")


@final
class GeneratorDraws(Draws):
    """Draws from a `torch.Generator`, or from the global state."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if self.generator is None:  # compiled code with shapes that vary takes no None
            return torch.randn(shape, dtype=dtype, device=device)
        return torch.randn(shape, dtype=dtype, device=device, generator=self.generator)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        if self.generator is None:
            return torch.rand(shape, dtype=dtype, device=device)
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

    def fork(self, count: int) -> "TemperedDraws":
        return TemperedDraws(self.draws.fork(count), self.scale)

    def rows(self, index: Tensor) -> "TemperedDraws":
        return TemperedDraws(self.draws.rows(index), self.scale)

    def categorical(self, logits: Tensor, *, unused: Tensor | None = None) -> Tensor:
        return self.draws.categorical(logits / self.scale, unused=unused)


@final
class GivenDraws(Draws):
    """Noise that was drawn before, given as tensors and used up in order.

    For compiled code, for replaying a run, and for tests that walk through all the noise there is.

    Args:
        normals: standard normals, one tensor for each time a method asks.
        uniforms: numbers in [0, 1), likewise.

    Raises:
        ValueError: when a method asks for more, or for another shape, than was given.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> noise = GivenDraws(normals=[torch.zeros(2)])
    >>> OrnsteinUhlenbeckDiffusion(0.0).sample_forward(torch.ones(2), 2.0, generator=noise)
    tensor([0.3679, 0.3679])
    """

    def __init__(self, normals: Sequence[Tensor] = (), uniforms: Sequence[Tensor] = ()) -> None:
        self._normals = iter(normals)
        self._uniforms = iter(uniforms)

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return _given(next(self._normals, None), shape, "normals").to(device, dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        return _given(next(self._uniforms, None), shape, "uniforms").to(device, dtype)


def _given(noise: Tensor | None, shape: Sequence[int], name: str) -> Tensor:
    if noise is None or noise.shape != tuple(shape):
        got = "none left" if noise is None else describe(noise)
        raise ValueError(f"Expected {name} to hold a tensor of shape {tuple(shape)}; got {got}.")
    return noise


@final
class StreamDraws(Draws):
    """A stream of random numbers per sample: sample i depends on the seed and on i alone.

    However the samples are batched, and whatever their neighbours do, sample i comes out the same.
    The numbers are a hash of (seed, i, draw, element), so nothing is looped over and any device
    will do.

    References:
        Steele, Lea & Flood, Fast splittable pseudorandom number generators, 2014 (the mixing
        function).

    Args:
        seed: any integer of 64 bits.
        samples: int64 numbers i of the samples, shape (B,): the first dimension of every state.

    Raises:
        ValueError: when a method asks for a shape that does not begin with a multiple of B.

    >>> from bridges import OrnsteinUhlenbeckDiffusion
    >>> process = OrnsteinUhlenbeckDiffusion(0.0)
    >>> both = process.sample_prior((2, 3), generator=StreamDraws(7, torch.tensor([4, 9])))
    >>> one = process.sample_prior((1, 3), generator=StreamDraws(7, torch.tensor([9])))
    >>> bool((both[1] == one[0]).all())
    True
    """

    def __init__(self, seed: int, samples: Tensor) -> None:
        if not isinstance(samples, Tensor) or samples.dtype != torch.int64 or samples.ndim != 1:
            raise TypeError(
                f"Expected samples to be an int64 tensor of shape (B,); got {describe(samples)}."
            )
        self._keys = _mix(samples * STEP + _signed(int(seed)))
        self._count = 0

    def normal(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        u, angle = (self.uniform(shape, widest(device), device) for _ in range(2))
        return (torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * math.pi * angle)).to(dtype)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        self._count += 1
        keys = _mix(
            self._rows(shape[0] if len(shape) else 0).to(device) + _signed(self._count * STEP)
        )
        element = torch.arange(math.prod(shape[1:]), device=device)
        bits: Tensor = _mix(keys.unsqueeze(-1) + (element + 1) * STEP).reshape(tuple(shape))
        digits = DIGITS.get(dtype, 53)
        top: Tensor = (bits >> (64 - digits)) & (2**digits - 1)
        return top.to(dtype) * math.ldexp(1.0, -digits)

    def fork(self, count: int) -> "StreamDraws":
        self._count += 1
        return self._child(_mix(self._rows(count) + _signed(-self._count * STEP)), 0)

    def rows(self, index: Tensor) -> "StreamDraws":
        return self._child(self._keys[index.to(self._keys.device)], self._count)

    def _child(self, keys: Tensor, count: int) -> "StreamDraws":
        child = StreamDraws(0, keys[:0])
        child._keys, child._count = keys, count
        return child

    def _rows(self, count: int) -> Tensor:
        """Return a key for each of `count` rows, equally many of them to each sample."""
        own = len(self._keys)
        if own == 0 or count % own:
            if count == 0:
                return self._keys[:0]
            raise ValueError(
                f"Expected a shape to begin with a multiple of {own} samples; got {count}."
            )
        each = torch.arange(count // own, device=self._keys.device)
        return (
            _mix(self._keys.unsqueeze(-1) + each * STEP).reshape(-1) if count > own else self._keys
        )


def _signed(number: int) -> int:
    """Wrap a number around into 64 signed bits."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(bits: Tensor) -> Tensor:
    """Scramble 64 bits, one to one (SplitMix64); sums and products wrap around."""
    bits = (bits ^ ((bits >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    bits = (bits ^ ((bits >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return bits ^ ((bits >> 31) & (2**33 - 1))


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
    propose: Callable[..., tuple[Tensor, Tensor]],
    rows: Sequence[Tensor],
    draws: Draws,
    rounds: int,
) -> Tensor:
    """Propose for every row until it accepts.

    On the host the rows still waiting are proposed again, until none waits. On a device, and in a
    transform of `torch.func`, nobody may look, so all rows are proposed `rounds` times and each
    keeps the first proposal that it accepted; the caller chooses `rounds` so that the share still
    waiting is below 1e-9, and those keep the last proposal.

    Args:
        propose: `propose(draws, *rows)` returns proposals (N, …) and which are accepted (N,).
        rows: tensors (N, …) that the proposals depend on.
        draws: the source of randomness.
        rounds: how often a device proposes.
    """
    draws = draws.fork(len(rows[0]))
    value, done = propose(draws, *rows)
    if value.device.type != "cpu" or in_transform(value, done):
        for _ in range(rounds - 1):
            proposal, accepted = propose(draws, *rows)
            value = torch.where(done.reshape(-1, *[1] * (value.ndim - 1)), value, proposal)
            done = done | accepted
        return value
    refused = (~done).nonzero().squeeze(-1)
    waiting = refused
    for _ in range(MAX_ROUNDS):
        if waiting.numel() == 0:
            break
        draws = draws.rows(refused)
        proposal, accepted = propose(draws, *(row[waiting] for row in rows))
        value = value.index_copy(0, waiting, proposal)
        refused = (~accepted).nonzero().squeeze(-1)
        waiting = waiting[refused]
    return value

r"""Tokens: integers in [0, K) that forget their value and land on a fresh draw from π.

At rate β a token jumps: it takes a fresh draw from π, which may be the state it left, so the rate
counts *events*, not substitutions. With :math:`\alpha_t = e^{-\beta t}`,

.. math:: P(x_t \mid x_0) = \alpha_t\,1[x_t = x_0] + (1 - \alpha_t)\,\pi(x_t) .

The bridge given x_0 = x and x_t = y, with :math:`a = \alpha_t/\alpha_s`, is exact and costs the
same for every K. If x ≠ y it keeps x, takes y, or draws afresh from π, with probabilities

.. math::
    \frac{\alpha_s - \alpha_t}{1 - \alpha_t}, \qquad \frac{(1 - \alpha_s)\,a}{1 - \alpha_t}, \qquad
    \frac{(1 - \alpha_s)(1 - a)}{1 - \alpha_t} ;

if x = y it draws afresh with probability :math:`(1 - \alpha_s)(1 - a)\,\pi_y / (\alpha_t + (1 -
\alpha_t)\pi_y)` and stays otherwise. One uniform number decides both whether to draw and what.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional

from bridges._draw import Draws
from bridges._shapes import as_number, describe, positive
from bridges.process import Process

TOKEN_DTYPES: Final = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""What tokens may be predicted in; states are int64."""

BITS: Final = 1 / math.log(2)
"""Bits in a nat: Diffusions.jl measures the cross-entropy in bits."""


class IndependentJumps(Process):
    """Tokens that jump to a fresh draw from π, each at its own times.

    An integer prediction is a point in [0, K), which is not checked in a step; a floating one of
    shape `(*B, K)` is logits. `endpoint` draws x̂_0 from the logits: right for a model trained
    with cross-entropy. The error is the cross-entropy in nats.
    """

    rate: float
    k: int

    @abstractmethod
    def _pi(self, token: Tensor) -> Tensor:
        """Return π of each token, in float64."""

    @abstractmethod
    def _quantile(self, u: Tensor) -> Tensor:
        """Map numbers uniform in [0, 1) to tokens distributed as π."""

    def bridge_probs(self, x_0: Tensor, x_t: Tensor, s: Any, t: Any) -> Tensor:
        """Return the law of x_s given x_0 and x_t, as `sample_bridge` draws it.

        Args:
            x_0: tokens, shape `(*B,)`.
            x_t: tokens, shape `(*B,)`.
            s: time, 0 ≤ s ≤ t.
            t: time of x_t, positive.

        Returns:
            Probabilities in float64, shape `(*B, K)`.

        >>> process = UniformDiscreteDiffusion(1.0, 3)
        >>> process.bridge_probs(torch.tensor(0), torch.tensor(2), 0.0, 1.0)
        tensor([1., 0., 0.], dtype=torch.float64)
        """
        self._check(x_0, "x_0")
        self._check(x_t, "x_t")
        self._check_alike(x_0, x_t)
        s, t = self._times(x_t, s=s, t=t)
        fresh, to_t = (p.unsqueeze(-1) for p in self._weights(x_0, x_t, s, t))
        states = torch.arange(self.k, device=x_t.device)
        at_0, at_t = (functional.one_hot(x, self.k).double() for x in (x_0, x_t))
        return fresh * self._pi(states) + to_t * at_t + (1 - fresh - to_t) * at_0

    def _weights(self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities to draw afresh and to take x_t; the rest keeps x_0."""
        jumped_s, jumped = -torch.expm1(-self.rate * s), -torch.expm1(-self.rate * (t - s))
        jumped_t, kept = -torch.expm1(-self.rate * t), torch.exp(-self.rate * (t - s))
        same, pi = x_0 == x_t, self._pi(x_t)
        evidence = torch.where(same, torch.exp(-self.rate * t) + jumped_t * pi, jumped_t)
        fresh = jumped_s * jumped * torch.where(same, pi, 1.0) / evidence
        return fresh, torch.where(same, 0.0, jumped_s * kept / evidence)

    def _forward(self, x: Tensor, s: Tensor, t: Tensor, draws: Draws) -> Tensor:
        jumped = -torch.expm1(-self.rate * (t - s))
        u = draws.uniform(x.shape, torch.float64, x.device)
        return torch.where(u < jumped, self._quantile(u / jumped), x)

    def _bridge(
        self, x_0: Tensor, x_t: Tensor, s: Tensor, t: Tensor, eta: float, draws: Draws
    ) -> Tensor:
        fresh, to_t = self._weights(x_0, x_t, s, t)
        u = draws.uniform(x_t.shape, torch.float64, x_t.device)
        x_s = torch.where(u < fresh + to_t, x_t, x_0)
        return torch.where(u < fresh, self._quantile(u / fresh), x_s)

    def _prior(self, shape: Any, draws: Draws, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self._quantile(draws.uniform(shape, torch.float64, device))

    def _endpoint(self, prediction: Any, x_t: Tensor, t: Any, draws: Draws) -> Tensor:
        if isinstance(prediction, Tensor) and prediction.dtype in TOKEN_DTYPES:
            return self._point(prediction, x_t)
        return draws.categorical(self._logits(prediction, x_t))

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
        logits = self._logits(prediction, x_0).reshape(-1, self.k)
        return functional.cross_entropy(logits, x_0.reshape(-1), reduction="none").reshape(
            x_0.shape
        )

    def _log_prob(self, x_t: Tensor, x_0: Tensor, s: Tensor, t: Tensor) -> Tensor:
        stayed = torch.where(x_t == x_0, torch.exp(-self.rate * (t - s)), 0.0)
        jumped = -torch.expm1(-self.rate * (t - s)) * self._pi(x_t)
        return torch.log(stayed + jumped).to(torch.get_default_dtype())

    def _check_dtype(self, x: Tensor, name: str) -> None:
        if x.dtype != torch.int64:
            raise TypeError(f"Expected {name} to be an int64 tensor of tokens; got {describe(x)}.")

    def _check_values(self, x: Tensor, name: str) -> None:
        if x.numel() and not bool(((x >= 0) & (x < self.k)).all()):
            raise ValueError(
                f"Expected {name} to hold tokens in [0, {self.k}); "
                f"got values from {int(x.min())} to {int(x.max())}."
            )

    def _eta(self, eta: Any) -> float:
        number = as_number(eta, "eta")
        if number != 1:
            raise ValueError(
                f"Expected eta to be 1 for tokens, which have no deterministic path; got {eta!r}."
            )
        return number


@final
@dataclass(frozen=True)
class UniformDiscreteDiffusion(IndependentJumps):
    r"""Tokens that jump to a uniform draw from all K states. Exact; see the module for the laws.

    Its rate matrix is :math:`Q = \beta(\tfrac1K \mathbf 1\mathbf 1^T - I)`; a substitution happens
    at rate :math:`\beta (K-1)/K`.

    References:
        Austin et al., Structured denoising diffusion models in discrete state-spaces, 2021.

    Args:
        rate: β, jumps per unit of time, positive.
        k: K, the number of states, at least 2.

    Raises:
        ValueError: if the rate is not positive or there are fewer than two states.

    >>> process = UniformDiscreteDiffusion(0.5, 20)
    >>> x_0 = torch.zeros(2, 5, dtype=torch.int64)
    >>> x_t = process.sample_forward(x_0, torch.tensor([0.1, 3.0]))
    >>> x_t.shape, x_t.dtype
    (torch.Size([2, 5]), torch.int64)
    """

    rate: float
    k: int

    def __post_init__(self) -> None:
        positive(self.rate, "rate")
        if type(self.k) is not int or self.k < 2:
            raise ValueError(f"Expected k to be an integer of at least 2; got {describe(self.k)}.")

    def _pi(self, token: Tensor) -> Tensor:
        return torch.full_like(token, 1 / self.k, dtype=torch.float64)

    def _quantile(self, u: Tensor) -> Tensor:
        return (u * self.k).to(torch.int64).clamp_(0, self.k - 1)

    def _loss_scale(self, t: Tensor) -> Tensor:
        r"""Return √(1 − e^{−βt}) · ((K − 1)/K) / 1.44, Diffusions.jl's scaler.

        The root is the share of tokens that jumped; (K − 1)/K of the jumps change the token, and
        1.44 = 1/ln 2 turns nats into bits. Here 1.44 is exactly 1/ln 2.
        """
        return (-torch.expm1(-self.rate * t)).sqrt() * ((self.k - 1) / self.k / BITS)

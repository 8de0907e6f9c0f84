r"""Structured noise: a linear map A of standard normal numbers, for `StructuredDiffusion`.

Noise that couples the numbers of a point, such as the positions of a molecule without its centre
of mass, is :math:`A z` with :math:`z \sim N(0, I)` of the point's own shape. It may live on a part
of the space only, the range of A; on it the covariance :math:`A A^T` has an inverse, its
pseudo-inverse :math:`(A A^T)^+`.
"""

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from bridges._checks import values_are_checked
from bridges._device import widest
from bridges._shapes import Constant, as_count, describe


class LinearNoise(ABC):
    """A linear map A on points of a shape.

    All maps take and return tensors `(*B, *point_shape)` and keep device and dtype; z and y may be
    any tensors of that shape, on the range or off it.
    """

    @property
    @abstractmethod
    def point_shape(self) -> tuple[int, ...]:
        """The shape of one point."""

    @property
    @abstractmethod
    def condition(self) -> str:
        """What points on the range do, after "Expected x to …"."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading part of the batch that A depends on, by a mask or by weights."""
        return ()

    @property
    def element_ndim(self) -> int:
        """How many dimensions of a point errors are told apart over: 0, the whole point is one."""
        return 0

    def holding(self, held: Tensor) -> "LinearNoise":
        """Return the noise of the other elements, where some are held.

        Args:
            held: which are held, bool, shape `(*B, *E)` with E a leading part of a point's shape.

        Raises:
            ValueError: if the noise couples elements so that no part of a point can be held.
        """
        raise ValueError(
            f"Expected mask to have a leading part of the batch shape, since the noise of "
            f"{type(self).__name__} couples all of a point; got shape {tuple(held.shape)}."
        )

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return A z."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Bring any x onto the range; what lies on it stays."""

    @abstractmethod
    def covariance(self, y: Tensor) -> Tensor:
        """Return A Aᵀ y."""

    @abstractmethod
    def precision(self, y: Tensor) -> Tensor:
        """Return (A Aᵀ)⁺ y."""

    @abstractmethod
    def rank(self, device: torch.device) -> Tensor:
        """Return the dimension of the range, float64 over `batch_shape`."""

    @abstractmethod
    def trace(self, device: torch.device) -> Tensor:
        """Return the trace of A Aᵀ, the mean of ‖A z‖², float64 over `batch_shape`."""

    @abstractmethod
    def log_det(self, device: torch.device) -> Tensor:
        """Return the log of the product of A Aᵀ's positive eigenvalues, like the rank."""

    def moving(self, device: torch.device) -> Tensor:
        """Return which elements get noise, bool over `batch_shape` and the elements of a point.

        Only for noise whose `element_ndim` is above 0.
        """
        raise NotImplementedError(
            f"Expected noise that tells elements apart; got {type(self).__name__}."
        )


@final
@dataclass(frozen=True, eq=False)
class ZeroCentreOfMass(LinearNoise):
    r"""Noise of n atoms that leaves their centre of mass where it is.

    .. math:: A = I - \frac{1 w^T}{\sum_i w_i}, \qquad
        (A A^T)^+ = \Big(I - \frac{w w^T}{|w|^2}\Big)\Big(I - \frac{1 1^T}{n}\Big), \qquad
        \det\nolimits_+ A A^T = \frac{n\,|w|^2}{(\sum_i w_i)^2}

    for each coordinate: A moves all atoms together, so that :math:`w^T x = 0`. Atoms off the mask
    are padding: they get no noise and are 0, and n and the sums are over the others.

    Where an example holds atoms, they say where it is, so nothing is left to centre: the others
    get plain noise, A = I on them. Errors are then told apart by atom. `process.where` makes such
    noise of a mask over atoms, and puts the held ones back.

    References:
        Köhler, Klein & Noé, Equivariant flows: exact likelihood generative learning for symmetric
        densities, 2020.
        Xu et al., GeoDiff: a geometric diffusion model for molecular conformation generation,
        2022.

    Args:
        n: the number of atoms, padding included.
        d: the number of coordinates.
        mask: which atoms are there, bool, shape `(n,)` or `(*B, n)` with B a leading part of the
            batch; None for all.
        weight: w, the masses; at least 0 and not all 0 on an example, shape like the mask's; None
            for equal ones.
        held: which atoms are held, bool, shape `(*B, n)`; None for none.

    Raises:
        TypeError, ValueError: if the mask or the weights are not as expected.

    >>> noise = ZeroCentreOfMass(3, 1, weight=torch.tensor([1.0, 1.0, 2.0]))
    >>> noise(torch.tensor([[4.0], [0.0], [2.0]])).T
    tensor([[ 2., -2.,  0.]])
    """

    n: int
    d: int = 3
    mask: Tensor | None = None
    weight: Tensor | None = None
    held: Tensor | None = None
    _mask: Constant = field(init=False, repr=False)
    _vectors: Constant = field(init=False, repr=False)
    _sizes: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("n", "d"):
            object.__setattr__(self, name, as_count(getattr(self, name), name))
        self._check_kinds()
        self._check_shapes()
        if values_are_checked() and not _has_mass(*self._masses()):
            raise ValueError(
                "Expected weight to be at least 0 and not all 0; got one that is not."
            )
        self._prepare()

    def _check_kinds(self) -> None:
        for name in ("mask", "held"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Tensor) and value.dtype == torch.bool):
                raise TypeError(f"Expected {name} to be bool; got {describe(value)}.")
        weight = self.weight
        if weight is not None and (not isinstance(weight, Tensor) or weight.is_complex()):
            raise TypeError(f"Expected weight to be a real tensor; got {describe(weight)}.")

    def _check_shapes(self) -> None:
        for name in ("mask", "weight", "held"):
            value = getattr(self, name)
            if value is not None and value.shape[-1:] != (self.n,):
                raise ValueError(
                    f"Expected {name} to have shape (…, {self.n}); got {tuple(value.shape)}."
                )
        mask, weight = self.mask, self.weight
        if mask is not None and weight is not None and mask.ndim > 1 and weight.ndim > 1:
            if mask.shape != weight.shape:
                raise ValueError(
                    f"Expected weight to have shape ({self.n},) or that of mask, "
                    f"{tuple(mask.shape)}; got {tuple(weight.shape)}."
                )

    def _masses(self) -> tuple[Tensor, Tensor]:
        """Return which atoms there are and their masses, over one leading part of the batch."""
        given = [v for v in (self.held, self.mask, self.weight) if v is not None]
        device = given[0].device if given else torch.device("cpu")
        rank = max([1, *[value.ndim for value in given]])

        def over(value: Tensor) -> Tensor:
            return of_rank(value.to(device), rank)

        one = torch.ones(self.n, dtype=torch.bool, device=device)
        mask = over(one if self.mask is None else self.mask)
        weight = over(one if self.weight is None else self.weight)
        weight = torch.where(mask, weight.to(widest(device)), 0.0)
        return mask.expand(weight.shape), weight

    def _prepare(self) -> None:
        mask, w = self._masses()
        held = torch.zeros_like(mask) if self.held is None else self.held
        free = (held & mask).any(-1, keepdim=True)  # examples without a centre to keep
        mask, w = torch.where(free, mask & ~held, mask), torch.where(held & free, 0.0, w)
        free = free.squeeze(-1)
        n, total, size = mask.sum(-1).to(w), w.sum(-1), w.square().sum(-1)
        plain = free | (n == 0)
        n_, total_, size_ = (torch.where(plain, 1.0, value) for value in (n, total, size))
        even, share = mask / n_.unsqueeze(-1), w / total_.unsqueeze(-1)
        unit = w / size_.sqrt().unsqueeze(-1)
        skew = n_ * size_ / total_**2
        vectors = torch.where(free.unsqueeze(-1), 0.0, torch.stack((even, share, unit)))
        sizes = (
            torch.where(free, n, (n - 1).clamp(min=0)),
            torch.where(plain, n, n - 2 + skew),
            skew.log(),
        )
        object.__setattr__(self, "_mask", Constant(mask))
        object.__setattr__(self, "_vectors", Constant(vectors))
        object.__setattr__(self, "_sizes", Constant(self.d * torch.stack(sizes)))

    @property
    def element_ndim(self) -> int:
        """1 where atoms are held: errors are by atom."""
        return 0 if self.held is None else 1

    def holding(self, held: Tensor) -> "ZeroCentreOfMass":
        if held.shape[-1:] != (self.n,):
            raise ValueError(
                f"Expected mask to have a leading part of the batch shape, or that and the "
                f"{self.n} atoms; got shape {tuple(held.shape)}."
            )
        noise = copy(self)  # its values are known to be right
        both = held if self.held is None else _either(self.held, held)
        object.__setattr__(noise, "held", both)
        noise._prepare()
        return noise

    @property
    def point_shape(self) -> tuple[int, ...]:
        return self.n, self.d

    @property
    def condition(self) -> str:
        return "have its centre of mass at 0, and 0 off the mask"

    @property
    def batch_shape(self) -> tuple[int, ...]:
        longest: tuple[int, ...] = ()
        for value in (self.mask, self.weight, self.held):
            if value is not None and value.ndim - 1 > len(longest):
                longest = tuple(value.shape[:-1])
        return longest

    def _over(self, value: Tensor, x: Tensor) -> Tensor:
        """Bring values of atoms to the rank of a state."""
        return of_rank(value, x.ndim - 1).unsqueeze(-1)

    def _kept(self, x: Tensor) -> Tensor:
        if self.mask is None and self.held is None:
            return x
        return torch.where(self._over(self._mask.on(x.device), x), x, 0.0)

    def _vector(self, i: int, x: Tensor) -> Tensor:
        """Return one of the vectors 1/n, w/Σw and w/|w|."""
        return self._over(self._vectors.on(x.device)[i], x).to(x.dtype)

    def __call__(self, z: Tensor) -> Tensor:
        return self._kept(z - (self._vector(1, z) * z).sum(-2, keepdim=True))

    def project(self, x: Tensor) -> Tensor:
        """Return A x; whatever stands off the mask, NaN too, becomes 0."""
        return self(self._kept(x))

    def covariance(self, y: Tensor) -> Tensor:
        y = self._kept(y)
        return self(y - self._vector(1, y) * y.sum(-2, keepdim=True))

    def precision(self, y: Tensor) -> Tensor:
        even, unit, y = self._vector(0, y), self._vector(2, y), self._kept(y)
        y = y - (even * y).sum(-2, keepdim=True)
        return self._kept(y - unit * (unit * y).sum(-2, keepdim=True))

    def rank(self, device: torch.device) -> Tensor:
        return self._sizes.on(device)[0]

    def trace(self, device: torch.device) -> Tensor:
        return self._sizes.on(device)[1]

    def log_det(self, device: torch.device) -> Tensor:
        return self._sizes.on(device)[2]

    def moving(self, device: torch.device) -> Tensor:
        return self._mask.on(device)


def of_rank(value: Tensor, rank: int) -> Tensor:
    """Bring values over a leading part of the batch, and elements, to a rank: (*B, 1, …, n)."""
    return value.reshape(*value.shape[:-1], *[1] * (rank - value.ndim), value.shape[-1])


def _either(a: Tensor, b: Tensor) -> Tensor:
    """Return a | b over atoms, one of them over a leading part of the other's batch."""
    rank = max(a.ndim, b.ndim)
    return of_rank(a.to(b.device), rank) | of_rank(b, rank)


def _has_mass(mask: Tensor, w: Tensor) -> bool:
    """Whether masses are at least 0, and not all 0 where there are atoms."""
    return bool(((w >= 0).all(-1) & ((w.sum(-1) > 0) | ~mask.any(-1))).all())

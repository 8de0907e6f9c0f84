"""What a guess must say on a curved space: a point, a score or a distribution.

On a circle, on rotations and on a sphere the best possible guess is known in closed form here: the
targets are mixtures, so nothing is learned and all error is that of the sampler. Each space is
sampled three times, with the guess said as

- a point, the mean of x_0 given x_t brought onto the space, as a network trained on squared
  distances says it;
- a score, the gradient of log p(x_t), exact as the steps shrink;
- a distribution over x_0, exact at any step.

The point is biased, whatever the step; the others are not. The circle is the wrapped example of
Diffusions.jl. It prints how far each sample is from the target; `--out` draws the circle.

    python examples/curved_spaces.py --out runs/curved_spaces.png
"""

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

import bridges as br

END = 0.05
"""The time at which samples are compared; the law of the target there is known exactly."""

FAR = 20.0


class Target(ABC):
    """A law of x_0 whose posterior given x_t is known, and the process that noises it."""

    process: br.Process

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw x_0."""

    @abstractmethod
    def point(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the mean of x_0 given x_t, brought onto the space."""

    @abstractmethod
    def score(self, x_t: Tensor, t: Tensor) -> br.Score:
        """Return the gradient of log p(x_t)."""

    @abstractmethod
    def distribution(self, x_t: Tensor, t: Tensor) -> br.Mixture:
        """Return the law of x_0 given x_t."""


@dataclass(frozen=True)
class WrappedNormals(Target):
    """Diffusions.jl's wrapped example: four wrapped normals on the circle."""

    process: br.Process = br.WrappedBrownianDiffusion(1.0)
    centres: tuple[float, ...] = (0.9 * math.pi, math.pi, math.pi / 2, 0.0)
    widths: tuple[float, ...] = (0.5, 0.2, 0.05, 1.0)
    weights: tuple[float, ...] = (0.125, 0.125, 0.25, 0.5)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        index = torch.multinomial(
            torch.tensor(self.weights), n, replacement=True, generator=generator
        )
        x = torch.tensor(self.centres)[index]
        noise = torch.randn(n, generator=generator) * torch.tensor(self.widths)[index]
        return torch.remainder(x + noise + math.pi, 2 * math.pi) - math.pi

    def posterior(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights, means and variances of x_0 on the line, a component a turn."""
        turns = 2 * math.pi * torch.arange(-8, 9)
        centre = (torch.tensor(self.centres).unsqueeze(-1) + turns).flatten()
        u = torch.tensor(self.widths).square().repeat_interleave(len(turns))
        log_w = torch.tensor(self.weights).log().repeat_interleave(len(turns))
        v = self.process.rate * t.unsqueeze(-1)
        gap = x_t.unsqueeze(-1) - centre
        log_w = log_w - 0.5 * torch.log(u + v) - 0.5 * gap**2 / (u + v)
        return log_w, centre + gap * u / (u + v), u * v / (u + v)

    def point(self, x_t: Tensor, t: Tensor) -> Tensor:
        log_w, mean, variance = self.posterior(x_t, t)
        w = torch.softmax(log_w, -1) * torch.exp(-0.5 * variance)
        return torch.atan2((w * mean.sin()).sum(-1), (w * mean.cos()).sum(-1))

    def score(self, x_t: Tensor, t: Tensor) -> br.Score:
        log_w, mean, _ = self.posterior(x_t, t)
        mean_0 = (torch.softmax(log_w, -1) * mean).sum(-1)
        return br.Score((mean_0 - x_t) / (self.process.rate * t))

    def distribution(self, x_t: Tensor, t: Tensor) -> br.Mixture:
        return br.Mixture(*self.posterior(x_t, t))


@dataclass(frozen=True, eq=False)
class Atoms(Target):
    """A few points of a space with unequal weights."""

    process: br.Process
    points: Tensor
    weights: tuple[float, ...]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        weights = torch.tensor(self.weights)
        return self.points[torch.multinomial(weights, n, replacement=True, generator=generator)]

    def pairs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return x_t and the points, each once for every pair of them, and the time of the run."""
        shape = (len(x_t), *self.points.shape)
        return x_t.unsqueeze(1).expand(shape), self.points.expand(shape), t[0].item()

    def log_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the logits of the points given x_t."""
        return torch.tensor(self.weights).log() + self.process.log_prob(*self.pairs(x_t, t))

    def point(self, x_t: Tensor, t: Tensor) -> Tensor:
        w = torch.softmax(self.log_posterior(x_t, t), -1)
        return torch.tensordot(w, self.points, dims=1)  # `endpoint` brings it onto the space

    def score(self, x_t: Tensor, t: Tensor) -> br.Score:
        w = torch.softmax(self.log_posterior(x_t, t), -1)
        return br.Score((w.unsqueeze(-1) * self.process.score(*self.pairs(x_t, t))).sum(1))

    def distribution(self, x_t: Tensor, t: Tensor) -> br.Mixture:
        logits = self.log_posterior(x_t, t)
        _, points, _ = self.pairs(x_t, t)
        return br.Mixture(logits, points, torch.full_like(logits, 1e-9))


Route: TypeAlias = Callable[[Target, Tensor, Tensor], Any]

ROUTES: dict[str, Route] = {
    "point": lambda target, x_t, t: target.point(x_t, t),
    "score": lambda target, x_t, t: target.score(x_t, t),
    "distribution": lambda target, x_t, t: target.distribution(x_t, t),
}


def targets() -> dict[str, Target]:
    """Return a target on each space."""
    rotvec = torch.tensor([[0.3, -0.2, 0.1], [1.9, 0.4, -0.8], [-0.5, 2.2, 1.1]])
    north = torch.tensor([[0.0, 0.0, 1.0], [0.9, 0.1, -0.4], [-0.3, 0.8, -0.5]])
    rotation, sphere = br.RotationDiffusion(0.8), br.SphereDiffusion(0.8)
    identity = torch.eye(3).expand(3, 3, 3)
    rots = rotation.endpoint(br.Score(rotvec), identity, 1 / rotation.rate)
    return {
        "circle": WrappedNormals(),
        "rotations": Atoms(rotation, rots, (0.55, 0.3, 0.15)),
        "sphere": Atoms(sphere, north / north.norm(dim=-1, keepdim=True), (0.55, 0.3, 0.15)),
    }


def view(x: Tensor) -> Tensor:
    """Show a state as real numbers, about continuous in it."""
    return torch.stack((x.cos(), x.sin(), (2 * x).cos()), -1) if x.ndim == 1 else x.flatten(1)


def distance(x: Tensor, y: Tensor) -> float:
    """Return the largest Kolmogorov–Smirnov distance between the columns of two views."""
    gaps = []
    for a, b in zip(view(x).T, view(y).T, strict=True):
        a, b = a.sort().values, b.sort().values
        both = torch.cat((a, b))
        below = [torch.searchsorted(s, both, right=True) / len(s) for s in (a, b)]
        gaps.append((below[0] - below[1]).abs().max().item())
    return max(gaps)


def run(target: Target, route: Route, n: int, steps: int, generator: torch.Generator) -> Tensor:
    """Draw n samples at time END with one kind of guess."""
    grid = br.timeschedule(torch.exp, torch.log, END, FAR, steps + 1)
    start = target.sample(n, generator)
    x = target.process.sample_forward(start, FAR, generator=generator)
    guess = partial(route, target)
    return br.sample_backward(guess, target.process, grid, x, generator=generator)


def compare(target: Target, n: int, steps: int, seed: int = 0) -> dict[str, float]:
    """Return how far the samples of each kind of guess are from the target at time END.

    `floor` is the distance between two samples of the target itself.
    """
    generator = torch.Generator().manual_seed(seed)
    exact, again = (
        target.process.sample_forward(target.sample(n, generator), END, generator=generator)
        for _ in range(2)
    )
    found = {
        name: distance(run(target, route, n, steps, generator), exact)
        for name, route in ROUTES.items()
    }
    return {**found, "floor": distance(again, exact)}


def draw(path: Path, n: int, steps: int) -> None:
    """Draw the samples on the circle over the target."""
    import matplotlib.pyplot as plt

    target, generator = WrappedNormals(), torch.Generator().manual_seed(1)
    exact = target.sample(n, generator)
    exact = target.process.sample_forward(exact, END, generator=generator)
    bins = np.linspace(-math.pi, math.pi, 121)
    figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharey=True, layout="constrained")
    for axis, (name, route) in zip(axes, ROUTES.items(), strict=True):
        x = run(target, route, n, steps, generator)
        axis.hist(x.numpy(), bins, density=True, color="#7aa6c2", label="sampled")
        axis.hist(exact.numpy(), bins, density=True, histtype="step", color="k", label="target")
        axis.set(title=f"guess: {name}", xlabel="angle (rad)", xlim=(-math.pi, math.pi))
    axes[0].set_ylabel("density")
    axes[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=120, format=path.suffix[1:] or "png")
    beside.replace(path)


def main() -> None:
    """Print the distances and draw the circle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, help="where to draw the circle, as PNG")
    options = parser.parse_args()
    print("distance to the target (Kolmogorov–Smirnov)")
    print("".join(f"{name:>14}" for name in ("space", *ROUTES, "floor")))
    for name, target in targets().items():
        row = compare(target, options.samples, options.steps)
        print(f"{name:>14}" + "".join(f"{row[key]:14.4f}" for key in (*ROUTES, "floor")))
    if options.out:
        draw(options.out, options.samples, options.steps)


if __name__ == "__main__":
    main()

"""The time of a sampler's step, beside azula's in the same process.

    pip install --no-deps azula==0.11.1 einops==0.8.2
    python benchmarks/step_time.py

The guess is a tensor that is there already, so what is timed is the sampler. The floor is what a
step cannot do without: its noise drawn, and for each guess the state and x̂_0 read once and a
state written once. A row gives microseconds per step above the floor, start of the run included,
and their ratio. The three are timed in turn; each number is the least of the repeats. Runs stop at
t = 0.05, since a last step to 0 costs us nothing. Below 0 is possible: a step's products are made
in place in one new tensor, where the floor makes a new one each time.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from azula import noise, sample
from azula.denoise import DiracPosterior
from torch import Tensor

from bridges import sample_backward
from bridges.curve import DataCurve, LineCurve, NoiseCurve
from bridges.denoised_sampler import DDIMSampler, DDPMSampler
from bridges.gaussian import GaussianDiffusion
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver
from bridges.one_step import EulerSolver, HeunSolver, PredictorCorrectorSolver
from bridges.schedule import RectifiedSchedule
from bridges.solver import Solver

PROCESS = GaussianDiffusion(RectifiedSchedule())
LAST = 0.05


@dataclass
class Known:
    """A denoiser that says what it was told."""

    answer: Any
    schedule: Any

    def __call__(self, x_t: Tensor, t: Tensor) -> Any:
        return self.answer


@dataclass
class Row:
    """One method: ours, azula's, and what its floor counts per step."""

    name: str
    ours: Callable[[Tensor, Tensor, int], Any]
    azula: Callable[..., Any]
    guesses: int = 1
    normals: int = 0


def grid(steps: int) -> Tensor:
    """Return the times of a run."""
    return torch.linspace(LAST, 1, steps + 1, dtype=torch.float64)


def with_solver(solver: Solver) -> Callable[[Tensor, Tensor, int], Any]:
    """Return a run of a solver."""

    def run(x: Tensor, x_0: Tensor, steps: int) -> Tensor:
        return sample_backward(lambda x_t, t: x_0, PROCESS, grid(steps), x, solver=solver)

    return run


def own_step(x: Tensor, x_0: Tensor, steps: int) -> Tensor:
    """Run the process's own step, without a solver."""
    return sample_backward(lambda x_t, t: x_0, PROCESS, grid(steps), x)


def sampler(kind: type, **options: Any) -> Callable[[Tensor, Tensor, int], Any]:
    """Return a run of one of our samplers of a denoiser."""

    def run(x: Tensor, x_0: Tensor, steps: int) -> Tensor:
        known = Known(x_0, PROCESS.schedule)
        return kind(known, steps=steps, timesteps=grid(steps), **options)(x)

    return run


ROWS = [
    Row("DDPM", sampler(DDPMSampler), sample.DDPMSampler, normals=1),
    Row("own step, η = 1", own_step, sample.DDPMSampler, normals=1),
    Row("DDIM, η = 0", sampler(DDIMSampler), sample.DDIMSampler),
    Row("Euler", with_solver(EulerSolver()), sample.EulerSampler),
    Row("Heun", with_solver(HeunSolver(NoiseCurve())), sample.HeunSampler, guesses=2),
    Row("AB2 on ε", with_solver(AdamsBashforthSolver(2, NoiseCurve())), sample.zABSampler),
    Row("AB2 on v", with_solver(AdamsBashforthSolver(2, LineCurve())), sample.vABSampler),
    Row("EAB2 on ε", with_solver(ExponentialSolver(2, NoiseCurve())), sample.zEABSampler),
    Row("EAB2 on x̂_0", with_solver(ExponentialSolver(2, DataCurve())), sample.xEABSampler),
    Row("Rosenbrock 2", with_solver(RosenbrockSolver(2)), sample.REABSampler),
    Row("corrector", with_solver(PredictorCorrectorSolver()), sample.PCSampler, 2, 1),
]


def floor(row: Row, x: Tensor, x_0: Tensor, steps: int) -> None:
    """Do what the steps cannot do without."""
    for _ in range(steps):
        for guess in range(row.guesses):
            if guess < row.normals:
                torch.addcmul(x, x_0, torch.randn(x.shape))
            else:
                torch.add(x, x_0)


def timed(run: Callable[[], Any], steps: int) -> float:
    """Return microseconds per step."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / steps * 1e6


def measure(row: Row, size: int, steps: int, repeats: int) -> tuple[float, float, float]:
    """Return the least time of the floor, of ours and of azula's."""
    x, x_0 = torch.randn(10, size // 10), torch.randn(10, size // 10)
    known = Known(DiracPosterior(x_0), noise.RectifiedSchedule())
    theirs = row.azula(known, steps=steps, stop=LAST, silent=True)
    runs = [
        lambda: floor(row, x, x_0, steps),
        lambda: row.ours(x, x_0, steps),
        lambda: theirs(x),
    ]
    with torch.no_grad():
        times = [[timed(run, steps) for run in runs] for _ in range(repeats)]
    least = [min(column) for column in zip(*times, strict=True)]
    return least[0], least[1], least[2]


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000_000])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size in arguments.sizes:
        steps, repeats = (64, 30) if size < 1_000_000 else (4, 5)
        print(f"\n{size:,} elements, {steps} steps, float32, {arguments.threads} thread")
        print(f"{'':18}{'floor':>10}{'bridges':>10}{'azula':>10}{'ratio':>8}")
        for row in ROWS:
            least, ours, theirs = measure(row, size, steps, repeats)
            ratio = (ours - least) / (theirs - least)
            above = f"{ours - least:10,.0f}{theirs - least:10,.0f}"
            print(f"{row.name:18}{least:10,.0f}{above}{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    main()

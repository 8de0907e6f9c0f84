"""How fast the solvers converge to the exact flow, on data whose posterior mean is known.

    python benchmarks/convergence.py

Data are a mixture of two normals in the plane, the denoiser is exact and all is in float64, so the
error is the solver's alone: the mean distance to the end of the probability flow, which SciPy
integrates to 1e-12. With `pip install --no-deps azula==0.11.1 einops==0.8.2` the
first table also has azula's Rosenbrock sampler.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bridges import sample_backward
from bridges.analytic_denoiser import MixtureDenoiser
from bridges.curve import CircleCurve, DataCurve, LineCurve, NoiseCurve
from bridges.gaussian import GaussianDiffusion
from bridges.multistep import AdamsBashforthSolver, ExponentialSolver, RosenbrockSolver
from bridges.one_step import EulerSolver, HeunSolver
from bridges.schedule import RectifiedSchedule, Schedule
from bridges.solver import Solver
from bridges.vp_schedule import VPSchedule

DOUBLE = torch.float64
STEPS = (16, 32, 64, 128, 256)
LOW, HIGH = -8.0, 6.0

SOLVERS: dict[str, Solver] = {
    "Euler (DDIM)": EulerSolver(),
    "Heun, noise (EDM)": HeunSolver(NoiseCurve()),
    "Heun, line": HeunSolver(LineCurve()),
    "Heun, circle": HeunSolver(CircleCurve()),
    "AB 2, noise": AdamsBashforthSolver(2, NoiseCurve()),
    "AB 2, line": AdamsBashforthSolver(2, LineCurve()),
    "AB 3, noise": AdamsBashforthSolver(3, NoiseCurve()),
    "AB 3, line": AdamsBashforthSolver(3, LineCurve()),
    "AB 4, line": AdamsBashforthSolver(4, LineCurve()),
    "exp 2, noise (DPM-Solver)": ExponentialSolver(2, NoiseCurve()),
    "exp 3, noise (DPM-Solver)": ExponentialSolver(3, NoiseCurve()),
    "exp 2, data (DPM-Solver++)": ExponentialSolver(2, DataCurve()),
    "exp 3, data (DPM-Solver++)": ExponentialSolver(3, DataCurve()),
    "exp 2, line": ExponentialSolver(2, LineCurve()),
    "exp 3, line": ExponentialSolver(3, LineCurve()),
    "Rosenbrock 1": RosenbrockSolver(1),
    "Rosenbrock 2": RosenbrockSolver(2),
    "Rosenbrock 3": RosenbrockSolver(3),
}


def denoiser(schedule: Schedule) -> MixtureDenoiser:
    """Return the posterior mean of a lopsided mixture."""
    return MixtureDenoiser(
        schedule,
        torch.tensor([0.65, 0.35]),
        torch.tensor([[-1.0, 0.5], [1.3, -0.4]]),
        torch.tensor([[0.2, 0.3], [0.15, 0.1]]),
    )


def exact_end(schedule: Schedule, x: Tensor, first: float, last: float) -> Tensor:
    """Return where the flow takes x from the time `last`: to `first`, or to the data if it is 0.

    It is integrated along the angle φ = atan(σ/α), on which the slope of x/√(α² + σ²) is
    cos φ ε − sin φ x̂_0.
    """
    guess = denoiser(schedule)

    def scales(t: Tensor) -> tuple[float, float]:
        return schedule.alpha(t).item(), schedule.sigma(t).item()

    def slope(angle: float, state: Any) -> Any:
        log_snr = -2 * math.log(math.tan(angle)) if angle < math.pi / 2 else -math.inf
        t = schedule.inverse_log_snr(torch.tensor(log_snr, dtype=DOUBLE))
        size = math.hypot(*scales(t))
        unit = torch.from_numpy(state).reshape(x.shape)
        x_0 = guess(size * unit, t).mean
        return ((math.cos(angle) * unit - x_0) / math.sin(angle)).numpy().ravel()

    at = [torch.tensor(max(t, 1e-7), dtype=DOUBLE) for t in (last, first)]
    span = [math.atan2(*scales(t)[::-1]) for t in at]
    start = (x / math.hypot(*scales(at[0]))).numpy().ravel()
    run = solve_ivp(slope, span, start, method="DOP853", rtol=1e-12, atol=1e-13)
    end = math.hypot(*scales(at[1])) * torch.from_numpy(run.y[:, -1]).reshape(x.shape)
    return guess(end, at[1]).mean if first == 0 else end


def log_snr_grid(schedule: Schedule, steps: int) -> Tensor:
    """Return times that are evenly spaced in log-SNR."""
    return schedule.inverse_log_snr(torch.linspace(HIGH, LOW, steps + 1, dtype=DOUBLE))


def sine_grid(steps: int) -> Tensor:
    """Return times from 0 to 1 with short steps at both ends."""
    return torch.sin(torch.linspace(0, math.pi / 2, steps + 1, dtype=DOUBLE)) ** 2


def start(n: int) -> Tensor:
    """Draw n states at the last time."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def distance(x: Tensor, exact: Tensor) -> float:
    """Return the mean distance."""
    return torch.linalg.vector_norm(x - exact, dim=-1).mean().item()


def orders() -> None:
    """Print errors and orders on a log-SNR grid."""
    schedule = VPSchedule()
    process, guess, x = GaussianDiffusion(schedule), denoiser(schedule), start(128)
    ends = log_snr_grid(schedule, 1).tolist()
    exact = exact_end(schedule, x, *ends)
    print(f"\nVP, {STEPS[0]} to {STEPS[-1]} steps evenly spaced in log-SNR from {HIGH} to {LOW}")
    print(f"{'':28}" + "".join(f"{n:>10}" for n in STEPS) + "   order")

    def row(name: str, run: Callable[[int], Tensor]) -> None:
        errors = [distance(run(n), exact) for n in STEPS]
        order = math.log2(errors[2] / errors[4]) / 2
        print(f"{name:28}" + "".join(f"{e:10.1e}" for e in errors) + f"{order:8.2f}")

    for name, solver in SOLVERS.items():

        def run(n: int, solver: Solver = solver) -> Tensor:
            grid = log_snr_grid(schedule, n)
            return sample_backward(guess, process, grid, x, solver=solver)

        row(name, run)
    if find_spec("azula") and find_spec("einops"):
        row("azula's Rosenbrock 2", lambda n: azula_rosenbrock(schedule, guess, x, n))


def azula_rosenbrock(schedule: Schedule, guess: MixtureDenoiser, x: Tensor, n: int) -> Tensor:
    """Run azula's sampler on the same grid, schedule and denoiser."""
    from azula.sample import REABSampler

    class OnGrid(REABSampler):
        @property
        def timesteps(self) -> Tensor:
            return log_snr_grid(schedule, n).flip(0)

    class Theirs:
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return schedule.alpha(t), schedule.sigma(t)

        def __call__(self, x_t: Tensor, t: Tensor) -> Any:
            return SimpleNamespace(mean=guess(x_t, t).mean)

    return OnGrid(Theirs(), order=2, steps=n, silent=True)(x)


def ten_steps() -> None:
    """Print errors of whole runs of 10 steps, and those of Heun with about as many guesses."""
    schedule = RectifiedSchedule()
    process, guess, x = GaussianDiffusion(schedule), denoiser(schedule), start(512)
    exact = exact_end(schedule, x, 0.0, 1.0)
    print("\nRectified, from t = 1 to 0: error, and how many times closer than DDIM")
    print(f"{'':28}{'guesses':>8}{'uniform t':>16}{'t = sin²':>16}")
    grids: tuple[Callable[[int], Tensor], ...] = (
        lambda n: torch.linspace(0, 1, n + 1, dtype=DOUBLE),
        sine_grid,
    )

    def errors(solver: Solver, steps: int) -> list[float]:
        return [
            distance(sample_backward(guess, process, grid(steps), x, solver=solver), exact)
            for grid in grids
        ]

    ddim = errors(EulerSolver(), 10)
    for name, solver in SOLVERS.items():
        for steps in (10, 5) if solver.corrections else (10,):
            guesses = steps + solver.corrections * (steps - 1)
            cells = zip(errors(solver, steps), ddim, strict=True)
            row = "".join(f"{error:10.1e}{base / error:6.1f}" for error, base in cells)
            print(f"{name:28}{guesses:>8}{row}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    orders()
    ten_steps()

"""Training that can be stopped anywhere and goes on bit for bit.

A run holds everything that a step depends on: weights, their average, the optimiser's moments, the
generator, and the plan of the learning rate.
"""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from bridges import selfconditioning_estimate
from fragments import checkpoint
from fragments.data import Fragments
from fragments.network import Denoiser, null_prediction
from fragments.objective import objective, training_times
from fragments.process import UNIT, as_state, fragment_process

BATCH = 32
RATE, WARM_UP, CLIP = 2e-3, 100, 2.0
DECAY = 0.997  # of the moving average of the weights
SAVE_EVERY = 200  # steps
PLAN_EVERY = 25  # steps


def chain_covariance(fragments: Fragments) -> Tensor:
    """Covariance of the centred CA positions along the chain, one axis, in units of 10 Å."""
    pos = fragments.windows(stride=4) / UNIT
    pos = (pos - pos.mean(1, keepdim=True)).double()
    return (torch.einsum("fia,fja->ij", pos, pos) / (3 * len(pos))).float()


@final
class Run:
    """A training run.

    Args:
        data: the training fragments.
        seed: of the weights and of the generator.
        size: arguments of :class:`Denoiser`.
    """

    def __init__(self, data: Fragments, seed: int, **size: int) -> None:
        self.data, self.seed, self.size = data, seed, size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Denoiser(chain_covariance(data), **size)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.process = fragment_process()
        self.step = self.first = self.last = 0  # steps done; where the plan begins and ends
        self.seconds = 0.0  # spent since the plan began
        self.history: dict[str, list[float]] = {"step": []}

    def rate(self) -> float:
        """Learning rate of the next step: a warm-up, then a cosine that ends at 0."""
        done = (self.step - self.first) / max(1, self.last - self.first)
        warm = min(1.0, (self.step + 1) / WARM_UP)
        return RATE * warm * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def advance(self) -> dict[str, float]:
        """Take one step and return the parts of the loss."""
        batch = self.data.sample(BATCH, self.generator)
        clean = as_state(batch)
        times = training_times(BATCH, self.data.length, self.generator)
        noisy = self.process.sample_forward(clean, times, generator=self.generator)
        null = null_prediction(BATCH, self.data.length)
        last = selfconditioning_estimate(self.model, noisy, times, null, generator=self.generator)
        guess = self.model(noisy, times, last)
        total, parts = objective(self.process, guess, clean, batch, times)
        self._descend(total)
        self.step += 1
        values = {name: value.item() for name, value in parts.items()}
        for name, value in {"step": self.step, **values}.items():
            self.history.setdefault(name, []).append(value)
        return values

    def _descend(self, total: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        keep = min(DECAY, (1 + self.step) / (10 + self.step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        with torch.no_grad():
            for mean, value in pairs:
                mean.lerp_(value, 1 - keep)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, as tensors by name."""
        found = {"generator": self.generator.get_state()}
        for name, module in (("model", self.model), ("average", self.average)):
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
        for key, values in self.history.items():
            found[f"history.{key}"] = torch.tensor(values, dtype=torch.float64)
        numbers = [self.step, self.first, self.last, self.seconds]
        return {**found, "plan": torch.tensor(numbers, dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` returned."""
        groups = checkpoint.grouped(state)
        self.generator.set_state(groups["generator"][""])
        self.model.load_state_dict(groups["model"])
        self.average.load_state_dict(groups["average"])
        moments = checkpoint.grouped(groups.get("optimizer", {}))
        plain = self.optimizer.state_dict()
        plain["state"] = {int(index): values for index, values in moments.items()}
        self.optimizer.load_state_dict(plain)
        self.history = {key: values.tolist() for key, values in groups["history"].items()}
        step, first, last, self.seconds = state["plan"].tolist()
        self.step, self.first, self.last = int(step), int(first), int(last)

    def finished(self) -> bool:
        """Whether the plan has been walked to its end."""
        return self.step >= self.last

    def plan_steps(self, steps: int) -> None:
        """Plan so many steps more, with a learning rate that starts again."""
        self.first, self.last, self.seconds = self.step, self.step + steps, 0.0


def train(run: Run, folder: Path, minutes: float | None = None) -> Iterator[dict[str, float]]:
    """Walk a run to the end of its plan, and yield the parts of the loss at every step.

    Args:
        run: what to train; saved into the folder now and then, and at the end.
        folder: where to.
        minutes: the time that the plan may take; its end is estimated again and again from the speed.
            None for a plan in steps.
    """
    while not run.finished():
        start = time.perf_counter()
        yield run.advance()
        run.seconds += time.perf_counter() - start
        done = run.step - run.first
        if minutes is not None and done % PLAN_EVERY == 0:
            run.last = run.first + max(done, round(done * 60 * minutes / run.seconds))
        if run.step % SAVE_EVERY == 0 or run.finished():
            checkpoint.save(folder, run.state(), run.seed, run.size)

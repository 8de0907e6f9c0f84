"""Training that can be stopped anywhere and goes on bit for bit.

A run holds everything that a step depends on: weights, their average, the optimiser's moments, the
generator, and the plan of the learning rate.
"""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self, final

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
SAVE_EVERY, ESTIMATE_EVERY = 200, 25  # steps
FIRST_ESTIMATE = 1000  # steps that a plan in minutes begins with


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
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.process = fragment_process()
        self.step = self.first = self.last = 0  # steps done; where the plan begins and ends
        self.minutes = 0.0  # that the plan may take; 0 for a plan in steps
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
        plan = [self.step, self.first, self.last, self.minutes, self.seconds]
        return {**found, "plan": torch.tensor(plan, dtype=torch.float64)}

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
        step, first, last, self.minutes, self.seconds = state["plan"].tolist()
        self.step, self.first, self.last = int(step), int(first), int(last)

    def finished(self) -> bool:
        """Whether the plan has been walked to its end."""
        return self.step >= self.last

    def plan_steps(self, steps: int) -> None:
        """Plan so many steps more, with a learning rate that falls to 0 over them."""
        self.first, self.last = self.step, self.step + steps
        self.minutes = self.seconds = 0.0

    def plan_minutes(self, minutes: float) -> None:
        """Plan for a time; how many steps it holds is estimated again and again from the speed."""
        self.plan_steps(FIRST_ESTIMATE)
        self.minutes = minutes

    def spend(self, seconds: float) -> None:
        """Count the time of a step and estimate the end of a plan in minutes."""
        self.seconds += seconds
        done = self.step - self.first
        if self.minutes and done % ESTIMATE_EVERY == 0:
            whole = round(done * 60 * self.minutes / self.seconds)
            self.last = self.first + max(done, whole)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a run from the checkpoint in a folder."""
        state, facts = checkpoint.load(folder)
        run = cls(Fragments.load("train", facts["length"]), facts["seed"], **facts["size"])
        run.restore(state)
        return run

    def save(self, folder: Path) -> None:
        """Write a checkpoint into a folder."""
        facts = {"length": self.data.length, "seed": self.seed, "size": self.size}
        checkpoint.save(folder, self.state(), {**facts, "step": self.step})


def train(run: Run, folder: Path) -> Iterator[dict[str, float]]:
    """Walk a run to the end of its plan, and yield the parts of the loss at every step.

    The run is saved into the folder now and then, and at the end.
    """
    while not run.finished():
        start = time.perf_counter()
        parts = run.advance()
        run.spend(time.perf_counter() - start)
        if run.step % SAVE_EVERY == 0 or run.finished():
            run.save(folder)
        yield parts

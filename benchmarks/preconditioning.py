"""One network at all noise levels: with preconditioning on every space, and without.

The same transformer is trained twice on the protein fragments of `examples/backbones.py`, on the
same data, noise and times, for as many steps: behind `PreconditionedGuess`, and bare, where it is
given x_t and the noise levels and says x_0 itself (a position, a matrix, logits, a point of the
plane for the angle). On held-out fragments it prints, for each space and time,

- positions: the squared error over the variance that normal data would leave, 1 for a guess that
  knows only their size;
- rotations and angles: the squared error of the noise ε per direction (of a point: that of the
  score towards it), 1 for a guess that says nothing;
- types: the cross-entropy in nats.

    PYTHONPATH=examples python benchmarks/preconditioning.py --steps 800
"""

import argparse
import math
from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from bridges import Joint, Noise, PreconditionedGuess, Score, standardloss
from fragments.data import Fragments
from fragments.objective import WEIGHTS
from fragments.process import PARTS, State, as_state, fragment_process, scaler

LENGTH, WIDTH, LAYERS, BATCH = 24, 128, 3, 64
KINDS, WAVES = 20, 4
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
Guess: TypeAlias = Callable[[State, Tensor], State]


@final
class Network(nn.Module):
    """A transformer over residues; it is shown a state and the noise level of every part.

    Args:
        sizes: numbers that it says of each part.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.embed = nn.Linear(3 + 9 + KINDS + 2 + len(PARTS) * (1 + 2 * WAVES), WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, sum(sizes.values()))

    def forward(self, x: State, noise: dict[str, Tensor]) -> State:
        """Say `sizes` numbers of each residue."""
        levels = torch.stack([noise[part] for part in PARTS], -1)
        waves = levels.unsqueeze(-1) * 0.7 ** torch.arange(WAVES)
        told = torch.cat((levels / 4, waves.sin().flatten(-2), waves.cos().flatten(-2)), -1)
        shown = (
            x["pos"],
            x["rot"].flatten(-2),
            nn.functional.one_hot(x["seq"], KINDS).float(),
            torch.stack((x["psi"].sin(), x["psi"].cos()), -1),
            told.unsqueeze(1).expand(-1, LENGTH, -1),
        )
        h = self.head(self.body(self.embed(torch.cat(shown, -1)) + self.place))
        return dict(zip(self.sizes, h.split(list(self.sizes.values()), -1), strict=True))


def preconditioned(process: Joint, var_pos: float) -> nn.Module:
    """Return the network behind the preconditioning of each space."""
    network = Network({"pos": 3, "rot": 3, "seq": KINDS, "psi": 1})

    def backbone(x: State, noise: dict[str, Tensor]) -> State:
        said = network(x, noise)
        return said | {"psi": said["psi"].squeeze(-1)}

    var_x = {"pos": var_pos, "rot": None, "seq": None, "psi": None}
    guess = PreconditionedGuess(backbone, process, var_x)
    guess.network = network
    return guess


@final
class Bare(nn.Module):
    """The network alone: it says x_0."""

    def __init__(self, process: Joint) -> None:
        super().__init__()
        self.network = Network({"pos": 3, "rot": 9, "seq": KINDS, "psi": 2})
        self.levels = PreconditionedGuess(lambda x, noise: noise, process)

    def forward(self, x_t: State, t: Tensor) -> State:
        """Return points, and logits for the types."""
        said = self.network(x_t, noise_levels(self.levels, x_t, t))
        psi = torch.atan2(said["psi"][..., 0], said["psi"][..., 1])
        return said | {"rot": said["rot"].unflatten(-1, (3, 3)), "psi": psi}


def noise_levels(guess: PreconditionedGuess, x_t: State, t: Tensor) -> Any:
    """Return what `PreconditionedGuess` tells its network about the noise."""
    process = guess.process
    return {
        part: process.parts[part]._preconditioning(t.double(), None).noise_level().float()
        for part in PARTS
    }


def loss(process: Joint, guess: Guess, x_0: State, t: Tensor, generator: torch.Generator) -> Any:
    """Return the loss of `examples/backbones.py` over the four spaces."""
    x_t = process.sample_forward(x_0, t, generator=generator)
    parts = standardloss(process, t, guess(x_t, t), x_0, x_t=x_t, scaler=scaler).parts
    return sum(WEIGHTS[part] * parts[part] for part in PARTS)


def train(guess: nn.Module, process: Joint, data: Fragments, steps: int) -> None:
    """Train with Adam and a cosine decay of the learning rate."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(guess.parameters(), 1e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x_0 = as_state(data.sample(BATCH, generator))
        t = 0.02 + 0.98 * torch.rand(BATCH, generator=generator)
        optimizer.zero_grad()
        loss(process, guess, x_0, t, generator).backward()
        nn.utils.clip_grad_norm_(guess.parameters(), 1.0)
        optimizer.step()
        decay.step()


@torch.no_grad()
def errors(
    guess: Guess, process: Joint, x_0: State, mask: Tensor, var_pos: float
) -> dict[str, list[float]]:
    """Return the errors on held-out fragments, a list over TIMES for each space."""
    generator, found = torch.Generator().manual_seed(2), {part: [] for part in PARTS}
    for t in TIMES:
        x_t = process.sample_forward(x_0, t, generator=generator)
        said = guess(x_t, torch.full((len(x_0["seq"]),), t))
        snr = process.parts["pos"].log_snr(t).exp().item()
        squared = (said["pos"] - x_0["pos"]).square().mean().item()
        found["pos"].append(squared * (snr + 1 / var_pos))
        for part in ("rot", "psi"):
            own = process.parts[part]
            noise = own.convert(Score(own.score(x_t[part], x_0[part], t)), Noise, x_t[part], t)
            guessed = as_noise(own, said[part], x_t[part], t)
            gap = (guessed.value - noise.value).square()
            found[part].append((gap[mask] if part == "psi" else gap).mean().item())
        found["seq"].append(process.parts["seq"].error(said["seq"], x_0["seq"]).mean().item())
    return found


def as_noise(process: Any, said: Any, x_t: Tensor, t: float) -> Noise:
    """Return what a step takes the noise to be: as said, or the score towards a point."""
    if isinstance(said, Noise):
        return said
    x_0_hat = process.endpoint(said, x_t, t)
    return process.convert(Score(process.score(x_t, x_0_hat, t)), Noise, x_t, t)


def compare(steps: int) -> dict[str, dict[str, list[float]]]:
    """Train both for `steps` and return their errors."""
    process, data = fragment_process(), Fragments.load("train", LENGTH)
    held_out = Fragments.load("val", LENGTH).held_out()
    x_0, mask = as_state(held_out), held_out["psi_mask"]
    var_pos = as_state(data.gather(data.starts[::7]))["pos"].var().item()
    found = {}
    for name, make in {
        "preconditioned": lambda: preconditioned(process, var_pos),
        "bare": lambda: Bare(process),
    }.items():
        torch.manual_seed(0)
        guess = make()
        train(guess, process, data, steps)
        found[name] = errors(guess.eval(), process, x_0, mask, var_pos)
    return found


def main() -> None:
    """Train both and print their errors side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    found = compare(parser.parse_args().steps)
    print(f"{'':>20}" + "".join(f"{f't = {t}':>10}" for t in TIMES) + f"{'mean':>10}")
    for part in PARTS:
        for name, rows in found.items():
            mean = math.exp(sum(map(math.log, rows[part])) / len(TIMES))
            numbers = "".join(f"{value:10.4f}" for value in (*rows[part], mean))
            print(f"{part:>5}{name:>15}{numbers}")


if __name__ == "__main__":
    main()

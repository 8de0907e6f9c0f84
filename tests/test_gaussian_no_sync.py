"""No hook of a Gaussian or structured process waits for the device; see `test_no_sync`."""

import pytest
import torch

from bridges import Draws, LinearClock, Mixture, Noise, Score, Velocity
from bridges.gaussian import BrownianDiffusion, GaussianDiffusion
from bridges.linear_noise import ZeroCentreOfMass
from bridges.structured import StructuredDiffusion
from bridges.vp_schedule import CosineSchedule
from gaussian_cases import MASS, NOISES, SCHEDULES

META = torch.device("meta")
B = 4
NAMES = ("hollow", "chain")
ATOMS = ZeroCentreOfMass(4, 2, torch.ones(B, 4, dtype=torch.bool), MASS)
PROCESSES = {
    **{name: GaussianDiffusion(SCHEDULES[name][0]) for name in ("vp", "table", "shifted edm")},
    "brownian": BrownianDiffusion(1.7),
    **{
        name: StructuredDiffusion(GaussianDiffusion(CosineSchedule()), noise)
        for name, noise in (("atoms", ATOMS), *((name, NOISES[name][0]) for name in NAMES))
    },
}
TIMES = (0.2, 1.0)
MASK = torch.ones(B, dtype=torch.bool, device=META)


class Empty(Draws):
    """Draws on the meta device."""

    def normal(self, shape, dtype, device):
        assert device == META
        return torch.empty(tuple(shape), dtype=dtype, device=device)

    uniform = normal


def state(process):
    point = process.noise.point_shape if isinstance(process, StructuredDiffusion) else ()
    return torch.empty(B, *point, device=META)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", ["host", "per example", "mixed"])
def test_nothing_reads_the_device(name, kind):
    process, x = PROCESSES[name], state(PROCESSES[name])
    mixture = torch.empty(B, 2, device=META)
    said = (x, Score(x), Noise(x), Velocity(x), Mixture(mixture, torch.stack((x, x), 1), mixture))
    for run in (process, process.on(LinearClock(0.9)).tempered(0.5).where(MASK)):
        per_row = [torch.full((B,), u, dtype=torch.float64, device=META) for u in TIMES]
        s, t = {"host": TIMES, "per example": per_row, "mixed": (0.2, per_row[1])}[kind]
        s, t = run._expand(s, x), run._expand(t, x)
        found = [run._forward(x, s, t, Empty()), run._between(x, x, s, t, 0.6, Empty())]
        for guess in said:
            found += run._step(guess, x, s, t, 1.0, Empty())
            assert run._error(guess, x, x, t).shape == (B,)
        for to in (Score, Noise, Velocity):
            found.append(run._convert(said[1], to, x, t).value)
        found.append(run._score(x, x, t))
        assert all((y.device, y.shape, y.dtype) == (META, x.shape, x.dtype) for y in found)
        assert run._log_prob(x, x, s, t).shape == (B,)

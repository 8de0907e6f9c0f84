"""Laws of form: results lie on the space, look like the input, and come from the generator alone.

`testing` runs them and gives them to users.
"""

import torch

from bridges._precision import exact
from bridges._shapes import State, leaves, map_structure
from bridges._trial import (
    TIMES,
    Times,
    batches,
    distance,
    every_rank,
    form,
    generator_for,
    require,
    results,
    same,
)
from bridges._two_sample import View, at
from bridges.process import Process


@exact
def check_space(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 5: the process takes its results back, and `endpoint` leaves them where they are."""
    law, draws = "results on the space", generator_for(point, seed)
    try:
        drawn = list(results(process, point, *times, draws))
        for name, x in drawn:
            process._check(x, f"the {name}")
    except (TypeError, ValueError) as error:
        raise AssertionError(f"Expected the {law} to hold at {at(times)}; {error}") from error
    for name, x in drawn:
        asked = map_structure(lambda a, b: a if a.is_floating_point() else b, x, point)
        miss = distance(process.endpoint(asked, x, times[1], generator=draws), asked)
        require(miss <= 1e-5, law, times, f"the {name} is off by {miss:.2g}")


@exact
def check_shapes(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 6: shape, dtype and device that go in come out, for batches and times of any rank.

    A process that is tied to its batch, by a mask, is not given others.
    """
    law, draws = "shape, dtype and device", generator_for(point, seed)
    for x, shape in batches(process, point):
        for t in every_rank(times[1], shape, leaves(x)[0].device):
            s = times[0] / times[1] * t
            for name, got in results(process, x, s, t, draws):
                miss = f"the {name} is {form(got)}, not {form(x)}"
                require(form(got) == form(x), law, times, miss)


@exact
def check_randomness(
    process: Process, point: State, view: View, times: Times = TIMES, *, seed: int = 0
) -> None:
    """Law 6: the generator is the only source of randomness, and no input is written to."""
    law, state = "generator as the only source", torch.get_rng_state()
    copy = map_structure(torch.clone, point)
    first, again, other = (
        dict(results(process, point, *times, generator_for(point, seed + i))) for i in (0, 0, 1)
    )
    require(torch.equal(state, torch.get_rng_state()), law, times, "the global state moved")
    for name in ("forward draw", "bridge draw", "step"):
        require(same(first[name], again[name]), law, times, f"the {name} differs for one seed")
        require(not same(first[name], other[name]), law, times, f"the {name} ignores the seed")
    require(same(point, copy), law, times, "x_0 was written to")

"""Everything that is refused, with the words that it is refused in.

Nothing is drawn and no guess is called before input is refused.
"""

import math

import pytest
import torch

from bridges import (
    Joint,
    LinearClock,
    OrnsteinUhlenbeckDiffusion,
    RotationDiffusion,
    UniformDiscreteDiffusion,
    WrappedBrownianDiffusion,
    sample_backward,
    standardloss,
    timeschedule,
)

NAN, INF = math.nan, math.inf
POS = OrnsteinUhlenbeckDiffusion(0.5)
SEQ = UniformDiscreteDiffusion(1.0, 5)
ANGLE = WrappedBrownianDiffusion(0.7)
ROT = RotationDiffusion(0.9)
DICT = Joint(pos=POS, seq=SEQ)
PAIR = Joint(POS, SEQ)
X, TOKENS = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)
EYES = torch.eye(3).expand(4, 3, 3)
BOTH = {"pos": X, "seq": TOKENS}
MASK = torch.ones(4, dtype=torch.bool)
SHEAR = torch.eye(3) + 0.01 * torch.ones(3, 3)
MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
T, TWO = torch.rand(4), torch.tensor([0.1, 0.2])

# fmt: off
# the type of the error, what is called with the generator, how the words begin
TYPE, VALUE = TypeError, ValueError
CONSTRUCTORS = [
    (VALUE, lambda: OrnsteinUhlenbeckDiffusion(NAN), "Expected mean to be finite; got nan."),
    (TYPE, lambda: OrnsteinUhlenbeckDiffusion('0'), "Expected mean to be a number; got '0'."),
    (VALUE, lambda: OrnsteinUhlenbeckDiffusion(0.0, 0.0),
     "Expected volatility to be positive; got 0.0."),
    (VALUE, lambda: OrnsteinUhlenbeckDiffusion(0.0, 1.0, -2.0),
     "Expected reversion to be positive; got -2.0."),
    (VALUE, lambda: WrappedBrownianDiffusion(0), "Expected rate to be positive; got 0."),
    (VALUE, lambda: WrappedBrownianDiffusion(1.0, -1.0),
     "Expected period to be positive; got -1.0."),
    (VALUE, lambda: WrappedBrownianDiffusion(INF), "Expected rate to be finite; got inf."),
    (VALUE, lambda: RotationDiffusion(-1.0), "Expected rate to be positive; got -1.0."),
    (TYPE, lambda: RotationDiffusion(torch.ones(2)),
     "Expected rate to be a number; got a float32 tensor of shape (2,)."),
    (TYPE, lambda: RotationDiffusion(True), "Expected rate to be a number; got True."),
    (VALUE, lambda: UniformDiscreteDiffusion(0.0, 5), "Expected rate to be positive; got 0.0."),
    (VALUE, lambda: UniformDiscreteDiffusion(1.0, 1),
     "Expected k to be an integer of at least 2; got 1."),
    (VALUE, lambda: UniformDiscreteDiffusion(1.0, 5.0),
     "Expected k to be an integer of at least 2; got 5.0."),
    (VALUE, lambda: Joint(), "Expected a Joint to have parts by position or by name; got no"),
    (TYPE, lambda: Joint(pos=POS, seq=5), "Expected part 'seq' to be a Process; got 5."),
    (TYPE, lambda: POS.on(2.0), "Expected clock to be a Clock; got 2.0."),
    (VALUE, lambda: POS.tempered(-1.0), "Expected scale to be positive; got -1.0."),
    (TYPE, lambda: POS.where(torch.ones(4)),
     "Expected mask to be bool; got a float32 tensor of shape (4,)."),
    (VALUE, lambda: DICT.where({'pos': MASK}),
     "Expected mask to be a dict with keys ['pos', 'seq']; got a dict with keys ['pos']."),
    (VALUE, lambda: LinearClock(0.0), "Expected factor to be positive; got 0.0."),
    (VALUE, lambda: timeschedule(torch.exp, torch.log, 1.0, 0.5, 3),
     "Expected the times to increase from lb to ub; got "),
]
STATES = [
    (TYPE, lambda g: POS.sample_forward(5.0, 0.5, generator=g),
     "Expected x to be a tensor; got 5.0."),
    (TYPE, lambda g: POS.sample_forward(TOKENS, 0.5, generator=g),
     "Expected x to be a floating tensor; got a int64 tensor of shape (4, 3)."),
    (TYPE, lambda g: SEQ.sample_forward(X, 0.5, generator=g),
     "Expected x to be an int64 tensor of tokens; got a float32 tensor of shape (4, 3)."),
    (TYPE, lambda g: SEQ.sample_forward(TOKENS.int(), 0.5, generator=g),
     "Expected x to be an int64 tensor of tokens; got a int32"),
    (VALUE, lambda g: SEQ.sample_forward(TOKENS + 5, 0.5, generator=g),
     "Expected x to hold tokens in [0, 5); got values from 5 to 5."),
    (VALUE, lambda g: SEQ.sample_bridge(TOKENS, TOKENS - 1, 0.2, 0.5, generator=g),
     "Expected x_t to hold tokens in [0, 5); got values from -1 to -1."),
    (VALUE, lambda g: SEQ.sample_step(X, TOKENS - 1, 0.2, 0.5, generator=g),
     "Expected x_t to hold tokens in [0, 5); got values from -1 to -1."),
    (VALUE, lambda g: SEQ.on(LinearClock(2.0)).sample_forward(TOKENS - 1, 0.5, generator=g),
     "Expected x to hold tokens in [0, 5);"),
    (VALUE, lambda g: ROT.sample_forward(torch.eye(2), 0.5, generator=g),
     "Expected x to hold matrices (…, 3, 3); got a float32 tensor of shape (2, 2)."),
    (VALUE, lambda g: ROT.sample_forward(torch.zeros(3), 0.5, generator=g),
     "Expected x to have at least 2 dimensions; got a float32 tensor of shape (3,)."),
    (VALUE, lambda g: ROT.on(LinearClock(2.0)).sample_forward(torch.eye(4), 0.5, generator=g),
     "Expected x to hold matrices (…, 3, 3); got a float32 tensor of shape (4, 4)."),
    (VALUE, lambda g: ROT.where(MASK).sample_forward(torch.zeros(4, 4, 4), 0.5, generator=g),
     "Expected x to hold matrices (…, 3, 3); got"),
    (VALUE, lambda g: ROT.tempered(2.0).endpoint(EYES, torch.zeros(4, 2, 3), 0.5, generator=g),
     "Expected x_t to hold matrices (…, 3, 3); got"),
    (VALUE, lambda g: ROT.sample_forward(SHEAR, 0.5, generator=g),
     "Expected x to hold rotation matrices, orthonormal to 0.001 and right-handed; got"),
    (VALUE, lambda g: ROT.sample_forward(MIRROR, 0.5, generator=g),
     "Expected x to hold rotation matrices, orthonormal to 0.001 and right-handed; got"),
    (VALUE, lambda g: ROT.sample_forward(EYES * NAN, 0.5, generator=g),
     "Expected x to hold rotation matrices, orthonormal to 0.001 and right-handed; got"),
    (VALUE, lambda g: ROT.sample_bridge(EYES, EYES @ MIRROR, 0.2, 0.5, generator=g),
     "Expected x_t to hold rotation matrices"),
    (VALUE, lambda g: ROT.log_prob(EYES, SHEAR, 0.5), "Expected x_0 to hold rotation matrices"),
    (VALUE, lambda g: POS.sample_bridge(X, X[:2], 0.2, 0.5, generator=g),
     "Expected x_0 to have the shape of x_t, (2, 3); got (4, 3)."),
    (VALUE, lambda g: ANGLE.score(X[:2], X, 0.5),
     "Expected x_0 to have the shape of x_t, (2, 3); got (4, 3)."),
    (VALUE, lambda g: POS.where(MASK[:3]).sample_forward(X, 0.5, generator=g),
     "Expected mask to have a leading part of the batch shape (4, 3); got shape (3,)."),
    (VALUE, lambda g: ROT.where(MASK[:, None]).sample_forward(EYES, 0.5, generator=g),
     "Expected mask to have a leading part of the batch shape (4,); got shape (4, 1)."),
    (VALUE, lambda g: POS.sample_prior(3, generator=g),
     "Expected shape to be a tuple of non-negative integers; got 3."),
    (VALUE, lambda g: POS.sample_prior((2, -1), generator=g),
     "Expected shape to be a tuple of non-negative integers; got a tuple of length 2."),
    (VALUE, lambda g: POS.sample_prior('23', generator=g),
     "Expected shape to be a tuple of non-negative integers; got '23'."),
    (VALUE, lambda g: DICT.sample_prior((2, 3), generator=g),
     "Expected shape to be a dict with keys ['pos', 'seq']; got a tuple of length 2."),
    (TYPE, lambda g: POS.sample_forward(X, 0.5, generator=3),
     "Expected generator to be a torch.Generator, a Draws object or None; got 3."),
    (TYPE, lambda g: POS.sample_prior((3,), generator='cpu'),
     "Expected generator to be a torch.Generator, a Draws object or None; got 'cpu'."),
]
TIMES = [
    (TYPE, lambda g: POS.sample_forward(X, '1', generator=g),
     "Expected the time t to be a number; got '1'."),
    (TYPE, lambda g: POS.sample_forward(X, True, generator=g),
     "Expected the time t to be a number; got True."),
    (TYPE, lambda g: POS.sample_forward(X, [0.1] * 4, generator=g),
     "Expected the time t to be a number; got a list of length 4."),
    (TYPE, lambda g: POS.sample_forward(X, MASK, generator=g),
     "Expected the time t to be real; got a bool tensor of shape (4,)."),
    (TYPE, lambda g: POS.sample_forward(X, T + 1j, generator=g),
     "Expected the time t to be real; got a complex64 tensor of shape (4,)."),
    (VALUE, lambda g: POS.sample_forward(X, TWO, generator=g),
     "Expected the time t to be a number or to have a leading part of the batch shape (4, 3); go"),
    (VALUE, lambda g: POS.sample_forward(X, T[:, None], generator=g),
     "Expected the time t to be a number or to have a leading part of the batch shape (4, 3); go"),
    (VALUE, lambda g: ROT.sample_forward(EYES, torch.rand(4, 3), generator=g),
     "Expected the time t to be a number or to have a leading part of the batch shape (4,); got "),
    (VALUE, lambda g: POS.sample_forward(X, NAN, generator=g),
     "Expected the time t to be finite; got nan."),
    (VALUE, lambda g: POS.sample_forward(X, INF, generator=g),
     "Expected the time t to be finite; got inf."),
    (VALUE, lambda g: POS.sample_forward(X, T * NAN, generator=g), "Expected the time "),
    (VALUE, lambda g: POS.sample_forward(X, T * INF, generator=g),
     "Expected the time t to be finite; got "),
    (VALUE, lambda g: POS.endpoint(X, X, T * NAN, generator=g),
     "Expected the time t to be finite; got "),
    (VALUE, lambda g: POS.score(X, X, torch.tensor(NAN)),
     "Expected the time t to be finite; got "),
    (VALUE, lambda g: standardloss(POS, T * NAN, X, X), "Expected the time t to be finite; got "),
    (VALUE, lambda g: POS.sample_forward(X, -0.5, generator=g), "Expected the time "),
    (VALUE, lambda g: POS.endpoint(X, X, -T, generator=g),
     "Expected the time t to be at least 0; got a negative one."),
    (VALUE, lambda g: standardloss(POS, -0.1, X, X),
     "Expected the time t to be at least 0; got a negative one."),
    (VALUE, lambda g: POS.sample_forward(X, 0.5, start=-0.1, generator=g),
     "Expected the time start to be at least 0; got a negative one."),
    (VALUE, lambda g: POS.sample_forward(X, 0.5, start=0.7, generator=g),
     "Expected the time start to be at most t; got 0.7 and 0.5."),
    (VALUE, lambda g: POS.sample_bridge(X, X, 0.7, 0.5, generator=g),
     "Expected the time s to be at most t; got 0.7 and 0.5."),
    (VALUE, lambda g: POS.sample_bridge(X, X, T + 1, T, generator=g),
     "Expected the time s to be at most t; got "),
    (VALUE, lambda g: SEQ.sample_step(TOKENS, TOKENS, 0.7, T / 2, generator=g),
     "Expected the time s to be at most t; got "),
    (VALUE, lambda g: POS.sample_step(X, X, -T, T, generator=g),
     "Expected the time s to be at least 0; got a negative one."),
    (VALUE, lambda g: POS.log_prob(X, X, 0.2, start=0.3),
     "Expected the time start to be at most t; got 0.3 and 0.2."),
    (VALUE, lambda g: DICT.sample_forward(BOTH, {'pos': 0.1}, generator=g),
     "Expected the time t to be a dict with keys ['pos', 'seq']; got a dict with keys ['pos']."),
    (VALUE, lambda g: PAIR.sample_forward((X, TOKENS), (0.1,) * 3, generator=g),
     "Expected the time t to be a tuple of length 2; got a tuple of length 3."),
    (TYPE, lambda g: PAIR.sample_forward((X, TOKENS), {'pos': 0.1, 'seq': 0.2}, generator=g),
     "Expected the time t to be a number; got a dict with keys ['pos', 'seq']."),
]
REST = [
    (VALUE, lambda g: POS.sample_bridge(X, X, 0.2, 0.5, eta=-0.1, generator=g),
     "Expected eta to be at least 0; got -0.1."),
    (VALUE, lambda g: POS.sample_bridge(X, X, 0.2, 0.5, eta=NAN, generator=g),
     "Expected eta to be finite; got nan."),
    (VALUE, lambda g: ANGLE.sample_bridge(X, X, 0.2, 0.5, eta=1.5, generator=g),
     "Expected eta to lie in [0, 1]; got 1.5."),
    (VALUE, lambda g: ROT.sample_step(EYES, EYES, 0.2, 0.5, eta=-1, generator=g),
     "Expected eta to lie in [0, 1]; got -1."),
    (TYPE, lambda g: ROT.sample_step(EYES, EYES, 0.2, 0.5, eta='1', generator=g),
     "Expected eta to be a number; got '1'."),
    (VALUE, lambda g: DICT.sample_bridge(BOTH, BOTH, 0.2, 0.5, eta=0.5, generator=g),
     "Expected eta to be 1 for tokens, which have no deterministic path; got 0.5."),
    (VALUE, lambda g: DICT.sample_bridge(BOTH, BOTH, 0.2, 0.5, eta={'pos': 0.0}, generator=g),
     "Expected eta to be a dict with keys ['pos', 'seq']; got a dict with keys ['pos']."),
    (VALUE, lambda g: DICT.sample_forward((X, TOKENS), 0.5, generator=g),
     "Expected x to be a dict with keys ['pos', 'seq']; got a tuple of length 2."),
    (VALUE, lambda g: DICT.sample_forward({**BOTH, 'rot': X}, 0.5, generator=g),
     "Expected x to be a dict with keys ['pos', 'seq']; got a dict with keys ['pos', 'rot', 'seq"),
    (VALUE, lambda g: PAIR.sample_forward((X,), 0.5, generator=g),
     "Expected x to be a tuple of length 2; got a tuple of length 1."),
    (TYPE, lambda g: DICT.sample_forward({'pos': TOKENS, 'seq': TOKENS}, 0.5, generator=g),
     "Expected x['pos'] to be a floating tensor; got"),
    (VALUE, lambda g: DICT.sample_forward({'pos': X, 'seq': TOKENS - 1}, 0.5, generator=g),
     "Expected x['seq'] to hold tokens in [0, 5);"),
    (VALUE, lambda g: DICT.sample_step((X, TOKENS), BOTH, 0.2, 0.5, generator=g),
     "Expected the prediction to be a dict with keys ['pos', 'seq']; got a tuple of length 2."),
    (VALUE, lambda g: DICT.error({'pos': X}, BOTH),
     "Expected the prediction to be a dict with keys ['pos', 'seq']; got a dict with keys ['pos'"),
    (TYPE, lambda g: POS.endpoint('x', X, 0.5, generator=g),
     "Expected a prediction for OrnsteinUhlenbeckDiffusion to be a tensor; got 'x'."),
    (VALUE, lambda g: POS.sample_step(X[:, :2], X, 0.2, 0.5, generator=g),
     "Expected the prediction to have the shape of the state, (4, 3); got (4, 2)."),
    (VALUE, lambda g: ANGLE.error(X[0], X),
     "Expected the prediction to have the shape of the state, (4, 3); got (3,)."),
    (VALUE, lambda g: ROT.endpoint(torch.zeros(4, 3), EYES, 0.5, generator=g),
     "Expected the prediction to have the shape of the state, (4, 3, 3); got (4, 3)."),
    (VALUE, lambda g: SEQ.endpoint(torch.zeros(4, 3, 4), TOKENS, 0.5, generator=g),
     "Expected logits to have shape (4, 3, 5); got (4, 3, 4)."),
    (VALUE, lambda g: SEQ.sample_step(TOKENS[:2], TOKENS, 0.2, 0.5, generator=g),
     "Expected the prediction to have the shape of the state, (4, 3); got (2, 3)."),
    (TYPE, lambda g: SEQ.error(TOKENS, TOKENS),
     "Expected logits of shape (4, 3, 5) for UniformDiscreteDiffusion; got a int64 tensor of sha"),
    (VALUE, lambda g: POS.where(MASK).error(X[:, :1], X),
     "Expected the prediction to have the shape of the state, (4, 3); got (4, 1)."),
    (VALUE, lambda g: SEQ.where(MASK).endpoint(torch.zeros(4, 3, 4), TOKENS, 0.5, generator=g),
     "Expected logits to have shape (4, 3, 5); got (4, 3, 4)."),
    (TYPE, lambda g: standardloss(POS, 0.5, X, X, mask=T),
     "Expected mask to be bool; got a float32 tensor of shape (4,)."),
    (VALUE, lambda g: standardloss(POS, 0.5, X, X, mask=MASK[:3]),
     "Expected mask to have a leading part of the batch shape (4, 3); got shape (3,)."),
    (VALUE, lambda g: standardloss(DICT, 0.5, (X, X), BOTH),
     "Expected the prediction to be a dict with keys ['pos', 'seq']; got"),
]


def never(x_t, t):
    raise AssertionError("the guess was called")


def run(process, timesteps, x, **given):
    return lambda g: sample_backward(never, process, timesteps, x, **({"generator": g} | given))


RUNS = [
    (VALUE, run(POS, [0.5], X),
     "Expected timesteps to hold at least 2 times; got a list of length 1."),
    (VALUE, run(POS, 0.5, X), "Expected timesteps to hold at least 2 times; got 0.5."),
    (VALUE, run(POS, [1.0, 0.5], X),
     "Expected the time timesteps[0] to be at most timesteps[1]; got 1.0 and 0.5."),
    (VALUE, run(POS, [-0.1, 0.5], X),
     "Expected the time timesteps[0] to be at least 0; got a negative one."),
    (VALUE, run(POS, [0.0, NAN], X), "Expected the time timesteps[1] to be finite; got nan."),
    (VALUE, run(POS, [0.0, INF], X), "Expected the time timesteps[1] to be finite; got inf."),
    (VALUE, run(POS, torch.rand(3, 2), X),
     "Expected the time timesteps[0] to be a number or to have a leading part of the batch shape"),
    (VALUE, run(POS, torch.tensor([[0.0] * 4, [INF] * 4]), X),
     "Expected the time timesteps[1] to be finite; got "),
    (TYPE, run(POS, [0.0, 1.0], TOKENS), "Expected x to be a floating tensor; got"),
    (VALUE, run(SEQ, [0.0, 1.0], TOKENS + 9),
     "Expected x to hold tokens in [0, 5); got values from 9 to 9."),
    (VALUE, run(POS, [0.0, 1.0], X, eta=-1.0), "Expected eta to be at least 0; got -1.0."),
    (VALUE, run(DICT, [0.0, 1.0], BOTH, eta=0.0), "Expected eta to be 1 for tokens"),
    (TYPE, run(POS, [0.0, 1.0], X, generator=3),
     "Expected generator to be a torch.Generator, a Draws object or None; got 3."),
    (VALUE, run(DICT, {'pos': [0.0, 1.0], 'seq': [0.0, 0.5, 1.0]}, BOTH),
     "Expected the grids of all parts to have one length; got lengths [2, 3]."),
    (VALUE, run(DICT, {'pos': [0.0, 1.0]}, BOTH),
     "Expected the time timesteps[0] to be a dict with keys ['pos', 'seq']; got a dict with keys"),
    (VALUE, run(DICT, {'pos': [0.0, 1.0], 'seq': [1.0, 0.0]}, BOTH),
     "Expected the time timesteps[0] to be at most timesteps[1]; got 1.0 and 0.0."),
    (VALUE, run(PAIR, [0.0, 1.0], BOTH),
     "Expected x to be a tuple of length 2; got a dict with keys ['pos', 'seq']."),
    (VALUE, run(POS.where(MASK[:2]), [0.0, 1.0], X),
     "Expected mask to have a leading part of the batch shape (4, 3); got shape (2,)."),
]
# fmt: on


@pytest.mark.parametrize(("error", "call", "words"), CONSTRUCTORS)
def test_constructors(error, call, words):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(("error", "call", "words"), [*STATES, *TIMES, *REST, *RUNS])
def test_methods(error, call, words):
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with pytest.raises(error) as caught:
        call(generator)
    assert str(caught.value).startswith(words)
    assert torch.equal(generator.get_state(), before)

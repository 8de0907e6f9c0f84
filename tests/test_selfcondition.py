import pytest
import torch
from scipy import stats

from bridges import (
    OrnsteinUhlenbeckDiffusion,
    sample_backward,
    selfconditioned,
    selfconditioning_estimate,
    trajectory,
)

P_MIN = 1e-4
PROCESS = OrnsteinUhlenbeckDiffusion(0.0)
GRID = [0.0, 0.3, 0.8, 1.5]


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Model:
    """Answers with its last answer plus one, and remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, x_t, t, previous):
        self.seen.append(previous)
        return previous + 1


def test_the_model_sees_its_own_last_prediction():
    model, null = Model(), torch.zeros(2)
    steps = list(trajectory(selfconditioned(model, null), PROCESS, GRID, torch.randn(2)))
    assert model.seen[0] is null
    for step, following in zip(steps, model.seen[1:], strict=False):
        assert following is step.prediction
    assert [v[0].item() for v in model.seen] == [0.0, 1.0, 2.0]


def test_every_run_is_fresh():
    model, null = Model(), torch.zeros(2)
    guess = selfconditioned(model, null)
    for _ in range(3):
        end = sample_backward(guess, PROCESS, GRID, torch.randn(2))
        assert end.tolist() == [3.0, 3.0]


def test_runs_that_interleave_do_not_share_a_memory():
    guess = selfconditioned(Model(), torch.zeros(2))
    runs = [trajectory(guess, PROCESS, GRID, torch.randn(2)) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first.prediction, second.prediction)


def test_by_hand_the_closure_remembers_and_a_run_does_not_disturb_it():
    guess = selfconditioned(Model(), torch.zeros(2))
    assert guess(None, 1.0)[0] == 1
    sample_backward(guess, PROCESS, GRID, torch.randn(2))
    assert guess(None, 0.5)[0] == 2


def test_the_model_must_be_callable():
    with pytest.raises(TypeError, match="Expected model to be callable; got 3"):
        selfconditioned(3, None)


# ------------------------------------------------------------------ the training twin


def answer(x_t, t, previous):
    return x_t + 1 + 0 * previous


def test_the_coin_is_per_example_and_fair():
    n = 20_000
    found = selfconditioning_estimate(
        answer, torch.zeros(n, 3, 2), 0.5, torch.zeros(n, 3, 2), generator=rng(1)
    )
    coin = found[:, 0, 0]
    assert torch.equal(found, coin[:, None, None].expand(n, 3, 2))
    assert set(coin.unique().tolist()) == {0.0, 1.0}
    assert stats.binomtest(int(coin.sum()), n, 0.5).pvalue > P_MIN
    # Neighbours' coins have nothing to do with each other.
    assert stats.binomtest(int((coin[1:] == coin[:-1]).sum()), n - 1, 0.5).pvalue > P_MIN


def test_the_coin_comes_from_the_generator_alone():
    x, null = torch.zeros(64, 3), torch.zeros(3)
    before = torch.get_rng_state()
    runs = [selfconditioning_estimate(answer, x, 0.5, null, generator=rng(s)) for s in (2, 2, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_one_coin_for_all_parts():
    x = torch.zeros(64, 3)
    model = lambda x_t, t, previous: {"a": x_t + 1, "b": (x_t[:, :1] + 1, x_t.double() + 1)}  # noqa: E731
    null = {"a": torch.zeros(3), "b": (torch.tensor(0.0), torch.zeros(64, 3))}
    found = selfconditioning_estimate(model, x, 0.5, null, generator=rng(4))
    coin = found["a"][:, 0]
    assert 0 < coin.sum() < 64
    assert torch.equal(found["b"][0], coin[:, None])
    assert torch.equal(found["b"][1], coin[:, None].double().expand(64, 3))
    assert isinstance(found["b"], tuple)


def test_the_model_is_called_once_with_null():
    calls = []

    def model(x_t, t, previous):
        calls.append((x_t, t, previous, torch.is_grad_enabled()))
        return x_t

    x, t, null = torch.zeros(4, 2), torch.rand(4), torch.zeros(2)
    selfconditioning_estimate(model, x, t, null)
    assert len(calls) == 1
    assert calls[0][0] is x
    assert calls[0][1] is t
    assert calls[0][2] is null
    assert calls[0][3] is False


def test_the_estimate_is_detached():
    """Also from a null prediction that is learned."""
    weight = torch.tensor(1.0, requires_grad=True)
    null = torch.zeros(2, requires_grad=True)
    found = selfconditioning_estimate(lambda x, t, p: weight * x, torch.ones(4, 2), 0.5, null)
    assert not found.requires_grad
    assert torch.is_grad_enabled()

"""The example that generates protein fragments, with a tiny network and three steps."""

import json

import biotite.structure.io.pdb as pdb
import numpy as np
import pytest
import torch

import backbones
from bridges import RotationDiffusion
from bridges.protein import RESIDUES, read_backbone
from fragments import conditional, generate
from fragments.data import Fragments
from fragments.network import Denoiser, null_prediction
from fragments.objective import training_times
from fragments.process import PARTS, as_state, fragment_process, shapes
from fragments.train import Run, chain_covariance, train

LENGTH = 12
SIZE = {"width": 16, "heads": 2, "pair": 4, "stages": 2}
ARGUMENTS = ["--length", str(LENGTH), "--width", "16", "--count", "4", "--reverse-steps", "3"]


@pytest.fixture(scope="module")
def data():
    return Fragments.load("train", LENGTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole run from the command line."""
    out = tmp_path_factory.mktemp("run")
    backbones.main(["--out", str(out), "--steps", "3", *ARGUMENTS])
    return out


@pytest.fixture
def model(data):
    """A network whose every layer does something, unlike one that was only just made."""
    torch.manual_seed(0)
    net = Denoiser(chain_covariance(data), **SIZE)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return net.double()


def test_resumed_run_is_the_uninterrupted_one(data, tmp_path):
    whole, first = Run(data, 0, **SIZE), Run(data, 0, **SIZE)
    for run in (whole, first):
        run.plan_steps(3)
    for _ in train(whole, tmp_path / "whole"):
        pass
    next(train(first, tmp_path / "part"))
    first.save(tmp_path / "part")
    second = Run.load(tmp_path / "part")
    assert [*train(second, tmp_path / "part")]
    expected, got = whole.state(), second.state()
    assert expected.keys() == got.keys()
    for name in expected.keys() - {"plan"}:
        assert torch.equal(expected[name], got[name]), name
    assert torch.equal(expected["plan"][:4], got["plan"][:4])


def test_learning_rate_ends_at_zero(data, tmp_path):
    run = Run(data, 0, **SIZE)
    run.plan_minutes(1e-9)
    assert run.rate() > 0
    for step in range(1, 26):
        run.step = step
        run.spend(1.0)
    assert run.finished()
    assert run.rate() == 0


def test_steps_go_on(folder, capsys):
    before = Run.load(folder)
    backbones.main(["--out", str(folder), "--steps", "2", *ARGUMENTS, "--fix", "sequence"])
    after = Run.load(folder)
    assert (before.step, after.step) == (3, 5)
    assert after.history["step"] == [1, 2, 3, 4, 5]


def test_files_are_written_and_read_again(folder):
    report = json.loads((folder / "report.json").read_text())
    assert set(report["sets"]) == {"held-out", "exact", "scaled"}
    for name in ("exact", "scaled"):
        paths = sorted((folder / name).iterdir())
        assert [path.name for path in paths] == [f"{n:04d}.pdb" for n in range(1, 5)]
        for path in paths:
            atoms = pdb.PDBFile.read(path).get_structure(model=1)
            assert np.isfinite(atoms.coord).all()
            assert atoms.atom_name.tolist() == ["N", "CA", "C", "O"] * LENGTH
    assert read_backbone(folder / "trajectory.pdb").coords.shape == (3, LENGTH, 4, 3)
    for name in ("ramachandran.png", "losses.png", "gallery.png", "trajectory.gif"):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.parametrize("mode", conditional.MODES)
def test_given_parts_stay_bit_for_bit(data, model, mode):
    native = as_state(data.gather(data.starts[:3]))
    free = conditional.free_parts(mode, 3, LENGTH)
    generator = torch.Generator().manual_seed(0)
    state = generate.sample(model.float(), fragment_process(), native, free, 3, generator)
    for part in PARTS:
        given = ~free[part]
        assert torch.equal(state[part][given], native[part][given])
    changed = sum(bool((state[part] != native[part]).any()) for part in PARTS)
    assert changed == {"sequence": 3, "structure": 1, "motif": 4}[mode]


@pytest.mark.parametrize("mode", conditional.MODES)
def test_fixed_modes_report(folder, mode):
    backbones.main(["--out", str(folder), *ARGUMENTS, "--fix", mode])
    report = json.loads((folder / f"{mode}.json").read_text())
    assert report["given parts kept bit for bit"] == 1
    assert len(list((folder / mode).iterdir())) == 4


def test_network_turns_with_its_input(data, model):
    generator = torch.Generator().manual_seed(0)
    shape, process = shapes(2, LENGTH), fragment_process()
    x_t, last = (
        process.sample_prior(shape, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    last["seq"] = torch.randn(2, LENGTH, len(RESIDUES), dtype=torch.float64, generator=generator)
    turn = RotationDiffusion(1.0).sample_prior((), generator=generator, dtype=torch.float64)

    def turned(x):
        return {**x, "pos": x["pos"] @ turn.mT, "rot": turn @ x["rot"]}

    time = torch.full((2,), 0.4, dtype=torch.float64)
    null = {part: value.double() for part, value in null_prediction(2, LENGTH).items()}
    for previous, turned_previous in ((last, turned(last)), (null, null)):
        expected = turned(model(x_t, time, previous))
        got = model(turned(x_t), time, turned_previous)
        for part in PARTS:
            torch.testing.assert_close(got[part], expected[part])
        assert got["pos"].mean(1).abs().max() < 1e-6


def test_network_leaves_what_is_given_in_its_place(data, model):
    clean = {
        part: value.double() if value.is_floating_point() else value
        for part, value in as_state(data.gather(data.starts[:3])).items()
    }
    free = conditional.free_parts("motif", 3, LENGTH)
    time = {part: 0.5 * free[part].double() for part in PARTS}
    x_t = fragment_process().sample_forward(clean, time)
    null = {part: value.double() for part, value in null_prediction(3, LENGTH).items()}
    guess, given = model(x_t, time, null), ~free["pos"]
    torch.testing.assert_close(guess["pos"][given], clean["pos"][given], atol=1e-4, rtol=0)
    torch.testing.assert_close(guess["rot"][given], clean["rot"][given])
    torch.testing.assert_close(guess["psi"][given], clean["psi"][given])


def test_training_times_lie_in_the_unit_interval():
    times = training_times(2000, LENGTH, torch.Generator().manual_seed(0))
    for part in PARTS:
        assert times[part].shape == (2000, LENGTH)
        assert 0 <= times[part].min() <= times[part].max() <= 1
    motif = torch.stack([times[part] == 0 for part in PARTS]).all(0)
    assert 0.05 < (motif.any(1) & ~motif.all(1)).double().mean() < 0.15

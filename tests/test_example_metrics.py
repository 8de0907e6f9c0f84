"""The metrics and the figures of the example that generates protein fragments."""

import json
import math

import pytest
import torch

from bridges.protein import RESIDUES
from fragment_cases import chain_of, degrees, kabsch, random_rotations
from fragments import geometry, metrics

# --- geometry -----------------------------------------------------------------------------------


def test_torsions_and_shape_of_an_ideal_helix():
    helix = chain_of(-62, -42)
    phi, psi, omega = geometry.torsions(helix)
    assert torch.allclose(phi[1:], degrees(-62), atol=1e-3)
    assert torch.allclose(psi[:-1], degrees(-42), atol=1e-3)
    assert torch.allclose(omega[1:].abs(), degrees(180), atol=1e-3)
    ca_ca, c_n = geometry.bonds(helix)
    assert ((ca_ca - 3.80).abs() < 0.03).all()
    assert torch.allclose(c_n, torch.tensor(1.329), atol=1e-4)
    rise = (helix[-4:, 1].mean(0) - helix[:4, 1].mean(0)).norm() / 20
    assert abs(rise - 1.5) < 0.1  # angstrom for each residue
    assert geometry.helix(phi, psi)[1:-1].all()
    assert not geometry.strand(phi, psi).any()
    assert geometry.clashes(helix) == 0


def test_helices_need_four_residues():
    phi, psi = degrees(*[-63] * 9), degrees(-43, -43, -43, 140, -43, -43, -43, -43, 140)
    expected = [False] * 4 + [True] * 4 + [False]
    assert geometry.helix(phi, psi).tolist() == expected
    assert geometry.strand(phi, psi).tolist() == [False] * 3 + [True] + [False] * 4 + [True]


def test_long_bonds_do_not_hide_torsions():
    broken = chain_of(-62, -42)
    broken[12:] += 5.0
    phi, psi, _ = geometry.torsions(broken)
    assert not phi[1:].isnan().any()
    assert not psi[:-1].isnan().any()


def test_clashes_are_counted():
    coords = torch.arange(6.0)[:, None, None] * 100 + torch.arange(3.0)[:, None] * 10
    coords = coords.expand(6, 3, 3).clone()
    assert geometry.clashes(coords) == 0
    coords[3, 0] = coords[1, 2] + torch.tensor([2.4, 0, 0])  # N and C
    coords[5, 1] = coords[0, 1] + torch.tensor([2.9, 0, 0])  # two CA
    coords[2, 0] = coords[1, 0]  # neighbours do not count
    assert geometry.clashes(coords) == 2
    coords[5, 2] = coords[0, 0] + torch.tensor([2.9, 0, 0])  # C and N may be that near
    assert geometry.clashes(coords) == 2


def test_rmsd_equals_the_singular_value_solution(held_out_batch):
    pos = held_out_batch["pos"]
    a, b = pos[:12], torch.cat([pos[200:230], pos[:12] * torch.tensor([1.0, 1.0, -1.0])])
    expected = torch.stack([torch.stack([kabsch(x, y) for y in b]) for x in a])
    assert torch.allclose(geometry.rmsd(a, b), expected, atol=1e-6)


def test_rmsd_is_zero_after_a_motion_and_at_worst_a_hair_off():
    generator = torch.Generator().manual_seed(3)
    line = torch.arange(24.0)[:, None] * torch.tensor([3.3, 0.0, 0.0])
    shapes = torch.stack([line, line * 0, chain_of(-62, -42)[:, 1], chain_of(-120, 130)[:, 1]])
    moved = shapes.double() @ random_rotations(4, generator).mT + 7.0
    assert geometry.rmsd(shapes, moved).diagonal().max() < 5e-3


def test_nearest_is_the_smallest(held_out_batch):
    a, b = held_out_batch["pos"][:10], held_out_batch["pos"][50:200]
    assert torch.equal(geometry.nearest(a, b), geometry.rmsd(a, b).amin(1))


# --- the report ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(splits, held_out_batch):
    """The report on good fragments, and on answers that some of the metrics would let pass."""
    size = 150
    train = splits["train"].windows(60)
    whole = splits["val"].held_out()
    held_out = {name: torch.cat([whole[name], held_out_batch[name]]) for name in whole}
    val = {name: x[::2][:size] for name, x in whole.items()}
    copied = splits["train"].gather(splits["train"].starts[::60][:size])
    broken = val["coords"].clone()
    broken[:, 12:] += 5.0
    generated = {
        "good": val,
        "helix": {**val, "coords": chain_of(-62, -42).expand(size, -1, -1, -1)},
        "glycine": {**val, "seq": torch.full_like(val["seq"], RESIDUES.index("G"))},
        "copied": copied,
        "shrunk": {**val, "coords": val["coords"] * 0.7},
        "mirrored": {**val, "coords": val["coords"] * torch.tensor([1.0, 1.0, -1.0])},
        "broken": {**val, "coords": broken},
        "turned": {**val, "psi": val["psi"] + 0.5 + 2 * math.pi},
    }
    return metrics.report(generated, held_out, train)


def test_held_out_fragments_look_like_proteins(report):
    row = report["held-out"]
    expected = {
        "favoured, general class": (0.925, 0.01),
        "outliers, general class": (0.015, 0.005),
        "CA-CA in 3.6-4.0 Å": (0.997, 0.002),
        "C-N (Å), 50 %": (1.329, 0.003),
        "glycine among φ > 0": (0.58, 0.03),
        "radius of gyration (Å), mean": (10.5, 0.2),
        "helix": (0.32, 0.03),
        "strand (extended)": (0.40, 0.03),
        "fragments with a clash": (0.0, 0.005),
    }
    for name, (value, tolerance) in expected.items():
        assert abs(row[name] - value) <= tolerance, name


def test_one_helix_over_and_over_is_seen(report):
    good, row = report["good"], report["helix"]
    assert row["helix"] == 1.0
    assert row["favoured, general class"] == 1.0  # which alone would look perfect
    assert row["pairwise RMSD (Å), median"] < 0.01 < 5 < good["pairwise RMSD (Å), median"]
    name = "φ, ψ histogram, total variation"
    assert row[name] > 0.8 > 0.3 > good[name]
    assert row["radius of gyration, KS distance"] > 0.5


def test_nothing_but_glycine_is_seen(report):
    row = report["glycine"]
    assert row["glycine"] == row["residue G"] == row["glycine among φ > 0"] == 1.0
    assert row["composition, total variation"] > 0.9
    assert row["favoured, general class"] is None


def test_copies_of_the_training_set_are_seen(report):
    assert report["copied"]["nearest training RMSD (Å), median"] < 1e-3
    assert report["good"]["nearest training RMSD (Å), 5 %"] > 0.3


def test_wrong_geometry_is_seen(report):
    good = report["good"]
    assert report["shrunk"]["CA-CA in 3.6-4.0 Å"] < 0.01
    assert report["shrunk"]["fragments with a clash"] > 0.5
    assert report["mirrored"]["φ > 0"] > 0.9
    assert report["mirrored"]["outliers, general class"] > 0.3
    assert report["broken"]["CA-CA in 3.6-4.0 Å"] < good["CA-CA in 3.6-4.0 Å"] - 0.03
    assert report["broken"]["favoured, general class"] < good["favoured, general class"]


def test_psi_is_compared_with_the_atoms(report):
    name = "ψ against the atoms (°), median"
    assert report["turned"][name] == pytest.approx(math.degrees(0.5), abs=0.01)
    assert report["good"][name] == pytest.approx(0, abs=0.01)


def test_report_is_json_and_its_table_aligned(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    lines = metrics.table(report).split("\n")
    assert lines[0].split() == list(report)
    ends = {line.rindex(line.split()[-1]) + len(line.split()[-1]) for line in lines[1:]}
    assert ends == {len(lines[0])}
    assert len(lines) == 1 + len(report["good"])


def test_report_refuses_what_it_cannot_measure(held_out_batch):
    coords, seq = held_out_batch["coords"], held_out_batch["seq"]
    with pytest.raises(ValueError, match="Expected coords to have shape"):
        metrics.sample(coords[:, 1:], seq)
    with pytest.raises(ValueError, match="Expected coords to be finite"):
        metrics.sample(coords / 0, seq)


# --- figures ------------------------------------------------------------------------------------


def test_figures_are_written(tmp_path, held_out_batch):
    pytest.importorskip("matplotlib")
    from fragments import plots

    few = {name: x[:40] for name, x in held_out_batch.items()}
    steps = range(1, 61)
    plots.ramachandran(tmp_path / "new" / "ramachandran.png", few, held_out_batch)
    plots.losses(tmp_path / "losses.png", {"step": steps, "position": [1 / s for s in steps]})
    plots.gallery(tmp_path / "gallery.png", few["coords"][:5])
    frames = few["pos"][0] * torch.linspace(3, 1, 4)[:, None, None]
    plots.trajectory_gif(tmp_path / "reverse.gif", frames)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"ramachandran.png", "losses.png", "gallery.png", "reverse.gif"}
    assert (tmp_path / "reverse.gif").read_bytes()[:4] == b"GIF8"


def test_a_failure_leaves_the_old_file(tmp_path):
    pytest.importorskip("matplotlib")
    from fragments import plots

    path = tmp_path / "losses.png"
    path.write_bytes(b"old")

    def write():
        with plots.written(path) as beside:
            beside.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]

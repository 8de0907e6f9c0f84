"""The data, the metrics and the figures of the example that generates protein fragments."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bridges.protein import RESIDUES, backbone_atoms, dihedral

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from fragments import geometry, metrics, ramachandran
from fragments.data import DATA, SPLITS, Fragments

P_MIN = 1e-4
LENGTH = 24
BONDS = {"N": 1.329, "CA": 1.458, "C": 1.525}  # to the atom before, angstrom
ANGLES = {"N": 116.2, "CA": 121.7, "C": 111.0}  # at the atom before, degrees


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small operations wait for each other's threads where other work runs beside the tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def splits():
    return {split: Fragments.load(split, LENGTH) for split in SPLITS}


@pytest.fixture(scope="module")
def held_out_batch(splits):
    return splits["test"].held_out()


@pytest.fixture(scope="module")
def archive():
    with np.load(DATA / "backbones.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def chain_of(phi, psi, length=LENGTH, omega=180.0):
    """N, CA, C (length, 3, 3) with the same torsions, in degrees, at every residue."""
    atoms = [np.zeros(3), np.array([1.458, 0, 0]), np.array([2.0, 1.42, 0])]
    turn = {"N": psi, "CA": omega, "C": phi}
    for k in range(3, 3 * length):
        name = ("N", "CA", "C")[k % 3]
        atoms.append(_place(*atoms[-3:], BONDS[name], ANGLES[name], turn[name]))
    return torch.tensor(np.array(atoms), dtype=torch.float32).view(length, 3, 3)


def _place(a, b, c, bond, angle, torsion):
    angle, torsion = np.radians(angle), np.radians(torsion)
    x = (c - b) / np.linalg.norm(c - b)
    z = np.cross(b - a, x) / np.linalg.norm(np.cross(b - a, x))
    y = np.cross(z, x)
    sine = np.sin(angle)
    return c + bond * (-np.cos(angle) * x + sine * (np.cos(torsion) * y + np.sin(torsion) * z))


def degrees(*values):
    return torch.deg2rad(torch.tensor(values, dtype=torch.float32))


def tokens(text):
    return torch.tensor([RESIDUES.index(letter) for letter in text])


def random_rotations(n, generator):
    q, r = torch.linalg.qr(torch.randn(n, 3, 3, dtype=torch.float64, generator=generator))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    return q * q.det()[:, None, None]


def kabsch(a, b):
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    u, s, vh = torch.linalg.svd(a.T @ b)
    s[2] *= (u @ vh).det().sign()
    return ((a.square().sum() + b.square().sum() - 2 * s.sum()) / len(a)).clamp(min=0).sqrt()


# --- data ---------------------------------------------------------------------------------------


def test_archive_is_as_its_readme_says(archive):
    assert archive["coords"].shape == (103157, 3, 3)
    assert archive["coords"].dtype == np.int16
    assert "".join(archive["alphabet"]) == RESIDUES
    assert archive["chain_start"][-1] == 103157
    counts = [(archive["split"] == split).sum() for split in SPLITS]
    assert counts == [397, 40, 54]


def test_clusters_lie_in_one_split(archive):
    seen = [set(archive["cluster"][archive["split"] == split]) for split in SPLITS]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 333


@pytest.mark.parametrize("split", SPLITS)
def test_windows_are_unbroken_pieces_of_one_chain(splits, split):
    data = splits[split]
    rows = data.starts[:, None] + torch.arange(LENGTH)
    assert (data.chain[rows] == data.chain[rows[:, :1]]).all()
    _, c_n = geometry.bonds(data.coords[rows[::7]])
    assert c_n.max() < 2.0
    assert len(data.starts.unique()) == len(data.starts)


def test_windows_are_all_there(archive, splits):
    opens = archive["chain_break"].copy()
    opens[archive["chain_start"][:-1]] = True
    stretches = np.diff(np.append(np.flatnonzero(opens), len(opens)))
    expected = np.maximum(stretches - LENGTH + 1, 0).sum()
    assert sum(len(data.starts) for data in splits.values()) == expected


def test_batch_has_its_documented_shapes(splits):
    batch = splits["val"].sample(5, torch.Generator().manual_seed(0))
    shapes = {name: (tuple(x.shape), x.dtype) for name, x in batch.items()}
    assert shapes == {
        "coords": ((5, LENGTH, 3, 3), torch.float32),
        "pos": ((5, LENGTH, 3), torch.float32),
        "rot": ((5, LENGTH, 3, 3), torch.float32),
        "seq": ((5, LENGTH), torch.int64),
        "psi": ((5, LENGTH), torch.float32),
        "psi_mask": ((5, LENGTH), torch.bool),
    }


def test_batch_is_centred_and_its_frames_fit(splits):
    batch = splits["train"].sample(64, torch.Generator().manual_seed(1))
    assert batch["pos"].mean(1).abs().max() < 1e-5
    assert torch.equal(batch["pos"], batch["coords"][:, :, 1])
    rebuilt = backbone_atoms(batch["pos"], batch["rot"], batch["psi"])[:, :, :3]
    assert (rebuilt - batch["coords"]).norm(dim=-1).median() < 0.05


def test_psi_is_known_exactly_where_the_chain_goes_on(splits):
    data = splits["test"]
    batch, starts = data.gather(data.starts), data.starts
    n, ca, c = batch["coords"].unbind(2)
    inner = dihedral(n[:, :-1], ca[:, :-1], c[:, :-1], n[:, 1:])
    assert batch["psi_mask"][:, :-1].all()
    assert torch.allclose(batch["psi"][:, :-1], inner, atol=1e-3)
    assert (batch["psi"][~batch["psi_mask"]] == 0).all()
    goes_on = torch.isin(starts + 1, starts)  # the next window is one too
    assert torch.equal(batch["psi_mask"][:, -1], goes_on)
    after = {int(s): k for k, s in enumerate(starts)}
    rows = [after[int(s) + 1] for s in starts[goes_on][:500]]
    last = batch["psi"][goes_on][:500, -1]
    assert torch.allclose(last, inner[rows, -1], atol=1e-3)


def test_sampling_weighs_clusters_then_chains_then_windows():
    lengths, cluster = [4, 3, 5], torch.tensor([7, 3, 7])
    chain = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    bonded = torch.cat([chain[1:] == chain[:-1], torch.tensor([False])])
    coords = torch.randn(12, 3, 3, generator=torch.Generator().manual_seed(0))
    data = Fragments(coords, torch.arange(12), bonded, chain, cluster, 3)
    first = data.sample(20000, torch.Generator().manual_seed(2))["seq"][:, 0]
    expected = torch.zeros(12, dtype=torch.float64)
    expected[[0, 1]], expected[4], expected[[7, 8, 9]] = 1 / 8, 1 / 2, 1 / 12
    counts = torch.bincount(first, minlength=12)
    assert (counts[expected == 0] == 0).all()
    drawn = expected > 0
    assert chisquare(counts[drawn], 20000 * expected[drawn]).pvalue > P_MIN


def test_sampling_follows_the_generator(splits):
    draws = [splits["train"].sample(8, torch.Generator().manual_seed(s))["pos"] for s in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_held_out_windows_do_not_overlap(splits):
    for split, count in (("val", 416), ("test", 403)):
        data = splits[split]
        batch = data.held_out()
        assert len(batch["seq"]) == count
        assert torch.equal(batch["coords"], data.held_out()["coords"])
    one = Fragments(
        torch.randn(11, 3, 3), torch.arange(11), torch.arange(11) != 10, torch.zeros(11).long(),
        torch.zeros(1).long(), 4,
    )  # fmt: skip
    assert one.held_out()["seq"].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_data_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="Expected split to be one of"):
        Fragments.load("dev")
    with pytest.raises(ValueError, match="Expected length to be at least 2; got 1"):
        Fragments.load("val", 1)


# --- Ramachandran -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phi", "psi", "residue", "verdict"),
    [
        (-63, -43, "A", "favoured"),  # α helix
        (-120, 130, "A", "favoured"),  # β strand
        (-65, 145, "A", "favoured"),  # polyproline II
        (57, 40, "N", "favoured"),  # left-handed helix
        (60, -130, "A", "allowed"),
        (0, 0, "A", "outlier"),
        (90, 180, "A", "outlier"),
        (90, 180, "G", "favoured"),  # the symmetric class
        (90, 0, "G", "favoured"),
        (57, 40, "V", "allowed"),  # β-branched
        (-65, 145, "P", "favoured"),
        (-120, 130, "P", "outlier"),  # the ring
    ],
)
def test_known_conformations(phi, psi, residue, verdict):
    angles = (degrees(a, a, a) for a in (phi, psi, 180))
    value, kind = ramachandran.score(*angles, tokens(f"A{residue}A"))
    good, bad = ramachandran.favoured(value)[1], ramachandran.outlier(value, kind)[1]
    assert (bool(good), bool(bad)) == (verdict == "favoured", verdict == "outlier")


def test_classes_in_their_order():
    omega = degrees(math.nan, 180, -175, 5, 180, 180, 100, 180, 80)
    kind = ramachandran.classify(omega, tokens("AGIPVPPGP"))
    names = [ramachandran.CLASSES[k] for k in kind]
    pro = ["trans_pro", "trans_pro", "gly", "cis_pro"]
    assert names == ["general", "gly", "pre_pro", "cis_pro", "pre_pro", *pro]


def test_score_reads_the_nearest_bin():
    generator = torch.Generator().manual_seed(0)
    phi, psi = (2 * torch.rand(2, 200, generator=generator) - 1) * math.pi
    phi[:2], psi[:2] = math.pi, -math.pi
    value, kind = ramachandran.score(
        phi, psi, torch.full((200,), math.pi), torch.zeros(200).long()
    )
    assert (kind == ramachandran.GENERAL).all()
    with np.load(DATA / "ramachandran.npz") as arrays:
        grid, centres = arrays["general"], np.radians(np.arange(-179, 180, 2))
    at = [np.cos(x.numpy()[:, None] - centres).argmax(1) for x in (phi[2:], psi[2:])]
    assert np.array_equal(value[2:].numpy(), grid[at[0], at[1]])
    assert value[0] == grid[0, 0]  # 180° lies in the bin of -179°


def test_undefined_torsions_have_no_verdict():
    nan = torch.tensor([math.nan, 0.0])
    value, kind = ramachandran.score(nan, nan.flip(0), nan, tokens("AA"))
    assert value.isnan().all()
    assert not ramachandran.favoured(value).any()
    assert not ramachandran.outlier(value, kind).any()


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

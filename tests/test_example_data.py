"""The data of the example that generates protein fragments, and how torsions are judged."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bridges.protein import RESIDUES, backbone_atoms, dihedral
from fragment_cases import LENGTH, degrees, tokens
from fragments import geometry, ramachandran
from fragments.data import DATA, SPLITS, Fragments

P_MIN = 1e-4


@pytest.fixture(scope="module")
def archive():
    with np.load(DATA / "backbones.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


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

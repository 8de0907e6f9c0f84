import gzip
import math
from pathlib import Path

import pytest
import torch

from bridges.protein import (
    Backbone,
    backbone_atoms,
    backbone_frames,
    backbone_torsions,
    dihedral,
    linked_residues,
    read_backbone,
)

DATA = Path(__file__).parent / "data"
FILES = ["1A8O.pdb.gz", "1YCR.pdb.gz", "1l2y.pdb.gz", "1igy.cif.gz"]


def read(name):
    pytest.importorskip("biotite")
    return read_backbone(DATA / name)


def random_rotations(generator, *shape):
    q, r = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return q * torch.linalg.det(q)[..., None, None]


def random_residues(seed=0, *shape):
    generator = torch.Generator().manual_seed(seed)
    pos = 10 * torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    psi = (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * math.pi
    return pos, random_rotations(generator, *shape), psi


def around(angle):
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def angle_at(a, b, c):
    u, v = a - b, c - b
    cosine = (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1))
    return torch.rad2deg(cosine.acos())


def biotite_atoms(name):
    """Amino acids of a file, read by biotite alone."""
    structure = pytest.importorskip("biotite.structure")
    from biotite.structure.io import pdb, pdbx

    with gzip.open(DATA / name, "rt") as stream:
        if ".pdb" in name:
            atoms = pdb.PDBFile.read(stream).get_structure(altloc="occupancy")
        else:
            atoms = pdbx.get_structure(pdbx.CIFFile.read(stream), altloc="occupancy")
    return atoms[..., structure.filter_amino_acids(atoms)]


@pytest.mark.parametrize("name", FILES)
def test_torsions_equal_biotite(name):
    structure = pytest.importorskip("biotite.structure")
    oracle = structure.dihedral_backbone(biotite_atoms(name))
    coords = read(name).coords
    phi, psi, omega = (
        torch.from_numpy(angle).reshape(coords.shape[:-2]).clone() for angle in oracle
    )
    omega = torch.cat((torch.full_like(omega[..., :1], torch.nan), omega[..., :-1]), -1)
    linked = linked_residues(coords)
    psi[..., :-1][~linked[..., 1:]] = torch.nan
    for angle in (phi, omega):
        angle[~linked] = torch.nan
    for ours, theirs in zip(backbone_torsions(coords), (phi, psi, omega), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert around(ours - theirs).nan_to_num().abs().max() < 1e-4
    assert (linked.sum(-1) > 0.9 * linked.shape[-1]).all()


def test_links_stop_at_chains_and_gaps():
    backbone = read("1YCR.pdb.gz")
    starts = [i for i in range(1, 98) if backbone.chain_id[i] != backbone.chain_id[i - 1]]
    linked = linked_residues(backbone.coords)
    assert (~linked).nonzero().flatten().tolist() == [0, *starts]
    kept = torch.tensor([i for i in range(98) if i not in {10, 11}])
    broken = linked_residues(backbone.coords[kept])
    assert (~broken).nonzero().flatten().tolist() == [0, 10, *(i - 2 for i in starts)]
    lost = backbone.coords.index_fill(0, torch.tensor([20]), torch.nan)
    lost[20, [0, 2]] = backbone.coords[20, [0, 2]]
    assert (linked != linked_residues(lost)).nonzero().flatten().tolist() == [20, 21]
    phi, psi, omega = backbone_torsions(backbone.coords[kept])
    assert phi[10].isnan()
    assert psi[9].isnan()
    assert omega[10].isnan()
    assert not torch.stack((phi, omega))[:, [9, 11]].isnan().any()


def test_given_links_overrule_distance():
    coords = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(1)) * 20
    assert backbone_torsions(coords)[0].isnan().all()
    linked = torch.tensor([True, True, False, True, True])
    phi, psi, omega = backbone_torsions(coords, linked=linked)
    assert phi.isnan().tolist() == [[True, False, True, False, False]] * 2
    assert omega.isnan().tolist() == phi.isnan().tolist()
    assert psi.isnan().tolist() == [[False, True, False, False, True]] * 2
    c, n, ca = coords[1, 2, 2], coords[1, 3, 0], coords[1, 3, 1]
    assert phi[1, 3] == dihedral(c, n, ca, coords[1, 3, 2])
    assert psi[1, 2] == dihedral(coords[1, 2, 0], coords[1, 2, 1], c, n)
    assert omega[1, 3] == dihedral(coords[1, 2, 1], c, n, ca)


def test_dihedral_turns_clockwise_and_recovers_every_angle():
    angle = torch.linspace(-3.1, 3.1, 21, dtype=torch.float64)
    a, b, c = torch.tensor([[1.0, 2, 3], [1, 0, 3], [2.5, 0, 3]], dtype=torch.float64)
    # Along +x from b to c, y turns clockwise into z.
    d = c + torch.stack((0.3 * torch.ones_like(angle), angle.cos(), angle.sin()), -1)
    assert torch.allclose(dihedral(a, b, c, d), angle, atol=1e-12)
    assert torch.allclose(dihedral(d, c, b, a), angle, atol=1e-12)


def test_frames_and_atoms_are_inverse():
    pos, rot, psi = (x.float() for x in random_residues(2, 4, 30))
    atoms = backbone_atoms(pos, rot, psi)
    pos_again, rot_again = backbone_frames(atoms)
    assert torch.equal(pos_again, pos)
    assert (rot_again - rot).abs().max() < 1e-5
    pos, rot, psi = random_residues(2, 4, 30)
    assert (backbone_frames(backbone_atoms(pos, rot, psi))[1] - rot).abs().max() < 1e-12


def test_atoms_have_ideal_geometry_and_psi():
    pos, rot, psi = random_residues(3, 50)
    n, ca, c, o = backbone_atoms(pos, rot, psi).unbind(-2)
    for ours, ideal in (
        ((n - ca).norm(dim=-1), 1.458),
        ((c - ca).norm(dim=-1), 1.525),
        ((o - c).norm(dim=-1), 1.231),
        (angle_at(n, ca, c), 111.2),
        (angle_at(ca, c, o), 120.8),
    ):
        assert torch.allclose(ours, torch.full_like(ours, ideal), atol=1e-9)
    assert around(dihedral(n, ca, c, o) - psi - math.pi).abs().max() < 1e-9


@pytest.mark.parametrize("name", FILES)
def test_oxygen_lies_where_crystals_have_it(name):
    coords = read(name).coords
    psi = backbone_torsions(coords)[1]
    made = backbone_atoms(*backbone_frames(coords), psi)
    off = (made[..., 3, :] - coords[..., 3, :]).norm(dim=-1)[~psi.isnan()]
    assert off.median() < 0.1
    wrong = backbone_atoms(*backbone_frames(coords), psi + math.pi)[..., 3, :]
    assert (wrong - coords[..., 3, :]).norm(dim=-1)[~psi.isnan()].median() > 1.5


def test_frames_are_right_handed_with_n_in_the_plane():
    coords = read("1YCR.pdb.gz").coords.double()
    pos, rot = backbone_frames(coords)
    local = (coords - pos.unsqueeze(-2)) @ rot
    assert torch.allclose(rot.mT @ rot, torch.eye(3).double().expand_as(rot), atol=1e-12)
    assert torch.allclose(torch.linalg.det(rot), torch.ones(98).double())
    assert local[:, 2, 1:].abs().max() < 1e-12
    assert local[:, 0, 2].abs().max() < 1e-12
    assert (local[:, 2, 0] > 1.4).all()
    assert (local[:, 0, 1] > 1.2).all()


def test_frames_move_with_the_molecule_and_torsions_do_not():
    coords = read("1YCR.pdb.gz").coords.double()
    turn, shift = random_rotations(torch.Generator().manual_seed(4)), torch.tensor([3.0, -7, 11])
    moved = coords @ turn.mT + shift
    (pos, rot), (pos_moved, rot_moved) = backbone_frames(coords), backbone_frames(moved)
    assert torch.allclose(pos_moved, pos @ turn.mT + shift, atol=1e-10)
    assert torch.allclose(rot_moved, turn @ rot, atol=1e-10)
    for before, after in zip(backbone_torsions(coords), backbone_torsions(moved), strict=True):
        assert around(before - after).nan_to_num().abs().max() < 1e-10


DEGENERATE = {
    "one point": torch.full((3, 3), 2.5),
    "N on CA": torch.tensor([[1.0, 1, 1], [1, 1, 1], [2, 1, 0]]),
    "C on CA": torch.tensor([[0.0, 3, 1], [1, 1, 1], [1, 1, 1]]),
    "a line along x": torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]]),
    "a slanted line": torch.tensor([[-1.1, -2.2, 3.3], [0, 0, 0], [1.1, 2.2, -3.3]]),
}


@pytest.mark.parametrize("points", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_atoms_still_give_a_rotation(points):
    points = points.clone().requires_grad_()
    pos, rot = backbone_frames(points)
    assert torch.allclose(rot.mT @ rot, torch.eye(3), atol=1e-4)
    assert torch.linalg.det(rot) > 0.999
    (rot.square() * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert points.grad.isfinite().all()


def test_gradients_equal_finite_differences():
    pos, rot, psi = (x.requires_grad_() for x in random_residues(5, 3))
    coords = backbone_atoms(pos, rot, psi).detach().requires_grad_()
    assert torch.autograd.gradcheck(backbone_frames, (coords,))
    assert torch.autograd.gradcheck(backbone_atoms, (pos, rot, psi))
    assert torch.autograd.gradcheck(dihedral, tuple(coords.unbind(-2)))


def test_gradients_are_finite_beside_missing_atoms():
    coords = read("1YCR.pdb.gz").coords.clone()
    coords[40, 1] = torch.nan
    coords.requires_grad_()
    torsions = torch.stack(backbone_torsions(coords))
    assert torsions[:, 40].isnan().all()
    assert not torsions[:, 38].isnan().any()
    torsions.nansum().backward()
    assert coords.grad.isfinite().all()
    assert (coords.grad[20, :3] != 0).all()


ZIGZAG = torch.tensor([[0.0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]])


@pytest.mark.parametrize("points", [torch.arange(12.0).reshape(4, 3), 1e-5 * ZIGZAG])
def test_torsion_of_a_line_or_a_point_is_zero_with_finite_gradient(points):
    points = points.clone().requires_grad_()
    angle = dihedral(*points)
    angle.backward()
    assert angle.abs() < 1e-6
    assert points.grad.isfinite().all()
    assert dihedral(*ZIGZAG) > 0.7


def test_dtypes_and_batch_shapes_pass_through():
    pos, rot, psi = random_residues(6, 2, 5)
    for dtype in (torch.float32, torch.float64):
        atoms = backbone_atoms(pos.to(dtype), rot.to(dtype), psi[0].to(dtype))
        assert (atoms.shape, atoms.dtype) == ((2, 5, 4, 3), dtype)
        assert [x.dtype for x in backbone_frames(atoms)] == [dtype] * 2
        assert backbone_torsions(atoms)[2].dtype == dtype
        assert backbone_torsions(atoms[..., :3, :])[0].shape == (2, 5)


ROW = torch.arange(2)
BAD = {
    "Expected coords to have shape (..., A, 3) with N, CA and C first; got (5, 2, 3).": (
        lambda: backbone_frames(torch.zeros(5, 2, 3))
    ),
    "Expected coords to be floating-point; got torch.int64.": (
        lambda: backbone_frames(torch.zeros(4, 3).long())
    ),
    "Expected pos and rot to have shapes (..., 3) and (..., 3, 3); got (5, 3) and (5, 3).": (
        lambda: backbone_atoms(torch.zeros(5, 3), torch.zeros(5, 3), torch.zeros(5))
    ),
    "Expected pos, rot and psi to have shapes that broadcast; got (5,), (), (4,).": (
        lambda: backbone_atoms(torch.zeros(5, 3), torch.eye(3), torch.zeros(4))
    ),
    "Expected a, b, c and d to have shape (..., 3); got (2,).": lambda: dihedral(
        *torch.ones(4, 2)
    ),
    "Expected coords to have shape (..., L, A, 3) with N, CA and C first; got (4, 3).": (
        lambda: linked_residues(torch.zeros(4, 3))
    ),
    "Expected linked to be bool; got torch.float32.": (
        lambda: backbone_torsions(torch.zeros(5, 4, 3), linked=torch.ones(5))
    ),
    "Expected linked to broadcast to (5,); got (2, 5).": (
        lambda: backbone_torsions(torch.zeros(5, 4, 3), linked=torch.ones(2, 5).bool())
    ),
    "Expected coords to have shape (*B, L, 4, 3); got (2, 3, 3).": (
        lambda: Backbone(torch.zeros(2, 3, 3), ROW, ROW > 0, ("A", "A"), ROW, ("", ""))
    ),
    "Expected sequence to have shape (2,) or (9, 2); got (9,).": (
        lambda: Backbone(torch.zeros(9, 2, 4, 3), ROW.new_zeros(9), ROW > 0, "AA", ROW, ("", ""))
    ),
    "Expected chain_id to have 2 rows like coords; got 1.": (
        lambda: Backbone(torch.zeros(2, 4, 3), ROW, ROW > 0, ("A",), ROW, ("", ""))
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_named(sentence):
    with pytest.raises((ValueError, TypeError)) as error:
        BAD[sentence]()
    assert str(error.value) == sentence

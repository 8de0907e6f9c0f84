import gzip
import os
import sys

import numpy as np
import pytest
import torch

from bridges.protein import (
    BACKBONE_ATOMS,
    RESIDUES,
    linked_residues,
    read_backbone,
    read_backbone_masked,
    write_backbone,
)
from structure_files import DATA, pdb_text, residue, same

structure = pytest.importorskip("biotite.structure")
from biotite.sequence import ProteinSequence  # noqa: E402
from biotite.structure.io import pdb, pdbx  # noqa: E402


def letters(backbone):
    return "".join(RESIDUES[token] for token in backbone.sequence)


def lines_of(name):
    with gzip.open(DATA / name, "rt") as stream:
        return stream.readlines()


def residue_lines(number, name, **labels):
    return pdb_text(residue(number, name, **labels))


def write_text(path, *parts):
    path.write_text("".join(parts))
    return path


def biotite_read(path):
    if path.suffix == ".pdb":
        return pdb.PDBFile.read(path).get_structure(extra_fields=["b_factor"])
    kind = pdbx.CIFFile if path.suffix == ".cif" else pdbx.BinaryCIFFile
    return pdbx.get_structure(kind.read(path), extra_fields=["b_factor"])


def test_antibody_equals_biotite_row_by_row():
    backbone = read_backbone(DATA / "1igy.cif.gz")
    with gzip.open(DATA / "1igy.cif.gz", "rt") as stream:
        atoms = pdbx.get_structure(pdbx.CIFFile.read(stream), model=1)
    atoms = atoms[structure.filter_canonical_amino_acids(atoms)]
    first = atoms[structure.get_residue_starts(atoms)]
    for k, name in enumerate(BACKBONE_ATOMS):
        rows = atoms.coord[atoms.atom_name == name]
        assert np.array_equal(backbone.coords[:, k].numpy(), rows)
    assert letters(backbone) == "".join(map(ProteinSequence.convert_letter_3to1, first.res_name))
    assert backbone.chain_id == tuple(first.chain_id)
    assert backbone.res_id.tolist() == first.res_id.tolist()
    assert backbone.ins_code == tuple(first.ins_code)
    assert backbone.coords.dtype == torch.float32
    assert (backbone.sequence.dtype, backbone.res_id.dtype) == (torch.int64, torch.int64)
    in_b = [i for i in range(1294) if backbone.chain_id[i] == "B" and backbone.res_id[i] == 82]
    assert [backbone.ins_code[i] for i in in_b] == ["", "A", "B", "C"]


def test_pdb_and_mmcif_give_the_same_rows_with_selenomethionine():
    as_pdb, as_cif = read_backbone(DATA / "1A8O.pdb.gz"), read_backbone(DATA / "1A8O.cif.gz")
    assert same(as_pdb, as_cif)
    with gzip.open(DATA / "1A8O.cif.gz", "rt") as stream:
        block = pdbx.CIFFile.read(stream).block
    entry = block["entity_poly"]["pdbx_seq_one_letter_code_can"].as_item()
    assert letters(as_pdb) == entry.replace("\n", "")
    mse = [line for line in lines_of("1A8O.pdb.gz") if line[12:20] == " CA  MSE"]
    assert {int(line[22:26]) for line in mse} == {151, 185, 214, 215}
    assert letters(as_pdb).count("M") == 4


def test_models_are_read_together_or_alone():
    backbone = read_backbone(DATA / "1l2y.pdb.gz")
    assert backbone.coords.shape == (38, 20, 4, 3)
    assert letters(backbone) == "NLYIQWLKDGGPSSGRPPPS"
    last = read_backbone(DATA / "1l2y.pdb.gz", model=38)
    assert torch.equal(last.coords, backbone.coords[37])
    assert not torch.equal(last.coords, backbone.coords[36])


def test_chains_are_kept_in_the_order_of_the_file():
    both = read_backbone(DATA / "1YCR.pdb.gz")
    only = read_backbone(DATA / "1YCR.pdb.gz", chains="B")
    assert same(both, read_backbone(DATA / "1YCR.pdb.gz", chains=["B", "A"]))
    assert letters(only) == "ETFSDLWKLLPEN"
    assert torch.equal(only.coords, both.coords[85:])


def test_highest_occupancy_wins_as_one_residue(tmp_path):
    backbone = read_backbone(DATA / "altloc.cif")
    assert letters(backbone) == "P"
    assert backbone.coords[0, 1].tolist() == pytest.approx([6.035, 13.459, -2.622])
    part_a = residue_lines(1, "SER", x=0.0, label="A", share=0.4)
    part_b = residue_lines(1, "SER", x=50.0, label="B", share=0.6, atoms="N CA C")
    path = write_text(tmp_path / "a.pdb", part_a, part_b, residue_lines(2, "GLY", x=53.5))
    coords = read_backbone(path).coords
    assert coords[:, 0, 0].tolist() == [50.0, 53.5]
    assert coords[0, 3, 0] == pytest.approx(2.2)  # B has no O; the one of A is better than none
    other = part_b.replace("SER", "THR")
    backbone = read_backbone(write_text(tmp_path / "c.pdb", part_a, other))
    assert letters(backbone) == "T"
    assert backbone.coords[0, 3].isnan().all()  # the O of a serine is none of a threonine's
    even = part_a.replace("0.40", "0.50") + part_b.replace("0.60", "0.50")
    assert read_backbone(write_text(tmp_path / "b.pdb", even)).coords[0, 0, 0] == 0.0


def test_ligands_go_and_bonded_hetatm_stays(tmp_path):
    path = write_text(
        tmp_path / "a.pdb",
        residue_lines(1, "MSE", record="HETATM"),
        residue_lines(2, "ALA", x=3.5, record="HETATM"),
        residue_lines(3, "GLY", x=7.0),
        residue_lines(3, "GLY", x=10.5, code="A"),
        residue_lines(90, "GLU", x=60.0, record="HETATM"),
        residue_lines(91, "HOH", x=70.0, record="HETATM", atoms="O"),
        residue_lines(92, "CA", x=80.0, record="HETATM", atoms="CA"),
        residue_lines(93, "CA", x=90.0, atoms="CA"),
        residue_lines(94, "XYZ", x=100.0, record="HETATM"),
        residue_lines(95, "CSO", x=110.0, record="HETATM"),
    )
    backbone = read_backbone(path)
    assert letters(backbone) == "MAGGC"
    assert backbone.ins_code == ("", "", "", "A", "")
    assert linked_residues(backbone.coords).tolist() == [False, True, True, True, False]


def test_unknown_residue_in_the_chain_is_named_or_masked(tmp_path):
    path = write_text(
        tmp_path / "a.pdb",
        residue_lines(1, "SER"),
        residue_lines(2, "XYZ", x=3.5, record="HETATM"),
        residue_lines(3, "VAL", x=7.0),
    )
    with pytest.raises(ValueError, match="known variants; got XYZ in residue A 2.$"):
        read_backbone(path)
    backbone = read_backbone_masked(path)
    assert backbone.mask.tolist() == [True, False, True]
    assert letters(backbone) == "SAV"
    assert backbone.coords.isfinite().all()


def test_missing_atoms_are_named_or_masked(tmp_path):
    lines = [line for line in lines_of("1YCR.pdb.gz") if line.startswith("ATOM")]

    def without(number, *atoms):
        gone = [(f" {atom:<3}", "A", f"{number:4}") for atom in atoms]
        kept = [x for x in lines if (x[12:16], x[21], x[22:26]) not in gone]
        assert len(kept) == len(lines) - len(atoms)
        return write_text(tmp_path / "broken.pdb", *kept)

    whole = read_backbone(DATA / "1YCR.pdb.gz")
    row = whole.res_id.tolist().index(40)
    path = without(40, "N", "C")
    with pytest.raises(ValueError, match="Expected") as error:
        read_backbone(path)
    assert str(error.value) == (
        f"Expected {path} to give N, CA and C of every residue; "
        "got no N and no C in residue A 40 (SER)."
    )
    masked = read_backbone_masked(path)
    assert (~masked.mask).nonzero().flatten().tolist() == [row]
    assert masked.coords[row].isnan().all(-1).tolist() == [True, False, True, False]
    kept = torch.arange(98) != row
    assert torch.equal(masked.coords[kept], whole.coords[kept])
    assert torch.equal(masked.sequence, whole.sequence)
    backbone = read_backbone(without(40, "O"))
    assert backbone.mask.all()
    assert backbone.coords[row].isnan().all(-1).tolist() == [False, False, False, True]


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".bcif"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    whole = read_backbone(DATA / "1YCR.pdb.gz")
    path = tmp_path / f"a{suffix}"
    b_factor = torch.linspace(0, 99, 98)
    codes = ["", *"ABC", *[""] * 94]
    numbers = torch.cat((torch.tensor([-3] * 4), whole.res_id[4:]))
    columns = {"chain_id": whole.chain_id, "res_id": numbers, "ins_code": codes}
    coords = whole.coords.double().requires_grad_()
    write_backbone(path, coords, whole.sequence, b_factor=b_factor, **columns)
    again = read_backbone(path)
    assert torch.allclose(again.coords, whole.coords, atol=6e-4)
    assert torch.equal(again.sequence, whole.sequence)
    assert (again.chain_id, again.ins_code) == (whole.chain_id, tuple(codes))
    assert torch.equal(again.res_id, numbers)
    atoms = biotite_read(path)
    assert atoms.shape == (1, 98 * 4)
    assert atoms.atom_name[:8].tolist() == ["N", "CA", "C", "O"] * 2
    assert atoms.element[:4].tolist() == ["N", "C", "C", "O"]
    assert np.allclose(atoms.coord[0].reshape(98, 4, 3), whole.coords, atol=6e-4)
    assert np.allclose(atoms.b_factor[::4], b_factor, atol=6e-3)


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".bcif"])
def test_a_trajectory_is_models_and_chains_count_from_one(tmp_path, suffix):
    coords = torch.randn(3, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    sequence = torch.tensor([0, 19, 7, 7, 2])
    path = tmp_path / f"a{suffix}"
    write_backbone(path, coords, sequence, chain_id=["X", "X", "Y", "X", "Y"])
    again = read_backbone(path)
    assert torch.allclose(again.coords, coords, atol=6e-4)
    assert torch.equal(again.sequence, sequence)
    assert again.res_id.tolist() == [1, 2, 1, 3, 2]
    assert biotite_read(path).shape == (3, 20)
    write_backbone(path, coords[0], sequence)
    assert read_backbone(path).coords.shape == (5, 4, 3)
    assert os.listdir(tmp_path) == [path.name]


def test_all_twenty_residues_have_the_right_names(tmp_path):
    write_backbone(tmp_path / "a.pdb", torch.zeros(20, 4, 3), torch.arange(20))
    names = biotite_read(tmp_path / "a.pdb").res_name[::4]
    assert "".join(map(ProteinSequence.convert_letter_3to1, names)) == RESIDUES


@pytest.mark.parametrize("broken", ["os.replace", "pathlib.Path.write_bytes"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.pdb"
    write_backbone(path, torch.ones(1, 4, 3), torch.tensor([3]))
    old = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(OSError, match="disk full"):
            write_backbone(path, torch.zeros(2, 4, 3), torch.tensor([0, 0]))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.pdb"]
    write_backbone(path, torch.zeros(2, 4, 3), torch.tensor([0, 0]))
    assert path.read_bytes() != old


def test_without_biotite_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "biotite.structure.io", None)
    with pytest.raises(ImportError) as error:
        read_backbone(DATA / "altloc.cif")
    assert str(error.value) == (
        "Reading and writing structure files needs the extra `protein`: "
        "pip install 'bridges[protein]'."
    )
    with pytest.raises(ImportError, match="needs the extra `protein`"):
        write_backbone(tmp_path / "a.pdb", torch.zeros(1, 4, 3), torch.tensor([0]))

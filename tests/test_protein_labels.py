"""Residues and atoms are what their labels say, wherever they stand in the file."""

import pytest
import torch

from bridges.protein import RESIDUES, read_backbone, read_backbone_masked
from structure_files import SUFFIXES, columns_of, pdb_text, residue, write_atoms, write_cif

pytest.importorskip("biotite")
in_every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def letters(backbone):
    return "".join(RESIDUES[token] for token in backbone.sequence)


def starts(backbone):
    """Where N of each residue stands on the x-axis."""
    return backbone.coords[..., 0, 0].tolist()


def refusal(path, read=read_backbone, **arguments):
    with pytest.raises(ValueError, match="Expected") as error:
        read(path, **arguments)
    sentence = f"Expected {path} to tell residues and atoms apart by their labels; got "
    assert str(error.value).startswith(sentence)
    return str(error.value).removeprefix(sentence)


A1, A2 = (residue(k, "SER", x=3.5 * k, label="A", share=0.4) for k in (1, 2))
B1, B2 = (residue(k, "SER", x=3.5 * k + 50.0, label="B", share=0.6) for k in (1, 2))
G3 = residue(3, "GLY", x=10.5)
ORDERS = {
    "residue by residue": (A1, B1, A2, B2, G3),
    "chain by chain": (A1, A2, G3, B1, B2),
    "with the others at the end": (A1, A2, G3, B2, B1),
    "atom by atom": ([a for pair in zip(A1, B1, strict=True) for a in pair], A2, B2, G3),
    "the better ones first": (B1, B2, G3, A2, A1),
    "halves apart": (A1[:2], A2, G3, B1[2:], A1[2:], B2, B1[:2]),
}


@in_every_format
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_conformers_are_one_residue_in_every_order(tmp_path, suffix, order):
    backbone = read_backbone(write_atoms(tmp_path / f"a{suffix}", *order))
    assert letters(backbone) == "SSG"
    assert backbone.res_id.tolist() == [1, 2, 3]
    assert starts(backbone) == [53.5, 57.0, 10.5]


@in_every_format
@pytest.mark.parametrize("share", [0.4, 0.6])
@pytest.mark.parametrize("apart", [True, False])
def test_two_residue_types_at_one_place_are_one_residue(tmp_path, suffix, share, apart):
    one = residue(1, "SER", label="A", share=1 - share)
    other = residue(1, "THR", x=50.0, label="B", share=share, record="HETATM")
    rest = residue(2, "GLY", x=3.5)
    rows = (one, rest, other) if apart else (one, other, rest)
    backbone = read_backbone(write_atoms(tmp_path / f"a{suffix}", *rows))
    assert letters(backbone) == ("TG" if share > 0.5 else "SG")


@in_every_format
def test_equal_means_are_equal_for_any_number_of_atoms(tmp_path, suffix):
    first = residue(1, "SER", label="A", share=0.1)
    second = residue(1, "SER", label="B", share=0.1, x=50.0, atoms="N CA C")
    assert starts(read_backbone(write_atoms(tmp_path / f"a{suffix}", first, second))) == [0.0]


@in_every_format
@pytest.mark.parametrize(("share", "start"), [(0.3, 0.0), (0.7, 50.0)])
def test_a_conformer_may_have_no_label(tmp_path, suffix, share, start):
    one = residue(1, "SER", share=1 - share, atoms="N CA C O CB")
    other = residue(1, "SER", label="A", share=share, x=50.0)
    assert starts(read_backbone(write_atoms(tmp_path / f"a{suffix}", one, other))) == [start]


@in_every_format
def test_atoms_of_conformers_do_not_mix(tmp_path, suffix):
    one = residue(1, "SER", share=0.9, atoms="N") + residue(1, "SER", share=0.3, atoms="CA C O")
    other = residue(1, "SER", label="A", share=0.5, x=50.0)
    backbone = read_backbone(write_atoms(tmp_path / f"a{suffix}", one, other))
    assert (backbone.coords[..., 0] >= 50.0).all()


@in_every_format
def test_what_conformers_share_has_no_label(tmp_path, suffix):
    common = residue(1, "SER", atoms="N C O")
    a = residue(1, "SER", label="A", share=0.4, atoms="CA CB")
    b = residue(1, "SER", label="B", share=0.6, x=0.25, atoms="CB CA")
    backbone = read_backbone(write_atoms(tmp_path / f"a{suffix}", common, a, b))
    assert backbone.coords[0, :, 0].tolist() == pytest.approx([0.0, 1.25, 2.1, 2.2])


@in_every_format
def test_a_residue_may_lie_in_pieces(tmp_path, suffix):
    head, tail = residue(1, "SER", atoms="CA N"), residue(1, "SER", atoms="O CB C")
    path = write_atoms(tmp_path / f"a{suffix}", head, residue(2, "GLY", x=3.5), tail)
    backbone = read_backbone(path)
    assert backbone.res_id.tolist() == [1, 2]
    assert backbone.coords[0, :, 0].tolist() == pytest.approx([0.0, 1.0, 2.1, 2.2])


@in_every_format
def test_a_chain_may_come_back(tmp_path, suffix):
    path = write_atoms(
        tmp_path / f"a{suffix}",
        residue(1, "SER", chain="A"),
        residue(1, "SER", chain="B", x=50.0),
        residue(9, "HOH", chain="A", record="HETATM", atoms="O"),
        residue(2, "GLY", chain="A", x=3.5),
        residue(2, "GLY", chain="B", x=53.5),
    )
    backbone = read_backbone(path)
    assert backbone.chain_id == ("A", "B", "A", "B")
    assert backbone.res_id.tolist() == [1, 1, 2, 2]
    assert read_backbone(path, chains="B").res_id.tolist() == [1, 2]


@in_every_format
def test_a_bonded_residue_is_kept_wherever_it_stands(tmp_path, suffix):
    path = write_atoms(
        tmp_path / f"a{suffix}",
        residue(1, "SER"),
        residue(3, "VAL", x=7.0),
        residue(8, "GLU", x=90.0, record="HETATM"),
        residue(9, "HOH", record="HETATM", atoms="O"),
        residue(2, "ALA", x=3.5, record="HETATM"),
    )
    assert read_backbone(path).res_id.tolist() == [1, 3, 2]


@in_every_format
@pytest.mark.parametrize("between", [0, 1])
def test_a_residue_that_comes_twice_is_named(tmp_path, suffix, between):
    middle = residue(8, "GLY", x=3.5)[: 4 * between]
    again = residue(7, "SER", code="B", x=20.0)
    path = write_atoms(tmp_path / f"a{suffix}", residue(7, "SER", code="B"), middle, again)
    for read in (read_backbone, read_backbone_masked):
        assert refusal(path, read) == "N twice in residue A 7B (SER)."


@in_every_format
def test_two_residues_at_one_place_are_named(tmp_path, suffix):
    path = write_atoms(tmp_path / f"a{suffix}", residue(-7, "SER"), residue(-7, "GLY", x=3.5))
    assert refusal(path) == "SER and GLY in residue A -7."
    assert refusal(path, read_backbone_masked) == "SER and GLY in residue A -7."


@in_every_format
def test_one_label_for_two_residue_types_is_named(tmp_path, suffix):
    path = write_atoms(
        tmp_path / f"a{suffix}",
        residue(7, "SER", label="A", share=0.5),
        residue(7, "THR", label="A", share=0.5),
    )
    assert refusal(path) == "SER and THR as alternative A of residue A 7."


@in_every_format
def test_a_conformer_that_comes_twice_is_named(tmp_path, suffix):
    path = write_atoms(tmp_path / f"a{suffix}", A1, B1, A2, residue(1, "SER", label="B"))
    assert refusal(path) == "N twice in residue A 1 (SER)."


@in_every_format
def test_chains_without_names_that_count_alike_are_refused(tmp_path, suffix):
    rows = [residue(1, "SER", chain="", x=x) for x in (0.0, 50.0)]
    assert refusal(write_atoms(tmp_path / f"a{suffix}", *rows)) == "N twice in residue 1 (SER)."


@in_every_format
def test_doubts_about_what_is_not_asked_for_do_no_harm(tmp_path, suffix):
    path = write_atoms(
        tmp_path / f"a{suffix}",
        residue(1, "SER", atoms="N CA C O CB CB"),
        *[residue(2, "SER", chain="B")] * 2,
        *[residue(9, "HOH", record="HETATM", atoms="O")] * 2,
        *[residue(8, "GLU", record="HETATM", x=90.0)] * 2,
        residue(1, "HOH", record="HETATM", atoms="O"),
    )
    assert read_backbone(path, chains="A").res_id.tolist() == [1]
    assert refusal(path) == "N twice in residue B 2 (SER)."


def in_model(model, *residues):
    return [row | {"pdbx_PDB_model_num": model} for rows in residues for row in rows]


@in_every_format
@pytest.mark.parametrize("case", ["order", "waters", "labels"])
def test_models_agree_by_their_labels(tmp_path, suffix, case):
    s, g = residue(1, "SER"), residue(2, "GLY", x=3.5)
    moved = residue(1, "SER", x=20.0), residue(2, "GLY", x=23.5)
    other = {
        "order": (moved[1][::-1], moved[0]),
        "waters": (*moved, residue(9, "HOH", record="HETATM", atoms="O")),
        "labels": (moved[1], residue(1, "SER", label="A", share=0.3), residue(1, "SER", x=20.0)),
    }[case]
    path = write_atoms(tmp_path / f"a{suffix}", in_model(2, s, g), in_model(5, *other))
    backbone = read_backbone(path)
    assert backbone.coords.shape == (2, 2, 4, 3)
    assert starts(backbone) == [[0.0, 3.5], [20.0, 23.5]]
    assert letters(backbone) == "SG"
    alone = read_backbone(path, model=2)
    assert sorted(starts(alone)) == [20.0, 23.5]


@in_every_format
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ((residue(1, "SER"), residue(2, "ALA")), "A 2 (GLY)"),
        ((residue(1, "SER"), residue(2, "GLY", code="A")), "A 2A (GLY)"),
        ((residue(1, "SER"), residue(2, "GLY", atoms="N CA C")), "A 2 (GLY)"),
        ((residue(1, "SER", chain="B"), residue(2, "GLY")), "B 1 (SER)"),
        ((residue(1, "SER"), residue(2, "GLY"), residue(3, "GLY", x=50.0)), "A 3 (GLY)"),
        ((residue(1, "SER"),), "A 2 (GLY)"),
    ],
)
def test_models_that_disagree_are_named(tmp_path, suffix, other, named):
    first = in_model(1, residue(1, "SER"), residue(2, "GLY"))
    path = write_atoms(tmp_path / f"a{suffix}", first, in_model(2, *other))
    for read in (read_backbone, read_backbone_masked):
        with pytest.raises(ValueError, match="Expected") as error:
            read(path)
        assert str(error.value) == (
            f"Expected {path} to hold the same residues and backbone atoms in every model, or "
            f"model to name one; got another residue {named} in model 2."
        )


@pytest.mark.parametrize("suffix", [".cif", ".bcif"])
def test_models_may_be_listed_atom_by_atom(tmp_path, suffix):
    first, second = in_model(2, residue(1, "SER")), in_model(1, residue(1, "SER", x=9.0))
    rows = [row for pair in zip(first, second, strict=True) for row in pair]
    path = write_cif(tmp_path / f"a{suffix}", columns_of(rows))
    assert starts(read_backbone(path)) == [[0.0], [9.0]]
    assert starts(read_backbone(path, model=2)) == [9.0]


@in_every_format
def test_all_labels_of_a_row_are_as_written(tmp_path, suffix):
    path = write_atoms(
        tmp_path / f"a{suffix}",
        residue(-3, "SER", chain="b", code="Z"),
        residue(-3, "SER", chain="B", code="Z", x=3.5),
        residue(-3, "SER", chain="", code="Z", x=7.0),
        residue(-3, "SER", chain="b", x=10.5),
    )
    backbone = read_backbone(path)
    assert backbone.chain_id == ("b", "B", "", "b")
    assert backbone.ins_code == ("Z", "Z", "Z", "")
    assert torch.equal(backbone.res_id, torch.tensor([-3] * 4))
    assert read_backbone(path, chains="").ins_code == ("Z",)
    with pytest.raises(ValueError, match=r"\(b, B, ''\); got A.$"):
        read_backbone(path, chains="A")


def test_the_first_model_may_come_before_its_record(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(pdb_text(residue(1, "SER")) + pdb_text(in_model(2, residue(1, "SER", x=9.0))))
    assert starts(read_backbone(path)) == [[0.0], [9.0]]

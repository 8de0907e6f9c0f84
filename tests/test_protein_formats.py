"""What the formats leave optional: a file without it is read, with the value it stands for."""

import warnings

import pytest
import torch

from bridges.protein import read_backbone, read_backbone_masked
from structure_files import (
    DATA,
    atom_site,
    columns_of,
    pdb_text,
    residue,
    same,
    write_cif,
)

pytest.importorskip("biotite")

TWO = (residue(1, "SER"), residue(2, "GLY", x=3.5))
CIF = (".cif", ".bcif")
# What a file may lack while one name of each atom, residue and chain is left.
OPTIONAL = [
    "group_PDB",
    "id",
    "type_symbol",
    "label_alt_id",
    "label_entity_id",
    "pdbx_PDB_ins_code",
    "occupancy",
    "B_iso_or_equiv",
    "pdbx_formal_charge",
    "pdbx_PDB_model_num",
    "auth_comp_id",
    "auth_atom_id",
    "label_asym_id label_comp_id label_atom_id label_seq_id",
    "group_PDB label_asym_id label_comp_id label_atom_id label_seq_id",
    "group_PDB id type_symbol label_alt_id pdbx_PDB_ins_code occupancy pdbx_PDB_model_num "
    "auth_comp_id auth_atom_id B_iso_or_equiv label_entity_id",
]


@pytest.fixture(scope="module")
def entry():
    columns = atom_site("1A8O.cif.gz")
    return columns, read_backbone(DATA / "1A8O.cif.gz")


@pytest.mark.parametrize("suffix", CIF)
@pytest.mark.parametrize("lacking", OPTIONAL)
def test_an_entry_without_an_optional_item_has_the_same_rows(tmp_path, entry, lacking, suffix):
    columns, whole = entry
    kept = {item: values for item, values in columns.items() if item not in lacking.split()}
    assert len(kept) == len(columns) - len(lacking.split())
    path = write_cif(tmp_path / f"a{suffix}", kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_backbone(path), whole)


@pytest.mark.parametrize("suffix", CIF)
@pytest.mark.parametrize("null", [".", "?"])
@pytest.mark.parametrize(
    "item",
    "group_PDB type_symbol label_alt_id pdbx_PDB_ins_code occupancy pdbx_PDB_model_num "
    "auth_comp_id auth_atom_id".split(),
)
def test_an_item_that_is_null_is_as_if_it_were_not_there(tmp_path, entry, item, null, suffix):
    columns, whole = entry
    path = write_cif(tmp_path / f"a{suffix}", columns | {item: [null] * len(columns["id"])})
    assert same(read_backbone(path), whole)


@pytest.mark.parametrize("suffix", CIF)
def test_without_the_author_the_names_of_the_dictionary_stand(tmp_path, entry, suffix):
    columns, whole = entry
    theirs = {item: values for item, values in columns.items() if not item.startswith("auth_")}
    backbone = read_backbone(write_cif(tmp_path / f"a{suffix}", theirs))
    assert torch.equal(backbone.coords, whole.coords)
    assert set(backbone.chain_id) == {"A"}
    assert backbone.res_id.tolist() == list(range(1, 71))  # 151 to 220 in the author's count
    assert whole.res_id.tolist() == list(range(151, 221))


@pytest.mark.parametrize("suffix", CIF)
def test_a_row_without_the_author_s_name_has_the_other(tmp_path, suffix):
    columns = columns_of(*TWO)
    columns["label_seq_id"] = ["7"] * 4 + ["8"] * 4
    columns["label_asym_id"] = ["X"] * 8
    columns["auth_seq_id"][4:] = ["?"] * 4
    columns["auth_asym_id"][4:] = ["."] * 4
    backbone = read_backbone(write_cif(tmp_path / f"a{suffix}", columns))
    assert backbone.res_id.tolist() == [1, 8]
    assert backbone.chain_id == ("A", "X")


@pytest.mark.parametrize("suffix", CIF)
def test_without_records_a_free_residue_is_still_a_ligand(tmp_path, suffix):
    free = residue(9, "XYZ", x=50.0), residue(3, "GLU", x=70.0), residue(4, "MSE", x=7.0)
    columns = columns_of(*TWO, *free)
    columns["label_seq_id"] = ["1"] * 4 + ["2"] * 4 + ["."] * 8 + ["3"] * 4
    del columns["group_PDB"]
    assert read_backbone(write_cif(tmp_path / f"a{suffix}", columns)).res_id.tolist() == [1, 2, 4]


@pytest.mark.parametrize("suffix", CIF)
@pytest.mark.parametrize(
    ("items", "missing"),
    [
        ("auth_asym_id label_asym_id", "label_asym_id"),
        ("auth_comp_id label_comp_id", "label_comp_id"),
        ("auth_atom_id label_atom_id", "label_atom_id"),
        ("Cartn_y", "cartn_y"),
    ],
)
def test_what_cannot_be_filled_in_is_named(tmp_path, entry, items, missing, suffix):
    kept = {item: values for item, values in entry[0].items() if item not in items.split()}
    path = write_cif(tmp_path / f"a{suffix}", kept)
    with pytest.raises(ValueError, match=f"got KeyError: '{missing}'.$"):
        read_backbone(path)


@pytest.mark.parametrize("suffix", CIF)
def test_an_amino_acid_without_a_number_is_named(tmp_path, suffix):
    columns = columns_of(*TWO)
    columns["auth_seq_id"][:4] = ["?"] * 4
    path = write_cif(tmp_path / f"a{suffix}", columns)
    with pytest.raises(ValueError, match="Expected") as error:
        read_backbone(path)
    assert str(error.value) == (
        f"Expected {path} to tell residues and atoms apart by their labels; "
        "got SER without a number in chain A."
    )


@pytest.mark.parametrize("suffix", CIF)
def test_waters_without_numbers_do_no_harm(tmp_path, suffix):
    columns = columns_of(*TWO, *[residue(5, "HOH", record="HETATM", atoms="O")] * 3)
    columns["auth_seq_id"][8:] = ["."] * 3
    assert len(read_backbone(write_cif(tmp_path / f"a{suffix}", columns)).sequence) == 2


@pytest.mark.parametrize("suffix", CIF)
def test_an_atom_without_coordinates_is_not_there(tmp_path, suffix):
    columns = columns_of(*TWO)
    columns["Cartn_x"][3] = "?"
    backbone = read_backbone(write_cif(tmp_path / f"a{suffix}", columns))
    assert backbone.coords[:, 3].isnan().all(-1).tolist() == [True, False]
    columns["Cartn_z"][5] = "."
    path = write_cif(tmp_path / f"a{suffix}", columns)
    with pytest.raises(ValueError, match="got no CA in residue A 2 .GLY."):
        read_backbone(path)
    assert read_backbone_masked(path).mask.tolist() == [True, False]


@pytest.mark.parametrize("suffix", CIF)
def test_an_occupancy_that_is_not_given_is_one(tmp_path, suffix):
    either = residue(1, "SER", label="A", share=0.6), residue(1, "SER", label="B", x=50.0)
    columns = columns_of(*either)
    columns["occupancy"][4:] = ["?"] * 4
    assert read_backbone(write_cif(tmp_path / f"a{suffix}", columns)).coords[0, 0, 0] == 50.0


@pytest.mark.parametrize("suffix", CIF)
def test_items_stand_in_any_order_and_in_any_case(tmp_path, entry, suffix):
    columns, whole = entry
    turned = dict(reversed([(item.upper(), values) for item, values in columns.items()]))
    assert same(read_backbone(write_cif(tmp_path / f"a{suffix}", turned)), whole)


@pytest.mark.parametrize("suffix", CIF)
def test_names_are_read_in_any_case_and_padding(tmp_path, suffix):
    columns = columns_of(*TWO)
    for item in ("auth_comp_id", "auth_atom_id"):
        columns[item] = [f" {value.lower()} " for value in columns[item]]
    path = write_cif(tmp_path / f"a{suffix}", columns)
    assert read_backbone(path).sequence.tolist() == [15, 5]


@pytest.mark.parametrize("suffix", CIF)
def test_uncertainties_are_no_part_of_a_number(tmp_path, suffix):
    columns = columns_of(*TWO)
    columns["Cartn_y"] = [f"{i}.25(3)" for i in range(8)]
    columns["occupancy"] = ["1.00(1)"] * 8
    backbone = read_backbone(write_cif(tmp_path / f"a{suffix}", columns))
    assert backbone.coords[..., 1].flatten().tolist() == [i + 0.25 for i in range(8)]


@pytest.mark.parametrize("suffix", CIF)
def test_a_cell_without_its_angles_does_not_matter(tmp_path, suffix):
    path = write_cif(tmp_path / f"a{suffix}", columns_of(*TWO), cell={"length_a": ["10.0"]})
    assert len(read_backbone(path).sequence) == 2


def test_the_atoms_may_stand_in_the_second_block_alone(tmp_path):
    path = write_cif(tmp_path / "a.cif", columns_of(*TWO))
    block = path.read_text()
    path.write_text("data_dictionary\n#\n_chem_comp.id SER\n#\n" + block)
    assert len(read_backbone(path).sequence) == 2
    path.write_text(block.replace("data_test", "data_other") + block)
    with pytest.raises(ValueError, match="readable as mmCIF; got ValueError: atoms in 2 data"):
        read_backbone(path)


def test_text_that_is_not_utf8_does_not_matter(tmp_path):
    path = write_cif(tmp_path / "a.cif", columns_of(*TWO), citation={"title": ["TITLE"]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"TITLE", b"caf\xe9"))
    assert len(read_backbone(path).sequence) == 2


def blank(first, last):
    """A change of each line: columns first to last, counted from 1, become blank."""
    return lambda line: line[: first - 1] + " " * (last - first + 1) + line[last:]


# changes of a PDB line that leave what a backbone needs
LINES = {
    "blank occupancy": blank(55, 60),
    "blank B-factor": blank(61, 66),
    "blank occupancy and B-factor": blank(55, 66),
    "a B-factor that overflowed": lambda line: line[:60] + "******" + line[66:],
    "a charge that is none": lambda line: line.rstrip("\n").ljust(78) + "xx\n",
    "blank element": blank(77, 78),
    "blank serial number": blank(7, 11),
    "serial numbers that overflowed": lambda line: line[:6] + "*****" + line[11:],
    "an end behind z": lambda line: line[:54] + "\n",
    "an end behind the occupancy": lambda line: line[:60] + "\n",
    "an end behind the B-factor": lambda line: line[:66] + "\n",
    "CRLF": lambda line: line.rstrip("\n") + "\r\n",
    "small letters": lambda line: line[:12] + line[12:20].lower() + line[20:],
    "a segment": lambda line: line[:72] + "SEGA" + line[76:],
}


@pytest.mark.parametrize("change", LINES.values(), ids=LINES)
def test_a_pdb_line_needs_no_more_than_names_and_coordinates(tmp_path, change):
    path = tmp_path / "a.pdb"
    path.write_text(pdb_text(*TWO))
    whole = read_backbone(path)
    lines = pdb_text(*TWO).splitlines(keepends=True)
    path.write_bytes("".join(map(change, lines)).encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_backbone(path), whole)


# what may stand around the atoms
RECORDS = {
    "no END": ("", ""),
    "TER and END": ("", "TER\nEND\n"),
    "an empty cell": ("CRYST1\n", ""),
    "a byte order mark": ("\ufeff", ""),
    "one model": ("MODEL        1\n", "TER\nENDMDL\nEND\n"),
    "remarks": ("REMARK 470 ATOM\n\n", "MASTER\n"),
}


@pytest.mark.parametrize(("before", "behind"), RECORDS.values(), ids=RECORDS)
def test_records_around_the_atoms_do_not_matter(tmp_path, before, behind):
    path = tmp_path / "a.pdb"
    path.write_text(pdb_text(*TWO))
    whole = read_backbone(path)
    path.write_text(before + pdb_text(*TWO) + behind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_backbone(path), whole)


def test_blank_occupancies_count_as_one(tmp_path):
    path = tmp_path / "a.pdb"
    given = pdb_text(residue(1, "SER", label="A", share=0.6))
    other = pdb_text(residue(1, "SER", label="B", x=50.0))
    path.write_text(given + other.replace("1.00  0.00", "          "))
    assert read_backbone(path).coords[0, 0, 0] == 50.0


def test_numbers_beyond_four_digits_are_hybrid_36(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(pdb_text(residue(1, "SER")).replace("A   1 ", "AA000 "))
    assert read_backbone(path).res_id.tolist() == [10000]


def test_a_blank_number_is_named_unless_it_is_no_amino_acid_s(tmp_path):
    path = tmp_path / "a.pdb"
    water = pdb_text(residue(7, "HOH", record="HETATM", atoms="O")).replace("A   7", "A    ")
    path.write_text(pdb_text(*TWO, residue(0, "ALA", x=-3.5)) + water)
    assert read_backbone(path).res_id.tolist() == [1, 2, 0]
    path.write_text(pdb_text(*TWO).replace("A   2", "A    "))
    with pytest.raises(ValueError, match="got GLY without a number in chain A.$"):
        read_backbone(path)

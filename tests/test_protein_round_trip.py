"""What `read_backbone` gives, `write_backbone` takes and reading finds again, in every format."""

import pytest

from bridges.protein import read_backbone, write_backbone
from structure_files import DATA, SUFFIXES, atom_site, residue, same, write_atoms, write_cif

pytest.importorskip("biotite")
FILES = sorted(path.name for path in DATA.iterdir() if path.suffix != ".md")
HALF_OF_LAST_DIGIT = 6e-4  # Å; PDB keeps three decimals, the others all of float32


def goes_round(backbone, path):
    write_backbone(
        path,
        backbone.coords,
        backbone.sequence,
        chain_id=backbone.chain_id,
        res_id=backbone.res_id,
        ins_code=backbone.ins_code,
    )
    tolerance = HALF_OF_LAST_DIGIT if path.suffix == ".pdb" else 0.0
    return same(read_backbone(path), backbone, tolerance)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", [name for name in FILES if name != "hetatm.pdb"])
def test_files_of_others(tmp_path, suffix, name):
    assert goes_round(read_backbone(DATA / name), tmp_path / f"a{suffix}")


NAMES = ["", " ", ".", "?", "'", '"', "#", ";", "_", "$", "[", "*", "-", "\\", "a", "1", "é", "\t"]
LONG_NAMES = [
    "A B", "a  b", "'\"", "a'b\"c", "a' \"b", "''", '""', "' '", "\"a", "a'", "#1", ";a", "_a",
    "data_1", "loop_", "stop_", "a # b", "a\tb", "A.", "nan", "-1", "日本", "x" * 200,
]  # fmt: skip
WAYS = [(chain, source, suffix) for chain in NAMES for source in SUFFIXES for suffix in SUFFIXES]
CIF = (".cif", ".bcif")
LONG_WAYS = [(chain, source, suffix) for chain in LONG_NAMES for source in CIF for suffix in CIF]


@pytest.mark.parametrize(("chain", "source", "suffix"), WAYS + LONG_WAYS)
def test_names_of_chains(tmp_path, chain, source, suffix):
    rows = residue(1, "SER", chain=chain), residue(1, "GLY", chain="B", x=3.5)
    backbone = read_backbone(write_atoms(tmp_path / f"in{source}", *rows))
    null = (".", "?") if chain in {".", "?"} else ()
    assert backbone.chain_id[0] in {chain.strip(), *null}
    assert goes_round(backbone, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("source", SUFFIXES)
def test_labels_of_every_kind(tmp_path, suffix, source):
    path = write_atoms(
        tmp_path / f"in{source}",
        residue(5, "SER", chain="B", x=1.0),
        residue(-3, "GLY", chain="", atoms="C O CA N"),
        residue(5, "ALA", chain="B", code="A", atoms="N CA C"),
        residue(0, "MSE", chain="A", record="HETATM", x=20.0),
        residue(4, "VAL", chain="B", x=3.5),
        residue(9999, "PRO", chain="b", label="A", share=0.3),
        residue(9999, "TRP", chain="b", label="B", share=0.7, x=7.0, atoms="N CA C"),
        residue(-999, "HIP", chain="'", code='"'),
    )
    backbone = read_backbone(path)
    assert backbone.coords.isnan().any()
    assert goes_round(backbone, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_models_with_gaps(tmp_path, suffix):
    rows = [
        row | {"pdbx_PDB_model_num": model, "Cartn_y": float(model)}
        for model in (1, 3, 4)
        for rows in (residue(2, "SER", chain=""), residue(1, "GLY", chain="", atoms="N CA C"))
        for row in rows
    ]
    backbone = read_backbone(write_atoms(tmp_path / f"in{suffix}", rows))
    assert backbone.coords.shape == (3, 2, 4, 3)
    assert backbone.coords[:, :, 3].isnan().all(-1).tolist() == [[False, True]] * 3
    assert goes_round(backbone, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_model_without_any_o(tmp_path, suffix):
    path = write_atoms(tmp_path / f"in{suffix}", residue(2, "SER", atoms="N CA C"))
    assert goes_round(read_backbone(path), tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("number", [10000, -1000, 2**31 - 1, -(2**31), 2**31])
def test_numbers_go_round_where_they_fit(tmp_path, suffix, number):
    backbone = read_backbone(write_atoms(tmp_path / "in.cif", residue(number, "SER")))
    if suffix == ".pdb" or (suffix == ".bcif" and number == 2**31):
        with pytest.raises(ValueError, match=f"Expected res_id to lie in .* got {number}.$"):
            goes_round(backbone, tmp_path / f"a{suffix}")
    else:
        assert goes_round(backbone, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"chain": "AAA"}, "Expected chain_id to be one character for a PDB file; got AAA."),
        ({"code": "AB"}, "Expected ins_code to be one character for a PDB file; got AB."),
        (
            {"x": 1e4},
            "Expected coords in Å to lie in [-999.999, 9999.999] for a PDB file; got 10000.0.",
        ),
    ],
)
def test_what_the_columns_of_pdb_do_not_hold(tmp_path, suffix, labels, sentence):
    backbone = read_backbone(write_atoms(tmp_path / "in.cif", residue(1, "SER", **labels)))
    if suffix == ".pdb":
        with pytest.raises(ValueError, match="Expected") as error:
            goes_round(backbone, tmp_path / "a.pdb")
        assert str(error.value) == sentence
    else:
        assert goes_round(backbone, tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_entry_with_the_names_of_the_dictionary(tmp_path, suffix):
    columns = atom_site("1igy.cif.gz")
    theirs = {item: values for item, values in columns.items() if not item.startswith("auth_")}
    del theirs["pdbx_PDB_ins_code"]
    backbone = read_backbone(write_cif(tmp_path / "in.bcif", theirs))
    assert len(backbone.sequence) == 1294
    assert goes_round(backbone, tmp_path / f"a{suffix}")

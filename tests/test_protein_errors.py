import gzip
from pathlib import Path

import pytest
import torch

from bridges.protein import read_backbone, read_backbone_masked, write_backbone

pytest.importorskip("biotite")
DATA = Path(__file__).parent / "data"
PDB = gzip.decompress((DATA / "1YCR.pdb.gz").read_bytes())
MODELS = gzip.decompress((DATA / "1l2y.pdb.gz").read_bytes())
ATOM = next(line for line in MODELS.splitlines(keepends=True) if line.startswith(b"ATOM"))

# name of the file, its bytes, arguments, what the error says of the path "{}"
FILES = [
    (
        "a.xyz",
        PDB,
        {},
        "Expected path to end in .pdb, .ent, .cif, .mmcif or .bcif, or one of these and .gz; "
        "got {}.",
    ),
    ("a.pdb", b"", {}, "Expected {} to hold amino acids; got none."),
    ("a.pdb", b"hello\n", {}, "Expected {} to hold amino acids; got none."),
    (
        "a.pdb",
        (DATA / "hetatm.pdb").read_bytes(),
        {},
        "Expected {} to hold amino acids; got none.",
    ),
    ("a.pdb", PDB, {"model": 2}, "Expected model to be one of the 1 in {}; got 2."),
    ("a.pdb", MODELS, {"model": 0}, "Expected model to be one of the 38 in {}; got 0."),
    ("a.pdb", MODELS, {"model": -1}, "Expected model to be one of the 38 in {}; got -1."),
    (
        "a.pdb",
        PDB,
        {"chains": ["A", "C"]},
        "Expected chains to name chains of amino acids in {} (A, B); got C.",
    ),
    (
        "a.pdb",
        PDB,
        {"chains": []},
        "Expected chains to name chains of amino acids in {} (A, B); got none.",
    ),
]
# name of the file, its bytes, what the error says before it quotes the parser
UNREADABLE = [
    ("a.cif", b"", "mmCIF; got "),
    ("a.cif", PDB, "mmCIF; got "),
    ("a.cif", b"data_x\n#\n", "mmCIF; got KeyError: 'atom_site'."),
    ("a.bcif", PDB, "BinaryCIF; got "),
    ("a.pdb.gz", PDB, "PDB; got BadGzipFile: "),
    ("a.pdb", ATOM[:40] + b"what" + ATOM[44:], "PDB; got ValueError: "),
]


@pytest.mark.parametrize(("name", "data", "start"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_the_parser_refuses_is_one_sentence(tmp_path, name, data, start):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Expected") as error:
        read_backbone_masked(path)
    assert str(error.value).startswith(f"Expected {path} to be readable as {start}")
    assert error.value.__cause__ is not None
    assert "\n" not in str(error.value)


def test_models_that_differ_can_be_read_one_by_one(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_bytes(MODELS.replace(ATOM, b"", 1))
    assert read_backbone(path, model=2).coords.shape == (20, 4, 3)
    with pytest.raises(ValueError, match="Expected") as error:
        read_backbone_masked(path)
    assert str(error.value) == (
        f"Expected {path} to hold the same residues and backbone atoms in every model, or model "
        "to name one; got another residue A 1 (ASN) in model 2."
    )
    with pytest.raises(ValueError, match="got no N in residue A 1 .ASN."):
        read_backbone(path, model=1)


@pytest.mark.parametrize("read", [read_backbone, read_backbone_masked])
@pytest.mark.parametrize(("name", "data", "arguments", "sentence"), FILES, ids=range(len(FILES)))
def test_a_bad_file_is_named(tmp_path, read, name, data, arguments, sentence):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match="Expected") as error:
        read(path, **arguments)
    assert str(error.value) == sentence.format(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_backbone(tmp_path / "a.pdb")


COORDS, SEQUENCE = torch.zeros(2, 4, 3), torch.tensor([0, 5])


NO_O = COORDS.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(torch.nan))


def filled(value, atom=2):
    return COORDS.index_put(
        (torch.tensor(1), torch.tensor(atom), torch.tensor(0)), torch.tensor(value)
    )


# arguments that replace good ones, and what the error says
WRITES = [
    ({"path": "a.ent"}, "Expected path to end in .pdb, .cif or .bcif; got {}."),
    (
        {"coords": torch.zeros(2, 3, 3)},
        "Expected coords to have shape (L, 4, 3) or (M, L, 4, 3); got (2, 3, 3).",
    ),
    (
        {"coords": torch.zeros(0, 4, 3), "sequence": SEQUENCE[:0]},
        "Expected coords to have shape (L, 4, 3) or (M, L, 4, 3); got (0, 4, 3).",
    ),
    ({"coords": filled(torch.nan)}, "Expected coords to be finite; got NaN or infinity."),
    ({"coords": filled(-torch.inf)}, "Expected coords to be finite; got NaN or infinity."),
    ({"coords": filled(torch.nan, atom=3)}, "Expected coords to be finite; got NaN or infinity."),
    (
        {"coords": COORDS.double() + 1e39, "path": "a.cif"},
        "Expected coords to be finite; got NaN or infinity.",
    ),
    (
        {"coords": torch.stack([COORDS, NO_O])},
        "Expected O to be missing from all models or none; got some in row 1.",
    ),
    ({"b_factor": [0.0, torch.nan]}, "Expected b_factor to be finite; got NaN or infinity."),
    ({"b_factor": [0.0]}, "Expected b_factor to have shape (2,); got (1,)."),
    ({"sequence": SEQUENCE[:1]}, "Expected sequence to have shape (2,); got (1,)."),
    ({"sequence": SEQUENCE + 15}, "Expected sequence to hold integers from 0 to 19; got 20."),
    ({"sequence": SEQUENCE - 1}, "Expected sequence to hold integers from 0 to 19; got -1."),
    ({"sequence": SEQUENCE + 0.5}, "Expected sequence to hold integers; got torch.float32."),
    ({"res_id": [1.0, 2.0]}, "Expected res_id to hold integers; got torch.float32."),
    ({"res_id": [1, 2, 3]}, "Expected res_id to have shape (2,); got (3,)."),
    ({"chain_id": ["A"]}, "Expected chain_id to have 2 entries; got 1."),
    (
        {"chain_id": ["A", "B "]},
        "Expected chain_id to be on one line without spaces around; got 'B '.",
    ),
    (
        {"path": "a.cif", "chain_id": "A\nB"},
        "Expected chain_id to be on one line without spaces around; got 'A\\nB'.",
    ),
    (
        {"ins_code": ["", " "]},
        "Expected ins_code to be on one line without spaces around; got ' '.",
    ),
    ({"ins_code": ["", "?"]}, "Expected ins_code to be '' where there is none; got '?'."),
    ({"ins_code": ["", "AB"]}, "Expected ins_code to be one character for a PDB file; got AB."),
    ({"ins_code": ["A"]}, "Expected ins_code to have 2 entries; got 1."),
    (
        {"res_id": [7, 7]},
        "Expected residues to differ in chain_id, res_id or ins_code; got A 7 2 times.",
    ),
    (
        {"coords": filled(-1000.0)},
        "Expected coords in Å to lie in [-999.999, 9999.999] for a PDB file; got -1000.0.",
    ),
    (
        {"coords": filled(1e4)},
        "Expected coords in Å to lie in [-999.999, 9999.999] for a PDB file; got 10000.0.",
    ),
    (
        {"path": "a.bcif", "res_id": [1, 2**31]},
        "Expected res_id to lie in [-2147483648, 2147483647] for a BinaryCIF file; "
        "got 2147483648.",
    ),
    ({"res_id": [1, 10000]}, "Expected res_id to lie in [-999, 9999] for a PDB file; got 10000."),
    (
        {"b_factor": [0.0, 1000.0]},
        "Expected b_factor to lie in [-99.99, 999.99] for a PDB file; got 1000.0.",
    ),
    ({"chain_id": "AB"}, "Expected chain_id to be one character for a PDB file; got AB."),
    (
        {"coords": torch.zeros(25000, 4, 3), "sequence": torch.zeros(25000, dtype=torch.int64)},
        "Expected res_id to lie in [-999, 9999] for a PDB file; got 10000.",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), WRITES)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path, changes, sentence):
    arguments = {"path": "a.pdb", "coords": COORDS, "sequence": SEQUENCE} | changes
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises((ValueError, TypeError)) as error:
        write_backbone(**arguments)
    assert str(error.value) == sentence.format(arguments["path"])
    assert not list(tmp_path.iterdir())


def test_the_limits_of_a_pdb_file_still_fit(tmp_path):
    coords = torch.tensor([-999.999, 9999.999]).reshape(2, 1, 1).expand(2, 4, 3)
    path = tmp_path / "a.pdb"
    limits = {"res_id": [-999, 9999], "b_factor": torch.tensor([-99.99, 999.99])}
    write_backbone(path, coords, SEQUENCE, **limits)
    again = read_backbone(path)
    assert torch.equal(again.coords, coords)
    assert again.res_id.tolist() == [-999, 9999]


def test_mmcif_has_no_such_limits(tmp_path):
    path = tmp_path / "a.cif"
    write_backbone(path, COORDS - 5e4, SEQUENCE, chain_id="heavy", res_id=[10**5, -(10**5)])
    again = read_backbone(path)
    assert torch.equal(again.coords, COORDS - 5e4)
    assert again.chain_id == ("heavy", "heavy")
    assert again.res_id.tolist() == [10**5, -(10**5)]

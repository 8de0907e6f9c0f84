"""Atoms as rows of labels and places, and structure files made of them in each format."""

import gzip
from pathlib import Path

import torch

DATA = Path(__file__).parent / "data"
SUFFIXES = (".pdb", ".cif", ".bcif")
PLACE = {"N": 0.0, "CA": 1.0, "C": 2.1, "O": 2.2}
PDB_LINE = (
    "{group_PDB:6}    1 {auth_atom_id:^4}{label_alt_id:1}{auth_comp_id:>3} {auth_asym_id:1}"
    "{auth_seq_id:4}{pdbx_PDB_ins_code:1}   {Cartn_x:8.3f}{Cartn_y:8.3f}{Cartn_z:8.3f}"
    "{occupancy:6.2f}  0.00          {type_symbol:>2}\n"
)


def residue(
    number, name, *, x=0.0, chain="A", code="", label="", share=1.0, record="ATOM",
    atoms="N CA C O", model=1,
):  # fmt: skip
    """A residue of a straight chain: the next one, 3.5 further on, starts 1.4 behind its C."""
    return [
        {
            "group_PDB": record, "type_symbol": atom[0], "auth_atom_id": atom,
            "label_alt_id": label, "auth_comp_id": name, "auth_asym_id": chain,
            "auth_seq_id": number, "pdbx_PDB_ins_code": code, "Cartn_x": x + PLACE.get(atom, 1.5),
            "Cartn_y": 0.0, "Cartn_z": 0.0, "occupancy": share, "pdbx_PDB_model_num": model,
        }
        for atom in atoms.split()
    ]  # fmt: skip


def pdb_text(*residues):
    """PDB lines of the rows, with MODEL records where the rows are of a model above 1."""
    rows = [row for rows in residues for row in rows]
    lines, model = [], 1 if all(row["pdbx_PDB_model_num"] == 1 for row in rows) else 0
    for row in rows:
        if row["pdbx_PDB_model_num"] != model:
            model = row["pdbx_PDB_model_num"]
            lines.append(f"{'ENDMDL' if lines else 'REMARK'}\nMODEL     {model:4}\n")
        lines.append(PDB_LINE.format(**row))
    return "".join(lines)


def columns_of(*residues):
    """The items of `atom_site`, with the nulls of mmCIF."""
    rows = [row for rows in residues for row in rows]
    columns = {name: [str(row[name]) for row in rows] for name in rows[0]}
    for name in ("label_alt_id", "pdbx_PDB_ins_code"):
        columns[name] = [value or "?" for value in columns[name]]
    return columns


def write_cif(path, columns, **categories):
    """An mmCIF or BinaryCIF file of one block; of strings alone, where "." and "?" are null."""
    from biotite.structure.io import pdbx

    if path.suffix == ".cif":
        kinds, column = (pdbx.CIFFile, pdbx.CIFBlock, pdbx.CIFCategory), list
    else:
        kinds, column = (
            (pdbx.BinaryCIFFile, pdbx.BinaryCIFBlock, pdbx.BinaryCIFCategory),
            lambda values: pdbx.BinaryCIFColumn(
                [value if value not in {".", "?"} else "" for value in values],
                [".?".find(value) + 1 if value else 0 for value in values],
            ),
        )
    file, block, category = kinds
    made = {
        name: category({item: column(values) for item, values in items.items()})
        for name, items in ({"atom_site": columns} | categories).items()
    }
    file({"test": block(made)}).write(path)
    return path


def write_atoms(path, *residues):
    """A file of the rows in the format of the path's suffix."""
    if path.suffix != ".pdb":
        return write_cif(path, columns_of(*residues))
    path.write_text(pdb_text(*residues))
    return path


def atom_site(name):
    """The items of `atom_site` in a file of the test data, as strings."""
    from biotite.structure.io import pdbx

    with gzip.open(DATA / name, "rt") as stream:
        category = pdbx.CIFFile.read(stream).block["atom_site"]
    return {item: column.as_array(str).tolist() for item, column in category.items()}


def same(a, b, tolerance=0.0):
    """Whether two backbones are equal, but for the digits of their coordinates."""
    return (
        torch.allclose(a.coords, b.coords, rtol=0, atol=tolerance, equal_nan=True)
        and torch.equal(a.sequence, b.sequence)
        and torch.equal(a.mask, b.mask)
        and torch.equal(a.res_id, b.res_id)
        and (a.chain_id, a.ins_code) == (b.chain_id, b.ins_code)
    )

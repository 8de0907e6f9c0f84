"""The atoms of structure files: PDB, mmCIF and BinaryCIF, parsed by biotite.

Biotite asks for more than the formats do. What they leave optional is filled in before it parses:
in mmCIF every item of `atom_site` but the coordinates and one name, author's or label, of each
atom, residue and chain; in PDB all that stands behind the coordinates.
"""

import gzip
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridges._residues import STANDARD, UNNUMBERED

FORMATS = {".pdb": "PDB", ".ent": "PDB", ".cif": "mmCIF", ".mmcif": "mmCIF", ".bcif": "BinaryCIF"}
_NULL = (".", "?")  # inapplicable and unknown


def biotite() -> tuple[Any, Any, Any]:
    """Biotite's `structure`, and its readers and writers for PDB and for both kinds of mmCIF."""
    try:
        from biotite import structure
        from biotite.structure.io import pdb, pdbx
    except ImportError as error:
        raise ImportError(
            "Reading and writing structure files needs the extra `protein`: "
            "pip install 'bridges[protein]'."
        ) from error
    return structure, pdb, pdbx


def read_models(path: str | os.PathLike[str], model: int | None) -> list[Any]:
    """The atoms of every model, or of one, as AtomArrays with all alternative locations.

    An atom without finite coordinates is not there. Names of atoms and residues are in capitals;
    insertion codes and labels of alternative locations are empty where there is none.
    """
    biotite()
    name = Path(path).name.lower()
    file_format = FORMATS.get(Path(name.removesuffix(".gz")).suffix)
    if file_format is None:
        raise ValueError(
            "Expected path to end in .pdb, .ent, .cif, .mmcif or .bcif, or one of these and .gz; "
            f"got {path}."
        )
    data = Path(path).read_bytes()
    try:
        data = gzip.decompress(data) if name.endswith(".gz") else data
        models = _models(file_format, data)
    except Exception as error:  # parsers raise whatever the bytes make them stumble on
        raise ValueError(_unreadable(path, file_format, error)) from error
    if not models:
        raise ValueError(f"Expected {path} to hold amino acids; got none.")
    if model is not None and not 1 <= model <= len(models):
        raise ValueError(f"Expected model to be one of the {len(models)} in {path}; got {model}.")
    try:
        return [_tidy(parse()) for parse in (models if model is None else [models[model - 1]])]
    except Exception as error:
        raise ValueError(_unreadable(path, file_format, error)) from error


def _unreadable(path: str | os.PathLike[str], file_format: str, error: Exception) -> str:
    cause = f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    return f"Expected {path} to be readable as {file_format}; got {cause}."


def _models(file_format: str, data: bytes) -> list[Callable[[], Any]]:
    """A parser of each model, in the order of the file."""
    _, _, pdbx = biotite()
    if file_format == "BinaryCIF":
        return list(_cif_models(pdbx.BinaryCIFFile.read(io.BytesIO(data))))
    text = data.decode("utf-8-sig", errors="replace")
    if file_format == "mmCIF":
        return list(_cif_models(pdbx.CIFFile.read(io.StringIO(text))))
    return list(_pdb_models(text))


def _tidy(atoms: Any) -> Any:
    atoms = atoms[np.isfinite(atoms.coord).all(axis=-1)]
    atoms.chain_id = np.char.strip(atoms.chain_id)
    if broken := [
        name for name in np.unique(atoms.chain_id).tolist() if len(name.splitlines()) > 1
    ]:
        raise ValueError(f"a line break in chain {broken[0]!r}")
    atoms.res_name = np.char.upper(np.char.strip(atoms.res_name))
    atoms.atom_name = np.char.upper(np.char.strip(atoms.atom_name))
    for column in ("ins_code", "altloc_id"):
        code = np.char.strip(atoms.get_annotation(column))
        atoms.set_annotation(column, np.where(np.isin(code, _NULL), "", code))
    return atoms


def _pdb_models(text: str) -> Iterator[Callable[[], Any]]:
    models: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("MODEL"):
            models.append([])
        elif line.startswith(("ATOM", "HETATM")):
            models[-1].append(line)
    return (partial(_parse_pdb, lines) for lines in models if lines)


def _parse_pdb(lines: list[str]) -> Any:
    _, pdb, _ = biotite()
    file = pdb.PDBFile.read(io.StringIO("\n".join(map(_pdb_line, lines))))
    atoms = file.get_structure(model=1, altloc="all", extra_fields=["occupancy"])
    atoms.res_id = np.where([not line[22:26].strip() for line in lines], UNNUMBERED, atoms.res_id)
    return atoms


def _pdb_line(line: str) -> str:
    """A line that biotite reads: occupancy 1 where blank, and nothing else behind it.

    B-factor, element and charge are not used, so they need not be right. A blank number becomes 0
    here, and is told from a true 0 after parsing.
    """
    number, occupancy = line[22:26].strip() or "0", line[54:60].strip() or "1.00"
    return f"{line[:22]:22}{number:>4}{line[26:54]:28}{occupancy:>6}  0.00{'':10} X  "


def _cif_models(file: Mapping[str, Any]) -> Iterator[Callable[[], Any]]:
    _, _, pdbx = biotite()
    items = _biotite_items(_atom_site(file))
    number = items.pop("pdbx_PDB_model_num")
    _, first, which = np.unique(number, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[which]  # models count in the order of the file
    for rows in np.split(np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank))[:-1]):
        one = {"pdbx_PDB_model_num": np.ones(len(rows), dtype=np.int32)}
        columns = {name: column[rows] for name, column in items.items()} | one
        block = pdbx.BinaryCIFBlock({"atom_site": pdbx.BinaryCIFCategory(columns)})
        yield partial(pdbx.get_structure, block, model=1, altloc="all", extra_fields=["occupancy"])


def _atom_site(file: Mapping[str, Any]) -> dict[str, Any]:
    """The items of the one data block with atoms; CIF names are the same in capitals."""
    found = [
        block[name] for block in file.values() for name in block if name.lower() == "atom_site"
    ]
    if not found:
        raise KeyError("atom_site")
    if len(found) > 1:
        raise ValueError(f"atoms in {len(found)} data blocks")
    return {name.lower(): column for name, column in found[0].items()}


def _biotite_items(site: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    name = _text(site, "auth_comp_id", "label_comp_id")
    number = _text(site, "auth_seq_id", "label_seq_id", default=str(UNNUMBERED))
    return {
        "group_PDB": _record(site, name),
        "type_symbol": np.full(len(name), "X"),  # not used
        "auth_atom_id": _text(site, "auth_atom_id", "label_atom_id"),
        "auth_comp_id": name,
        "auth_asym_id": _text(site, "auth_asym_id", "label_asym_id"),
        "auth_seq_id": number.astype(np.int64),
        "pdbx_PDB_ins_code": _text(site, "pdbx_pdb_ins_code", default=""),
        "label_alt_id": _text(site, "label_alt_id", default=""),
        "Cartn_x": _real(site, "cartn_x"),
        "Cartn_y": _real(site, "cartn_y"),
        "Cartn_z": _real(site, "cartn_z"),
        "occupancy": np.nan_to_num(_real(site, "occupancy", "1"), nan=1.0),
        "pdbx_PDB_model_num": _text(site, "pdbx_pdb_model_num", default="1").astype(np.int64),
    }


def _record(site: Mapping[str, Any], name: NDArray[np.str_]) -> NDArray[np.str_]:
    """ATOM or HETATM; where the file does not say, ATOM for the standard residues of polymers."""
    record = np.char.upper(_text(site, "group_pdb", default="?"))
    free = ~np.isin(np.char.upper(name), STANDARD)
    if "label_seq_id" in site:  # null in what is not a polymer
        free |= np.isin(_text(site, "label_seq_id"), _NULL)
    return np.where(record == "?", np.where(free, "HETATM", "ATOM"), record)


def _text(site: Mapping[str, Any], *names: str, default: str | None = None) -> NDArray[np.str_]:
    """In each row the first of the items that has a value, or else the default.

    Without a default one of the items must be there, and null stays as it is written: biotite
    reads a chain called "." from quotes as it reads null.
    """
    found = [site[name].as_array(str) for name in names if name in site]
    if not found and default is None:
        raise KeyError(names[-1])
    if default is not None:
        found.append(np.full(len(next(iter(site.values()))), default))
    values: NDArray[np.str_] = found[0]
    for other in found[1:]:
        values = np.where(np.isin(values, _NULL), other, values)
    return values


def _real(site: Mapping[str, Any], name: str, default: str | None = None) -> NDArray[np.float32]:
    """Numbers, NaN where null; an uncertainty in parentheses, as in 1.234(5), is left out."""
    if name in site and site[name].data.array.dtype.kind != "U":
        numbers: NDArray[np.float32] = site[name].as_array(np.float32, np.nan)
        return numbers
    text = _text(site, name, default=default)
    text = np.where(np.isin(text, _NULL), "nan", text)
    if (np.char.find(text, "(") >= 0).any():
        text = np.array([re.sub(r"\(\d+\)", "", number) for number in text])
    return text.astype(np.float32)

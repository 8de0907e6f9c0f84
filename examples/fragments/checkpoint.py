"""Checkpoints: one file of tensors and a small one that says what they are.

The tensors hold all that changes in a run; the small file holds what does not. Both are written
beside their place and renamed into it, so that an interruption leaves the older ones whole.
"""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

TENSORS, FACTS = "checkpoint.safetensors", "checkpoint.json"


def save(folder: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a checkpoint into a folder.

    Args:
        folder: where to; made if it is not there.
        state: tensors by name.
        facts: what stays the same during a run and can be written as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, folder / f".{TENSORS}")
    (folder / f".{FACTS}").write_text(json.dumps(facts, indent=2) + "\n")
    for name in (TENSORS, FACTS):
        os.replace(folder / f".{name}", folder / name)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state and the facts from a folder.

    Raises:
        FileNotFoundError: if there is no checkpoint.
    """
    return load_file(folder / TENSORS), json.loads((folder / FACTS).read_text())


def exists(folder: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return (folder / TENSORS).exists() and (folder / FACTS).exists()


def grouped(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split names at their first dot: `a.b.c` becomes `b.c` in the group `a`.

    >>> grouped({"a.b.c": 1, "a.d": 2, "e": 3})
    {'a': {'b.c': 1, 'd': 2}, 'e': {'': 3}}
    """
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in state.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = value
    return dict(groups)

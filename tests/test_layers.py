"""Imports flow one way: a file may import the files named beside it, all of them above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bridges

PACKAGE = Path(bridges.__file__).parent

LAYERS = {
    # helpers: shapes and times, every random draw, maps and heat kernels
    "_device": "",
    "_checks": "",
    "_shapes": "_device",
    "_precision": "_shapes",
    "_inversion": "",
    "_tables": "_shapes",
    "_draw": "_shapes _inversion",
    "_so3": "",
    "_nearest": "_so3",
    "_so3_kernel": "_shapes _so3",
    "_so3_draw": "_shapes _draw _so3 _so3_kernel",
    "_sphere_kernel": "_shapes _draw _so3 _so3_kernel _so3_draw",
    "_s3_kernel": "_shapes _so3 _so3_kernel",
    "_s3_draw": "_shapes _draw _so3 _so3_kernel _so3_draw _s3_kernel",
    "_rate_matrix": "_shapes _tables",
    # time changes, time grids and schedules
    "clock": "_shapes",
    "grid": "_shapes",
    "share_clock": "_shapes clock",
    "table_clock": "_shapes clock grid",
    "schedule": "_shapes",
    "vp_schedule": "_shapes schedule",
    "ve_schedule": "_shapes schedule",
    # the protocol
    "_space": "_shapes",
    "prediction": "_shapes _draw",
    "preconditioning": "_shapes prediction",
    "_hooks": "_shapes _draw _space preconditioning",
    "_measures": "_shapes _hooks prediction",
    "process": "_shapes _draw _measures clock",
    # processes made from one process
    "wrapper": "_shapes _draw _space process",
    "partial": "_shapes _draw _space prediction process wrapper",
    "clocked": "_shapes _draw clock prediction process wrapper",
    # what the spaces of one kind share
    "gaussian_process": "_shapes _draw preconditioning prediction process",
    "manifold": "_shapes _draw preconditioning prediction process",
    "unit_vector": "_shapes _draw _so3 manifold",
    "token_process": "_shapes _draw prediction process",
    "jumps": "_draw preconditioning token_process",
    "transition": "_draw _inversion _shapes preconditioning token_process",
    # one space a file; none imports another
    "gaussian": "_shapes _draw prediction schedule gaussian_process",
    "categorical": "_shapes _draw _tables token_process jumps",
    "rate_matrix": "_shapes _draw _tables _rate_matrix transition",
    "discrete_time": "_shapes _draw _tables transition",
    "angle": "_shapes _draw manifold",
    "rotation": "_shapes _draw _nearest _so3 _so3_kernel _so3_draw manifold",
    "sphere": "_draw _so3 _so3_draw _sphere_kernel unit_vector",
    "quaternion": "_draw _so3 _s3_kernel _s3_draw prediction unit_vector",
    # noise with a structure
    "linear_noise": "_shapes",
    "correlated_noise": "_shapes linear_noise",
    "structured": "_shapes _draw _hooks _space clocked gaussian_process linear_noise "
    "prediction process wrapper",
    # several processes as one
    "joint": "_shapes _draw clock partial process",
    # the noise of published models
    "recipes": "_shapes angle categorical clock gaussian joint process rotation schedule "
    "share_clock table_clock",
    # guesses, losses, samplers
    "denoiser": "_shapes _draw preconditioning prediction schedule",
    "network_denoiser": "_shapes _draw denoiser gaussian preconditioning prediction schedule",
    "analytic_denoiser": "_shapes denoiser prediction schedule",
    "preconditioned_guess": "_shapes denoiser preconditioning process",
    "ddpm": "_shapes _draw denoiser gaussian network_denoiser vp_schedule",
    "selfcondition": "_shapes _draw prediction",
    "weight": "_shapes process",
    "time_sampler": "_shapes _draw schedule",
    "loss": "_shapes process",
    "curve": "_shapes _draw process",
    "solver": "_shapes _draw curve process",
    "one_step": "_shapes _draw curve solver",
    "multistep": "_shapes _draw curve solver",
    "sampler": "_shapes _draw process selfcondition solver",
    "denoised_sampler": "_shapes _draw gaussian one_step sampler schedule selfcondition solver",
    "unmasking": "_draw _shapes _space categorical clock clocked partial prediction process "
    "sampler selfcondition token_process wrapper",
    # pieces of networks
    "convert": "_shapes",
    "nn": "_shapes _draw",
    # structure files
    "_residues": "",
    "_structure_file": "_residues",
    "_structure_io": "_residues _structure_file",
    "_backbone": "_residues",
    "protein": "_residues _structure_io _backbone",
    # the laws, for the processes of users too
    "_two_sample": "_shapes",
    "_trial": "_shapes process wrapper _two_sample",
    "_form_laws": "_shapes process _two_sample _trial",
    "_measure_laws": "_shapes prediction process _two_sample _trial",
    "_eta_law": "_shapes process _two_sample _trial",
    "testing": "_shapes clock process _two_sample _trial _form_laws _measure_laws _eta_law",
}

EVERYWHERE = ("_device", "_checks", "_precision")
"""What any file below may import: what may be asked of a device, and the precision inside."""

SPACES = (
    "gaussian",
    "categorical",
    "rate_matrix",
    "discrete_time",
    "angle",
    "rotation",
    "sphere",
    "quaternion",
)
OUTSIDE = {"torch", "numpy"}
OPTIONAL = {"biotite", "roma"}
ALSO = {"_two_sample": {"scipy"}}
FACTORIES = {
    ("process", "where"): "partial",
    ("process", "on"): "clocked",
    ("process", "tempered"): "wrapper",
}

modules = pytest.mark.parametrize("module", LAYERS)


def imports(module):
    """List (what, name of the enclosing function or None) for every import of a file."""
    found = []

    def visit(node, function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import."
            assert [alias.name for alias in node.names] != ["*"], f"{module} has a star import."
            inside = node.module == "bridges"
            names = [f"bridges.{a.name}" for a in node.names] if inside else [node.module]
            found.extend((name, function) for name in names)
        if isinstance(node, ast.Import):
            found.extend((alias.name, function) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse((PACKAGE / f"{module}.py").read_text()), None)
    return found


def own(name):
    return name.split(".")[1] if name.startswith("bridges.") else None


def test_the_table_names_every_file():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == set(LAYERS)


@modules
def test_the_table_allows_only_files_above(module):
    above = list(LAYERS)[: list(LAYERS).index(module)]
    assert set(LAYERS[module].split()) <= set(above)


@modules
def test_a_file_imports_what_the_table_allows(module):
    got = {own(name) for name, function in imports(module) if function is None and own(name)}
    above = list(LAYERS)[: list(LAYERS).index(module)]
    assert got <= set(LAYERS[module].split()) | set(EVERYWHERE) & set(above)


@modules
def test_nothing_else_is_imported_at_the_top(module):
    roots = {name.split(".")[0] for name, function in imports(module) if function is None}
    third = roots - set(sys.stdlib_module_names) - {"bridges"}
    assert third <= OUTSIDE | ALSO.get(module, set())


@modules
def test_functions_import_only_the_factories_and_what_is_optional(module):
    for name, function in imports(module):
        if function is None:
            continue
        if own(name):
            assert FACTORIES.get((module, function)) == own(name)
        else:
            assert name.split(".")[0] in OPTIONAL


@pytest.mark.parametrize("space", SPACES)
def test_spaces_do_not_import_one_another(space):
    assert not {own(name) for name, _ in imports(space)} & (set(SPACES) - {space})


def lines_of_code(text):
    """Count the lines that hold code: no docstring, no comment, nothing empty."""
    prose = set()
    for node in ast.walk(ast.parse(text)):
        first = getattr(node, "body", [None])
        first = first[0] if isinstance(first, list) and first else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            prose |= set(range(first.lineno, first.end_lineno + 1))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        1 for i, line in lines if i not in prose and line.strip() and line.strip()[0] != "#"
    )


@pytest.mark.parametrize("module", LAYERS)
def test_a_file_has_at_most_200_lines_of_code(module):
    assert lines_of_code((PACKAGE / f"{module}.py").read_text()) <= 200


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_is_light():
    loaded = run("import bridges, sys; print(*{name.split('.')[0] for name in sys.modules})")
    assert not {"roma", "biotite", "matplotlib", "scipy"} & set(loaded)


STATE = """
import warnings
import numpy as np
import torch

def state():
    return (
        torch.get_rng_state().tolist(),
        torch.get_default_dtype(),
        str(torch.get_default_device()),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        str(np.random.get_state()),
        str(np.geterr()),
    )
"""


@pytest.mark.parametrize("module", ["bridges", "bridges.protein", "bridges.testing"])
def test_importing_changes_no_global_state(module):
    run(f"{STATE}\nbefore = state()\nimport {module}\nassert state() == before")


def test_importing_adds_no_filter_for_warnings():
    run(f"{STATE}\nn = len(warnings.filters)\nimport bridges\nassert len(warnings.filters) == n")

"""Everything shown runs: the Python blocks of the README and of the pages, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python" in page.read_text()
]


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), namespace)


def test_readme_shows_the_fifteen_line_example():
    first = blocks(ROOT / "README.md")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 15
    assert "Joint(" in first
    assert "sample_backward(" in first


def test_readme_shows_what_the_example_makes():
    text = (ROOT / "README.md").read_text()
    for name in ("gallery", "ramachandran"):
        assert f"](docs/images/{name}.png)" in text


def test_links_in_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_constraints_pin_every_core_dependency():
    pins = (ROOT / "constraints.txt").read_text()
    for name in ("torch==", "numpy==", "scipy==", "roma==", "pytest==", "biotite=="):
        assert re.search(rf"^{re.escape(name)}", pins, flags=re.MULTILINE)

"""The tables of the pages, for tests that hold them against the code."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def rows(page, heading):
    """List the rows of all tables below a heading, cell by cell, up to the next of its level."""
    level = re.match("#+", heading)[0]
    text = (DOCS / page).read_text().split(f"\n{heading}\n")[1]
    text = re.split(rf"^#{{1,{len(level)}}} ", text, flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def ways(page):
    """Return the first code of each row that says how to have it another way, by its row."""
    table = rows(page, "## Coming from elsewhere")
    found = {row[0]: row[2] for row in table if len(row) == 3 and row[2].startswith("`")}
    return {what: re.match("`([^`]+)`", code)[1] for what, code in found.items()}

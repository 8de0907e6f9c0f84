"""Sphinx settings: the pages are Markdown, the reference comes from the docstrings."""

project = "bridges"
author = "The bridges developers"
copyright = "2026, the bridges developers"  # noqa: A001
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "bridges"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_type_aliases = {"State": "State", "Time": "Time", "Generator": "Generator"}
nitpicky = False

# SPDX-License-Identifier: BSD-3-Clause
"""How Sphinx builds the documentation: ``make docs``. The pages themselves also read well where they lie."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch_ext

# sphinx.ext.linkcode looks for it here.
from tools.site.sources import linkcode_resolve  # noqa: F401

project = "torch_ext"
author = "The torch_ext authors"
copyright = author  # noqa: A001
version = release = torch_ext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "tools.site.links",
    "tools.site.sources",
    "tools.site.torch_names",
]
exclude_patterns = ["conf.py"]
source_suffix = {".md": "markdown"}

# Headings have the anchors that forges give them. A file that is shown has a page, which source: leads to.
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "source"]
suppress_warnings = ["myst.header"]  # README.md of the tests begins its parts with tables

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
# These stay text: names of torch's and of Python's that tools.site.torch_names has no address of, and private ones.
nitpick_ignore_regex = [
    ("py:.*", r"(?!torch_ext\.).*"),
    ("py:class", r"torch_ext\..*\._\w+|torch_ext\.compare\.copying\.Arguments"),
]

html_theme = "furo"
html_title = f"torch_ext {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style = "tango"
pygments_dark_style = "github-dark"

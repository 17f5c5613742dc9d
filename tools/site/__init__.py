# SPDX-License-Identifier: BSD-3-Clause
"""What the documentation's site has beyond Sphinx's own: extensions that docs/conf.py loads.

===============  ===================================================================
``links``        relative links, which lead to files on a forge and to pages here
``sources``      a page for each file that is linked to, with its lines
``torch_names``  where torch documents the names that our docstrings refer to
===============  ===================================================================
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

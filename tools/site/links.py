# SPDX-License-Identifier: BSD-3-Clause
"""Links of the pages, as they have to be in the site.

The pages link to each other, to files and to folders by relative paths, so that they can be read on a forge. Here a
link to a page leads to that page, and one to any other file or folder of the repository to its page in
:mod:`tools.site.sources`. A page that consists of an ``include`` of a file above docs/ is that file: links to it lead
to the page. What leads nowhere is left as it is, and Sphinx warns of it.
"""

import functools
import re
from pathlib import Path

from . import DOCS, ROOT

# A link or a picture, but for its text; whole code blocks, which are passed over.
LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)|(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))", re.MULTILINE | re.DOTALL
)
INCLUDE = re.compile(r"\A```{include} (\S+)\n```\n\Z")


@functools.cache
def borrowed_pages():
    """The files that are pages without lying in docs/, with the names of their pages. README.md is the first page."""
    pages = {ROOT / "README.md": "index"}
    for path in DOCS.glob("*.md"):
        if include := INCLUDE.match(path.read_text()):
            pages[(DOCS / include[1]).resolve()] = path.stem
    return pages


def resolve(target, anchor):
    """What a link to the file ``target`` has to be, None if there is no such file in the repository."""
    if not (target.exists() and target.is_relative_to(ROOT)):
        return None
    if page := borrowed_pages().get(target):
        return f"/{page}.md{anchor}"
    if target.is_relative_to(DOCS) and target.suffix in (".md", ".svg"):
        return f"/{target.relative_to(DOCS)}{anchor}"
    return f"source:{target.relative_to(ROOT)}{anchor}"


def relink(text, folder):
    """The text of a page whose file is in ``folder``, with the links that the site needs."""

    def link(match):
        if match["fence"]:
            return match[0]
        return resolve((folder / match["path"]).resolve(), match["anchor"] or "") or match[0]

    return LINK.sub(link, text)


def read(app, name, content):
    """Sphinx has read a page."""
    path = Path(app.env.doc2path(name)).resolve()
    if include := INCLUDE.match(content[0]):
        path = (path.parent / include[1]).resolve()
        content[0] = path.read_text(encoding="utf-8")
        app.env.note_dependency(str(path))
    content[0] = relink(content[0], path.parent)


def setup(app):
    app.connect("source-read", read)
    return {"parallel_read_safe": True}

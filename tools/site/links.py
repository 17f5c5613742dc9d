# SPDX-License-Identifier: BSD-3-Clause
"""Links of the pages, as they have to be in the site.

The pages link to each other, to files and to folders by relative paths, so that they can be read on a forge. Here a
link to a page leads to that page, and one to any other file or folder of the repository to its page in
:mod:`tools.site.sources`. A page that consists of an ``include`` of a file above docs/ is that file: links to it lead
to the page. What leads nowhere is left as it is, and Sphinx warns of it.
"""

import os
import re

from . import DOCS, ROOT

# A link or a picture, but for its text; whole code blocks, which are passed over.
LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)|(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))", re.MULTILINE | re.DOTALL
)
INCLUDE = re.compile(r"\A```{include} (\S+)\n```\n\Z")


def borrowed_pages():
    """The files that are pages without lying in docs/, with the names of their pages. README.md is the first page."""
    pages = {ROOT / "README.md": "index"}
    for path in DOCS.glob("*.md"):
        if include := INCLUDE.match(path.read_text()):
            pages[(DOCS / include[1]).resolve()] = path.stem
    return pages


def resolve(target, anchor, borrowed):
    """What a link to the file ``target`` has to be, None if there is no such file."""
    if not target.exists():
        return None
    if target in borrowed:
        return f"/{borrowed[target]}.md{anchor}"
    if target.is_relative_to(DOCS) and target.is_file():
        return f"/{target.relative_to(DOCS)}{anchor}"
    return f"source:{target.relative_to(ROOT)}{anchor}"


def relink(text, folder, borrowed):
    """The text of a page whose file is in ``folder``, with the links that the site needs."""

    def link(match):
        if match["fence"]:
            return match[0]
        target = (folder / match["path"].lstrip("/")).resolve() if match["path"][0] != "/" else DOCS / match["path"][1:]
        return resolve(target, match["anchor"] or "", borrowed) or match[0]

    return LINK.sub(link, text)


def read(app, name, content):
    """Sphinx has read a page."""
    path = app.env.doc2path(name)
    if include := INCLUDE.match(content[0]):
        path = os.path.join(os.path.dirname(path), include[1])
        with open(path, encoding="utf-8") as file:
            content[0] = file.read()
        app.env.note_dependency(path)
    content[0] = relink(content[0], (DOCS / path).resolve().parent, app.borrowed_pages)


def start(app):
    app.borrowed_pages = borrowed_pages()


def setup(app):
    app.connect("builder-inited", start)
    app.connect("source-read", read)
    return {"parallel_read_safe": True}

# SPDX-License-Identifier: BSD-3-Clause
"""Pages that show files: each file that a page or a docstring leads to, with its lines, and each folder as a list.

A link ``source:csrc/module.cpp`` leads to such a page, ``source:torch_ext/hooks.py#line-40`` to a line of it. Beside
each name of the reference there is such a link.
"""

import html
import importlib
import inspect
import os
import subprocess
from pathlib import Path

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound

from . import ROOT

SCHEME = "source:"


def tracked():
    """The files of the repository; in an sdist, which has no history, those that are there and not made of others."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = filter(None, done.stdout.split("\0")) if done.returncode == 0 else there()
    made = {".pyc", ".so"}
    return sorted(path for name in names if (path := ROOT / name).is_file() and path.suffix not in made)


def there():
    """All files but those of a virtual environment, which has tens of thousands."""
    for folder, inside, names in os.walk(ROOT):
        inside[:] = [name for name in inside if not Path(folder, name, "pyvenv.cfg").exists()]
        yield from (Path(folder, name) for name in names)


def page_of(path):
    return f"source/{path}"


def resolve_links(app, doctree, docname):
    """Makes ``source:`` links of a page relative, and notes what they lead to."""
    for node in doctree.findall(nodes.reference):
        if node.get("refuri", "").startswith(SCHEME):
            path, _, anchor = node["refuri"].removeprefix(SCHEME).partition("#")
            app.shown_sources.add(path)
            node["refuri"] = app.builder.get_relative_uri(docname, page_of(path)) + (anchor and f"#{anchor}")


def lexer_of(path):
    try:
        return get_lexer_for_filename(path.name).aliases[0]
    except (ClassNotFound, IndexError):
        return "text"


def file_body(app, path):
    text = (ROOT / path).read_text(encoding="utf-8")
    how = {"force": True, "lineanchors": "line", "linenos": "inline"}
    code = app.builder.highlighter.highlight_block(text, lexer_of(ROOT / path), **how)
    return f"<h1>{html.escape(path)}</h1>\n{code}"


def folder_body(app, path, files):
    def entry(file):
        uri = app.builder.get_relative_uri(page_of(path), page_of(str(file.relative_to(ROOT))))
        return f'<li><a href="{html.escape(uri)}">{html.escape(str(file.relative_to(ROOT / path)))}</a></li>'

    return f"<h1>{html.escape(path)}</h1>\n<ul>{''.join(map(entry, files))}</ul>"


def collect_pages(app):
    """The pages that Sphinx writes beside those that it has read."""
    files = tracked()
    shown_folders = filter(Path.is_dir, map(ROOT.joinpath, app.shown_sources))
    folders = {str(path.relative_to(ROOT)): [file for file in files if path in file.parents] for path in shown_folders}
    shown = app.shown_sources | {str(file.relative_to(ROOT)) for inside in folders.values() for file in inside}
    for path in sorted(shown):
        body = folder_body(app, path, folders[path]) if path in folders else file_body(app, path)
        yield page_of(path), {"title": path, "body": body}, "page.html"


def declaration(name):
    """The file and the line at which the stub declares a function that C++ defines."""
    stub = ROOT / "torch_ext" / "_C.pyi"
    lines = stub.read_text(encoding="utf-8").splitlines()
    return stub, next(number for number, line in enumerate(lines, 1) if line.startswith(f"def {name}("))


def linkcode_resolve(domain, info):
    """The place of a public name, for Sphinx; None if it is torch's, or no function or class."""
    if not info["module"]:  # of several attributes at once
        return None
    value = importlib.import_module(info["module"])
    for part in info["fullname"].split("."):
        value = getattr(value, part, None)  # None: an attribute of instances
    value = inspect.unwrap(value.fget if isinstance(value, property) else value)
    if inspect.isbuiltin(value):
        file, line = declaration(value.__name__)
    elif inspect.isclass(value) or inspect.isfunction(value):
        file, line = Path(inspect.getsourcefile(value)), inspect.getsourcelines(value)[1]
    else:
        return None
    return f"{SCHEME}{file.relative_to(ROOT)}#line-{line}" if file.is_relative_to(ROOT / "torch_ext") else None


def start(app):
    app.shown_sources = set()


def setup(app):
    app.connect("builder-inited", start)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-collect-pages", collect_pages)
    # What is shown is noted while pages are written, in one process.
    return {"parallel_read_safe": True, "parallel_write_safe": False}

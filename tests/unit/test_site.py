# SPDX-License-Identifier: BSD-3-Clause
"""The site of the documentation: it builds without a warning, has every public name, and no link of it dangles.

A browser shows its pages, in light and in dark, on a wide screen and on a narrow one.
"""

import fcntl
import html
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from harness.browser import BROWSER, DARK, look_at
from harness.public_names import own_names, public_names

from tools.site import sources

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = [1280, 400]
PAGES = """index quickstart guide explain anomaly hooks tracer examples faq commands testing reference/index changes
    compatibility installing differences integrations releases distributed cuda performance reliability architecture
    hacking tests releasing""".split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and what Sphinx printed. It is built once for all of xdist's processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    folder.mkdir(exist_ok=True)
    printed = folder / "printed.txt"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            # As make docs.
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-E", "-d", folder / "read"]
            done = subprocess.run(
                [*command, ROOT / "docs", folder / "site"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            printed.write_text(f"{done.stdout}{done.returncode or ''}")
    return SimpleNamespace(folder=folder / "site", printed=printed.read_text())


def pages_of(site):
    return {str(path.relative_to(site.folder)): path.read_text() for path in site.folder.rglob("*.html")}


def test_it_builds_without_a_warning(site):
    assert site.printed == ""


def test_a_virtual_environment_is_no_source(tmp_path, monkeypatch):
    for name in ("csrc/module.cpp", "csrc/module.so", ".venv/pyvenv.cfg", ".venv/lib/module.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(sources, "ROOT", tmp_path)  # without a history, as an sdist is
    assert sources.tracked() == [tmp_path / "csrc" / "module.cpp"]


def test_every_page_is_there(site):
    pages = pages_of(site)
    assert {f"{page}.html" for page in PAGES} <= pages.keys()
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {str(path) for path in written} <= pages.keys()
    # Each is in the list of pages beside the first, and README.md names those that are written in docs/.
    listed = re.findall(r'class="toctree-l\d[^"]*"><a class="[^"]*" href="([^"#]*)', pages["index.html"])
    assert {f"{page}.html" for page in PAGES} - set(listed) == {"index.html"}
    readme = (ROOT / "README.md").read_text()
    own = [
        path for path in (ROOT / "docs").glob("*.md") if "{include}" not in path.read_text() and path.stem != "index"
    ]
    assert [path.name for path in own if f"(docs/{path.name}" not in readme] == []


def test_every_public_name_is_in_the_reference(site):
    lines = zlib.decompress((site.folder / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode().splitlines()
    known = {line.split(" ")[0] for line in lines if " py:" in line}
    assert sorted({*public_names(), *own_names()} - known) == []


def test_names_have_their_source(site):
    reference = "".join(text for name, text in pages_of(site).items() if name.startswith("reference/"))
    named = dict(re.findall(r'<dt class="sig[^"]*" id="([^"]*)">(.*?)</dt>', reference, re.DOTALL))
    source = re.compile(r'href="\.\./source/torch_ext/[^"]*#line-\d+"')
    without = [name for name in own_names() if not source.search(named[name])]
    assert without == []


# In a page "<" in a text is "&lt;", so that these are tags.
LINK = re.compile(r'<(?:a|img|link|script)\b[^>]*?\b(?:href|src)="([^"]*)"')
ANCHOR = re.compile(r'<[a-z][^>]*?\bid="([^"]*)"')


def leads_somewhere(link, name, anchors, folder):
    """Whether a link of the page with this name is right; one to another site, by how it is written."""
    parts = urlsplit(html.unescape(link))
    if parts.scheme:
        return parts.scheme == "https" and re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc)
    target = os.path.normpath(os.path.join(os.path.dirname(name), unquote(parts.path))) if parts.path else name
    if target in anchors:
        return not parts.fragment or unquote(parts.fragment) in anchors[target]
    return (folder / target).is_file()


def test_no_link_dangles(site):
    pages = pages_of(site)
    anchors = {name: set(ANCHOR.findall(text)) for name, text in pages.items()}
    links = {(name, link) for name, text in pages.items() for link in LINK.findall(text)}
    assert len(links) > 5000
    assert [(link, name) for name, link in links if not leads_somewhere(link, name, anchors, site.folder)] == []


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.parametrize("scheme,options", [("light", ()), ("dark", DARK)] if BROWSER else [])
def test_a_browser_shows_each_page(site, scheme, options, tmp_path):
    pages = [name for name in pages_of(site) if not name.startswith("source/")]
    pages += ["source/csrc/module.cpp.html", "source/csrc/hooks.html", "search.html?q=register_tensor_hook"]
    seen = look_at(site.folder, pages, WIDTHS, tmp_path, *options)
    assert len(seen) == len(pages) * len(WIDTHS), seen
    assert [each for each in seen if each["too_wide"] or each["cut_off"] or each["errors"] or each["broken"]] == []
    for each in seen:
        ground, text = brightness(each["ground"]), brightness(each["text"])
        assert (ground > 200 and text < 80) if scheme == "light" else (ground < 50 and text > 180), each
    for each in seen[-len(WIDTHS) :]:
        assert any("reference/hooks.html" in link for link in each["found"]), each

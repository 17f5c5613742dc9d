# SPDX-License-Identifier: BSD-3-Clause
"""The page of torch_ext.profile: well formed, self-contained, and as a browser shows it, in light and in dark."""

import html.parser
import json
import re
import subprocess
from xml.etree import ElementTree

import pytest
from harness.browser import BROWSER, DARK

import torch_ext
from torch_ext.profile import FunctionTimes, Report, Times


def times(calls=100, median=5e-6, stock_extra=1e-4):
    quantiles = tuple(median * factor for factor in (0.8, 0.9, 1, 1.2, 3))
    return Times(calls, calls * median * 1.1, calls * median, median, median * 0.1, quantiles, stock_extra)


NEVER = Times(0, 0.0, 0.0, 0.0, 0.0, (0.0,) * 5, 0.0)


def function(name="Spike", forward=None, backward=None, module="snn", file="/a/snn.py"):
    return FunctionTimes(name, module, file, 12, forward or times(), backward or times(90, 8e-6), 90, 4096)


def report(*functions, program="train.py --epochs 3"):
    return Report(2.5, 123, program, functions)


ODD = "<script>alert('x')</script> & \"quoted\" \ud800"
REPORTS = {
    "nothing": report(),
    "one": report(function()),
    "never backward": report(function(backward=NEVER)),
    "backward only": report(function(forward=NEVER)),
    "not measured": report(function(forward=times(stock_extra=None))),
    "faster on stock": report(function(forward=times(stock_extra=-9e-3))),
    "very different": report(function("Slow", times(3, 90.0)), function("Fast", times(10**9, 1e-9))),
    "many": report(*(function(f"Function{n}.of.some_length", times(100 + n)) for n in range(45))),
    "odd names": report(function(ODD, module=ODD, file=f"/x/{ODD}.py"), program=ODD),
    "long names": report(function("A" * 300, module="b" * 300), program="c" * 500),
    "no time": report(function(forward=times(1, 0.0), backward=NEVER)),
}


class Strict(html.parser.HTMLParser):
    """Fails on tags that don't match, and notes what would load something."""

    VOID = frozenset(("meta", "link", "br", "img", "input", "hr"))

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], ""

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        if tag in ("script", "link", "img", "iframe", "object") or {"src", "href"} & names.keys():
            self.loads.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("kind", REPORTS)
def test_the_page_is_well_formed_and_loads_nothing(kind, tmp_path):
    path = tmp_path / "page.html"
    REPORTS[kind].to_html(path)
    written = path.read_text(encoding="utf-8")
    parser = Strict()
    parser.feed(written)
    parser.close()
    assert parser.open == []
    assert parser.loads == []
    assert "url(" not in written
    assert "@import" not in written
    pictures = re.findall(r"<svg .*?</svg>", written, re.DOTALL)
    assert len(pictures) == (3 if REPORTS[kind].functions else 0)
    for picture in pictures:
        assert not [each for each in ElementTree.fromstring(picture).iter() if "NaN" in str(each.attrib)]
    for each in REPORTS[kind].functions:
        assert each.name.encode(errors="backslashreplace").decode() in parser.text


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="no"):
        report().to_html(tmp_path / "no" / "page.html")


# What a browser makes of the page: texts that are cut off or lie on each other, what it loaded, and its colours.
LOOK = """
<pre id="seen"></pre><script>
const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
const pictures = [...document.querySelectorAll('svg.plot')].map(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const outside = ([_, a]) => a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1;
  const over = texts.flatMap(([one, a], i) =>
    texts.slice(i + 1).filter(([_, b]) => meet(a, b)).map(([other, _]) => [one, other]));
  const bars = [...svg.querySelectorAll('rect')].filter(bar => bar.getBoundingClientRect().width > 0);
  return {outside: texts.filter(outside).map(([text]) => text), over: over, texts: texts.length, bars: bars.length};
});
const style = getComputedStyle(document.body);
const words = document.querySelector('svg.plot text:not(.dim)');
document.getElementById('seen').textContent = 'SEEN' + JSON.stringify({
  pictures: pictures,
  colours: [style.backgroundColor, style.color, getComputedStyle(words).fill],
  too_wide: document.documentElement.scrollWidth > window.innerWidth,
  loaded: performance.getEntriesByType('resource').length,
}) + 'END';
</script>
"""


def shown(path, *options, folder):
    """What a browser says of the page at ``path``, and a picture of it."""
    looked_at = path.with_name("looked_at.html")
    looked_at.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{LOOK}</body>"), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400", *options]
    own = [f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=2000", "--dump-dom", looked_at.as_uri()]
    done = subprocess.run([*command, *own], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(html.unescape(re.search("SEEN(.*?)END</pre>", done.stdout, re.DOTALL)[1]))


# Where there is no browser, what the parser above says has to do.
@pytest.mark.parametrize("kind", ["one", "many", "very different", "long names"] if BROWSER else [])
def test_a_browser_shows_the_page(kind, tmp_path):
    path = tmp_path / "page.html"
    REPORTS[kind].to_html(path)
    light, dark = (shown(path, *options, folder=tmp_path) for options in ((), DARK))
    for seen in (light, dark):
        assert [(each["outside"], each["over"]) for each in seen["pictures"]] == [([], [])] * 3
        assert all(each["bars"] > 0 and each["texts"] > 3 for each in seen["pictures"])
        assert (seen["loaded"], seen["too_wide"]) == (0, False)
    assert light["colours"] == ["rgb(255, 255, 255)", "rgb(29, 33, 39)", "rgb(29, 33, 39)"]
    assert dark["colours"] == ["rgb(21, 24, 28)", "rgb(232, 234, 237)", "rgb(232, 234, 237)"]


def test_a_record_writes_its_page(tmp_path):
    with torch_ext.profile.record(stock=False) as recorded:
        pass
    recorded.to_html(tmp_path / "page.html")
    assert "No custom Function ran" in (tmp_path / "page.html").read_text()

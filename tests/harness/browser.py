# SPDX-License-Identifier: BSD-3-Clause
"""A site in a real browser: each page in frames of some widths, and what can be seen of it there."""

import contextlib
import functools
import http.server
import json
import queue
import shutil
import subprocess
import threading

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DARK = ("--blink-settings=preferredColorScheme=0",)

# In front of each page: what it reports as an error, before any other script of it runs.
NOTE_ERRORS = """<script>
window.seenErrors = [];
for (const kind of ['error', 'warn']) console[kind] = (...words) => window.seenErrors.push(words.join(' '));
const said = event => event.message || 'not loaded: ' + event.target.src;
window.addEventListener('error', event => window.seenErrors.push(said(event)), true);
</script>"""

# Loads page after page in frames, and sends what it has seen to /seen.
LOOK = """<!doctype html><body><script>
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
async function look(page, width, search) {
  const frame = document.createElement('iframe');
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.src = page;
  await new Promise(done => { frame.onload = done; document.body.append(frame); });
  const inside = frame.contentWindow, root = inside.document.documentElement;
  const found = () => [...inside.document.querySelectorAll('#search-results li a')].map(a => a.getAttribute('href'));
  for (let i = 0; search && !found().length && i < 100; i++) await wait(50);
  await wait(20);
  const wide = [...inside.document.querySelectorAll('article *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.right > width + 1 && !element.closest('.highlight, .table-wrapper, .sig') && box.width > 0;
  });
  const seen = {
    page, width,
    too_wide: root.scrollWidth > width ? root.scrollWidth : 0,
    cut_off: wide.map(element => element.tagName + ' ' + element.textContent.slice(0, 40)),
    ground: inside.getComputedStyle(inside.document.body).backgroundColor,
    text: inside.getComputedStyle(inside.document.body).color,
    broken: [...inside.document.images].filter(image => !image.naturalWidth).map(image => image.src),
    errors: inside.seenErrors, found: search ? found() : [],
  };
  frame.remove();
  return seen;
}
(async () => {
  const asked = await (await fetch('/asked')).json(), seen = [];
  for (const page of asked.pages)
    seen.push(...await Promise.all(asked.widths.map(width => look(page, width, page.includes('?')))));
  await fetch('/seen', {method: 'POST', body: JSON.stringify(seen)});
})().catch(error => fetch('/seen', {method: 'POST', body: JSON.stringify('' + error + error.stack)}));
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site; ``asked`` and ``seen`` are set in a subclass for each look."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        file = self.translate_path(path)
        if path == "/look":
            self.answer(LOOK, "text/html")
        elif path == "/asked":
            self.answer(json.dumps(self.asked), "application/json")
        elif file.endswith(".html"):
            with open(file, encoding="utf-8") as page:
                self.answer(page.read().replace("<head>", f"<head>{NOTE_ERRORS}", 1), "text/html")
        else:
            super().do_GET()

    def do_POST(self):
        self.seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer("", "text/plain")

    def answer(self, text, kind):
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(site, asked, seen):
    """The address at which the site and the page that looks at it are served."""
    handler = type("Own", (Handler,), {"asked": asked, "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def look_at(site, pages, widths, folder, *options):
    """What a browser shows of each page in each width, as a list of dicts; a page with a query is a search."""
    seen = queue.Queue()
    with served(site, {"pages": pages, "widths": widths}, seen) as address:
        own = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--window-size=1400,1000"]
        process = subprocess.Popen([BROWSER, *own, *options, f"{address}/look"], stderr=subprocess.DEVNULL)
        try:
            return seen.get(timeout=240)
        finally:
            process.terminate()
            process.wait()

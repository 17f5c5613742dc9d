# SPDX-License-Identifier: BSD-3-Clause
"""What importing torch_ext does and leaves to later: counted, since times depend on the machine."""

import json
import os
import pickle
import pkgutil
import subprocess
import sys

import pytest

from torch_ext import anomaly
from torch_ext._build import config, loader, stamp

# What a program needs in order to call Functions. Whoever adds a module here adds to the import of every program.
LOADED = {
    "torch_ext",
    "torch_ext._C",
    "torch_ext._build",
    "torch_ext._build.cache",
    "torch_ext._build.config",
    "torch_ext._build.loader",
    "torch_ext._build.stamp",
    "torch_ext._compat",
    "torch_ext._frame",
    "torch_ext._install",
    "torch_ext._public",
    "torch_ext.anomaly",
    "torch_ext.anomaly.regions",
    "torch_ext.anomaly.traceback",
    "torch_ext.function",
    "torch_ext.hooks",
    "torch_ext.tracer",
}

IMPORTING = """
import dataclasses, json, sys
import torch
before, made = set(sys.modules), []
process = dataclasses._process_class
dataclasses._process_class = lambda cls, *args, **named: made.append(cls.__qualname__) or process(cls, *args, **named)
import torch_ext
added, made_by_import = set(sys.modules) - before, [*made]
failures = [sys.modules.get("torch_ext.anomaly.failures") is not None]
def look(call):
    call()
    failures.append(sys.modules.get("torch_ext.anomaly.failures") is not None)
look(torch_ext.install)
look(torch_ext.uninstall)
look(lambda: torch_ext.set_detect_anomaly(False))
look(lambda: torch_ext.set_detect_anomaly(True))
look(lambda: torch_ext.set_detect_anomaly(False))
print(json.dumps([sorted(added), made_by_import, failures]))
"""


def run(code):
    """What ``code`` prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def imported():
    return json.loads(run(IMPORTING)[0])


def test_importing_loads_what_every_program_needs(imported):
    added, made, _ = imported
    assert {name for name in added if name.startswith("torch_ext")} == LOADED
    # Thousands of settings, and a parser, that torch doesn't load.
    assert not {"sysconfig", "shlex"} & set(added)
    assert made == []


def test_reports_are_made_ready_when_the_mode_begins(imported):
    failures = imported[-1]
    assert failures == [False, False, False, False, True, True]


# --- What is loaded later is there all the same ---------------------------------------------------


@pytest.mark.parametrize("name", sorted(anomaly._LOADED_LATER))
def test_a_module_that_is_loaded_later_is_an_attribute(name):
    assert getattr(anomaly, name) is sys.modules[f"torch_ext.anomaly.{name}"]
    assert name in dir(anomaly)


def test_all_modules_of_a_report_are_loaded_later():
    there = {info.name for info in pkgutil.iter_modules(anomaly.__path__)}
    assert set(anomaly._LOADED_LATER) | {"regions", "traceback"} == there


def test_the_last_report_is_the_function_of_report():
    from torch_ext.anomaly import last_report, report

    assert last_report is anomaly.last_report is report.last_report
    assert pickle.loads(pickle.dumps(last_report)) is last_report
    assert {"detect_anomaly", "last_report", "set_detect_anomaly"} <= set(dir(anomaly))
    names = {}
    exec("from torch_ext.anomaly import *", names)
    assert {name for name in names if name != "__builtins__"} == set(anomaly.__all__)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'torch_ext\.anomaly' has no attribute 'reports'$"):
        _ = anomaly.reports


FIRST = """
import os, sys, torch, torch_ext
for code in {codes!r}:
    process = os.fork()
    if process == 0:
        assert "torch_ext.anomaly.report" not in sys.modules
        exec(code)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        print(code)
"""


def test_any_way_may_be_the_first():
    codes = [
        "assert torch_ext.anomaly.last_report() is None",
        "import torch_ext.anomaly.report; from torch_ext.anomaly import report",
        "from torch_ext.anomaly import last_report; assert last_report() is None",
        "from torch_ext.anomaly import *; assert last_report() is None",
        "import torch_ext.graph; assert torch_ext.graph.explain",
        "with torch_ext.graph.noting(): assert 'torch_ext.anomaly.failures' in sys.modules",
    ]
    assert run(FIRST.format(codes=codes))[0] == ""


# torch's own mode tells nobody that it begins.
IN_TORCHS_MODE = """
import sys, torch, torch_ext
torch_ext.install()
seen = []

class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        seen.append("torch_ext.anomaly.failures" in sys.modules)
        {fault}

x = torch.ones(1, requires_grad=True)
Bad.apply(x)  # without the mode
assert "torch_ext.anomaly.failures" not in sys.modules
with torch.autograd.set_detect_anomaly(True):
    y = Bad.apply(x)
    assert "torch_ext.anomaly.failures" not in sys.modules
    {before}
    try:
        y.backward()
    except {error} as error:
        print(type(error).__name__, seen, torch_ext.anomaly.last_report() is not None)
"""


INTERRUPTED = """class Stop:
        def find_spec(self, name, path=None, target=None):
            sys.meta_path.remove(stop)
            raise KeyboardInterrupt
    stop = Stop()
    sys.meta_path.insert(0, stop)"""


@pytest.mark.parametrize(
    "fault, error, before, printed",
    [
        ("raise ValueError", "ValueError", "", "ValueError [True] True\n"),
        # The import would fail there.
        (
            "f = lambda: f()\n        f()",
            "RecursionError",
            "",
            "RecursionError [True] True\n",
        ),
        # Ctrl+C while the import runs, before the backward does: it is not lost.
        (
            "return grad",
            "KeyboardInterrupt",
            INTERRUPTED,
            "KeyboardInterrupt [] False\n",
        ),
    ],
    ids=["error", "recursion", "interrupted"],
)
def test_in_torchs_mode_reports_are_made_ready_before_backward_runs(fault, error, before, printed):
    assert run(IN_TORCHS_MODE.format(fault=fault, error=error, before=before))[0] == printed


def test_a_report_that_cannot_be_loaded_hides_no_failure():
    before = "sys.modules['torch_ext.anomaly.failures'] = None"
    code = IN_TORCHS_MODE.format(fault="raise ValueError", error="ValueError", before=before)
    output, errors = run(code)
    assert output == "ValueError [True] False\n"
    assert "import of torch_ext.anomaly.failures halted" in errors


def test_in_a_zip_archive_there_is_no_extension(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "PACKAGE_FOLDER", tmp_path / "archive.zip" / "torch_ext")
    assert loader.candidates(stamp.installed_torch()) == []
    assert "none at all" in loader._nothing_built()


# --- Sources that nobody has touched are not read -------------------------------------------------


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Sources that were written long ago, as far as their state can tell."""
    monkeypatch.setattr(config, "_TICK_NS", -(10**18))
    (tmp_path / "csrc/hooks").mkdir(parents=True)
    for name in ("module.cpp", "compat.h", "hooks/hook.cpp"):
        (tmp_path / "csrc" / name).write_text(f"// {name}")
    return tmp_path / "csrc"


def with_the_times_of_before(path, text):
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def written(csrc):
    (csrc / "compat.h").write_text("// compat.h, longer")


def written_with_size_and_mtime_kept(csrc):
    with_the_times_of_before(csrc / "compat.h", "// COMPAT.H")


def replaced_with_size_and_mtime_kept(csrc):
    other = csrc.parent / "other"
    other.write_text("// COMPAT.H")
    before = (csrc / "compat.h").stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(csrc / "compat.h")


def in_a_folder(csrc):
    with_the_times_of_before(csrc / "hooks/hook.cpp", "// HOOKS/HOOK.CPP")


def added(csrc):
    (csrc / "hooks/other.h").write_text("")


def removed(csrc):
    (csrc / "compat.h").unlink()


def renamed(csrc):
    (csrc / "compat.h").rename(csrc / "COMPAT.h")


def touched(csrc):
    (csrc / "compat.h").touch()


CHANGES = [
    written,
    written_with_size_and_mtime_kept,
    replaced_with_size_and_mtime_kept,
    in_a_folder,
    added,
    removed,
    renamed,
    touched,
]


def stamp_of(csrc):
    return {"state": config.source_state(csrc), "sources": config.source_digest(csrc)}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(sources, change):
    before = stamp_of(sources)
    change(sources)
    assert config.source_state(sources) != before["state"]
    assert stamp.source_digest(sources, [before]) == config.source_digest(sources)


def test_other_flags_are_seen(sources, monkeypatch):
    before = stamp_of(sources)
    monkeypatch.setenv("TORCH_EXT_CFLAGS", "-O1 '-DNAME=two words'")
    assert config.compile_flags()[-2:] == ["-O1", "-DNAME=two words"]
    assert stamp.source_digest(sources, [before]) == config.source_digest(sources) != before["sources"]


@pytest.mark.parametrize("state", ["the same", "another file", "nobody knows"])
def test_sources_are_read_if_their_state_is_not_known(sources, state, monkeypatch):
    known = stamp_of(sources)
    monkeypatch.setattr(config, "source_digest", lambda csrc: "read")
    if state == "another file":
        (sources / "README.md").write_text("no source")
    if state == "nobody knows":
        known["state"] = None
    expected = "read" if state == "nobody knows" else known["sources"]
    assert stamp.source_digest(sources, [{}, {"state": "of others", "sources": "other"}, known]) == expected


def test_the_state_of_what_was_written_just_now_says_nothing(sources, monkeypatch):
    youngest = max(path.stat().st_ctime_ns for path in sources.rglob("*.*"))
    monkeypatch.setattr(config, "_TICK_NS", 2_000_000_000)
    for age, known in (0, False), (1_900_000_000, False), (2_100_000_000, True), (-5_000_000_000, False):
        monkeypatch.setattr(config.time, "time_ns", lambda age=age: youngest + age)
        assert (config.source_state(sources) is not None) is known
    # Two that know nothing are not the same.
    assert stamp.source_digest(sources, [{"state": None, "sources": "wrong"}]) == config.source_digest(sources)


AUDITED = """
import sys
opened = []
def audit(event, arguments):
    if event == "open" and str(arguments[0]).endswith((".cpp", ".h")):
        opened.append(arguments[0])
import torch
sys.addaudithook(audit)
import torch_ext
print(torch_ext._C.answer, len(opened))
"""


@pytest.mark.parametrize("where", ["beside the package", "in the cache"])
def test_no_source_is_read_while_nobody_touches_them(checkout, where, monkeypatch):
    if where == "in the cache":
        checkout.run()
        (extension,) = checkout.cache.glob("*.so")
    else:
        extension = checkout.build_in_place()
    monkeypatch.setattr(config, "_TICK_NS", -(10**18))
    path = stamp.stamp_path(extension)
    known = {**json.loads(path.read_text()), "state": config.source_state(checkout.root / "csrc")}
    path.write_text(json.dumps(known))
    assert checkout.run(AUDITED, TORCH_EXT_CACHE=str(checkout.cache)) == ("42 0\n", "")

    known["state"] = None
    path.write_text(json.dumps(known))
    assert checkout.run(AUDITED) == ("42 2\n", "")

    known["state"] = config.source_state(checkout.root / "csrc")
    path.write_text(json.dumps(known))
    before = (checkout.root / "csrc/compat.h").stat()
    checkout.set_answer(43)
    os.utime(checkout.root / "csrc/compat.h", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert checkout.run()[0] == "43\n"

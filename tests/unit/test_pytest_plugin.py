# SPDX-License-Identifier: BSD-3-Clause
"""The pytest plugin: a user's own tests on torch_ext, and on stock torch and torch_ext."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import torch_ext

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/testing.md").read_text()

# What the tests of each run begin with.
BEGINNING = """
import random
import unittest
import warnings

import numpy
import pytest
import torch

from functions import Square, is_ours, ours
"""

FUNCTIONS = """
import torch

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad

def is_ours(apply):
    '''Whether ``apply`` runs on torch_ext.'''
    from torch_ext import _C
    x = torch.ones(2, requires_grad=True)
    y = apply(x)
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]
    return isinstance(y.grad_fn, _C.Ctx)

def ours():
    return is_ours(Square.apply)
"""


@pytest.fixture
def own_plugins(tmp_path_factory):
    """A folder that makes pytest find the plugin by its entry point, as where torch_ext is installed."""
    folder = tmp_path_factory.mktemp("installed")
    entry = re.search(r"\[project\.entry-points\.pytest11\]\n(.*)\n", (ROOT / "pyproject.toml").read_text())
    about = folder / "torch_ext-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: torch_ext\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[pytest11]\n{entry[1].replace(chr(34), '')}\n")
    packages = [f"{name}/__init__.py,,\n" for name in ("torch_ext", "torch_ext_cli")]
    (about / "RECORD").write_text("".join(packages))
    return folder


@pytest.fixture
def suite(pytester, own_plugins, monkeypatch):
    """Runs ``pytest`` with options over a text of tests."""
    monkeypatch.syspath_prepend(own_plugins)
    monkeypatch.setenv("PYTHONPATH", f"{own_plugins}:{ROOT}")
    # What changes what pytest prints: in a CI it abbreviates nothing.
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(functions=FUNCTIONS)

    def run(text, *options, other_process=False, **files):
        pytester.makepyfile(test_it=BEGINNING + textwrap.dedent(text), **files)
        method = pytester.runpytest_subprocess if other_process else pytester.runpytest_inprocess
        # The plugins that run these tests stay out of theirs, but for those that are asked for.
        quick = ("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
        return method(*quick, "-o", "asyncio_default_fixture_loop_scope=function", *options)

    return run


def summary(result):
    """What the run's last section on torch_ext says."""
    lines = result.outlines
    start = next(index for index, line in enumerate(lines) if re.fullmatch("=+ torch_ext =+", line))
    end = next(index for index, line in enumerate(lines) if index > start and line.startswith("="))
    return [line for line in lines[start + 1 : end] if line]


def said(compared, different=(), unsteady=()):
    """What it says if this came of the tests."""
    lines = [f"compared on stock torch and on torch_ext: {compared}; different: {len(different)}"]
    lines += [f"  test_it.py::{name}" for name in different]
    if unsteady:
        lines.append(f"not compared, since run again on stock torch they end otherwise: {len(unsteady)}")
    return lines + [f"  test_it.py::{name}" for name in unsteady]


# --- Whatever pytest runs ---------------------------------------------------------------------------

# Each passes on torch_ext alone: what it is run on is taken from where the test is.
KINDS = {
    "function": "def test_it(): assert ours()",
    "parameters": "@pytest.mark.parametrize('n', [1, 2])\ndef test_it(n): assert ours()",
    "a bound apply as a parameter": "@pytest.mark.parametrize('f', [Square.apply])\ndef test_it(f): assert is_ours(f)",
    "class": "class TestIt:\n    def setup_method(self): assert ours()\n    def test_it(self): assert ours()",
    "unittest": """
        class TestIt(unittest.TestCase):
            def setUp(self): assert ours()
            def tearDown(self): assert ours()
            def test_it(self): assert ours()
    """,
    "asyncio": "@pytest.mark.asyncio\nasync def test_it(): assert ours()",
    "unittest, asyncio": """
        class TestIt(unittest.IsolatedAsyncioTestCase):
            async def test_it(self): assert ours()
    """,
    "fixture": """
        @pytest.fixture
        def value():
            assert ours()
            yield ours()
            assert ours()
        def test_it(value): assert value
    """,
    "fixture with parameters": """
        @pytest.fixture(params=[1, 2])
        def value(request): return ours()
        def test_it(value): assert value
    """,
    "asyncio fixture": """
        import pytest_asyncio
        @pytest_asyncio.fixture
        async def value(): return ours()
        @pytest.mark.asyncio
        async def test_it(value): assert value
    """,
    "a name in the module": "square = Square.apply\ndef test_it(): assert is_ours(square)",
    "a name in a class": "class Layer:\n    act = Square.apply\ndef test_it(): assert is_ours(Layer().act)",
    "doctest": "def f():\n    '''\n    >>> from functions import ours\n    >>> ours()\n    True\n    '''",
    "doctest, fixture": "def f():\n    '''\n    >>> _ = getfixture('recwarn')\n    >>> ours()\n    True\n    '''",
}


@pytest.fixture(scope="module")
def kinds_text():
    """A text with a test of each kind."""
    parts = []
    for index, text in enumerate(KINDS.values()):
        part = textwrap.dedent(text)
        for name in ("test_it", "TestIt", "value", "Layer", "square"):
            part = re.sub(rf"(?<![.\w]){name}\b(?!\(self)", f"{name}_{index}", part)
        parts.append(re.sub(r"\bf\(\):", f"f_{index}():", part))
    return "\n".join(parts)


def test_every_kind_of_test_runs_on_torch_ext(suite, kinds_text):
    result = suite(kinds_text, "--torch-ext", "--doctest-modules")
    result.assert_outcomes(passed=len(KINDS) + 2)
    assert result.outlines.count(f"torch_ext {torch_ext.__version__}: every custom Function runs on it") == 1
    assert not torch_ext.is_installed()


def test_every_kind_of_test_is_compared(suite, kinds_text):
    result = suite(kinds_text, "--torch-ext=compare", "--doctest-modules", "-rA")
    failed = len(KINDS) + 2
    result.assert_outcomes(failed=failed)
    assert summary(result)[0] == said(failed, range(failed))[0]
    assert not torch_ext.is_installed()


def test_imports_before_the_first_test_run_on_torch_ext(suite):
    text = "import conftest\nmade_here = ours()\ndef test_it(): assert made_here and conftest.made_there"
    result = suite(text, "--torch-ext", conftest="from functions import ours\nmade_there = ours()")
    result.assert_outcomes(passed=1)


# --- What an outcome is -----------------------------------------------------------------------------

# Ends alike on both.
ALIKE = """
    from torch_ext import is_installed

    def test_passes(): assert Square.apply(torch.ones(1)) == 1
    def test_skips(): pytest.skip("not here")
    @pytest.mark.skip
    def test_skipped(): pass
    @pytest.mark.xfail
    def test_xfails(): assert not object()
    def test_xfails_meanwhile(request):
        request.node.add_marker(pytest.mark.xfail(reason="known"))
        assert 0
    @pytest.mark.xfail
    def test_xpasses(): pass
    @pytest.mark.xfail(strict=True)
    def test_xpasses_strictly(): pass
    def test_fails(): assert 1 == 2
    def test_says_addresses(): assert not object(), (id(object()), object())
    def test_says_its_folder(tmp_path): raise ValueError(tmp_path)
    def test_draws(): assert not torch.rand(1), (random.random(), numpy.random.rand())
    def test_prints(): print(is_installed())
    def test_warns(): warnings.warn("careful")
    def test_records(record_property): record_property("a", is_installed())
    @pytest.fixture
    def bad(): raise OSError("no setup")
    def test_without_fixture(bad): pass
    @pytest.fixture
    def bad_end():
        yield
        raise OSError("no end")
    def test_bad_end(bad_end): pass
    def test_without_any(missing): pass
    class TestUnit(unittest.TestCase):
        def test_fails(self): self.assertEqual(1, 2)
        @unittest.expectedFailure
        def test_xfails(self): assert 0
        @unittest.skip("not here")
        def test_skips(self): assert 0
        def test_parts(self):
            for n in (0, 1):
                with self.subTest(n=n):
                    assert n
    def test_parts(subtests):
        for n in (0, 1):
            with subtests.test(n=n):
                assert n
"""


def test_what_ends_alike_is_as_without_the_plugin(suite):
    plain, compared = suite(ALIKE, "-rA"), suite(ALIKE, "--torch-ext=compare", "-rA")
    outcomes = plain.parseoutcomes()
    assert compared.parseoutcomes() == outcomes
    assert min(outcomes[each] for each in ("failed", "passed", "skipped", "xfailed", "xpassed", "errors")) > 0
    count = ALIKE.count("def test_")
    assert summary(compared) == said(count)
    text = compared.stdout.str()
    own = text.count("This test fails alike on stock torch and on torch_ext: the failure is its own.")
    subtests = text.count("SUBFAILED") + text.count("contains 1 failed subtest") // 2
    assert own == outcomes["failed"] + outcomes["errors"] - subtests
    assert text.count("UserWarning: careful") == plain.stdout.str().count("UserWarning: careful") == 1


DIFFERENT = {
    "result": ("def test_it(): assert not ours()", "passed", "AssertionError"),
    "skipped": ("def test_it():\n    if ours(): pytest.skip('not here')", "passed", "Skipped: not here"),
    "xfail": ("@pytest.mark.xfail\ndef test_it(): assert not ours()", "xpassed", "xfailed"),
    "type": ("def test_it(): raise (KeyError if ours() else ValueError)('a')", "ValueError: a", "KeyError: 'a'"),
    "message": ("def test_it(): raise ValueError(ours())", "ValueError: False", "ValueError: True"),
    "category": ("def test_it(): warnings.warn('a', FutureWarning if ours() else UserWarning)", "User", "Future"),
    "warning": ("def test_it():\n    if ours(): warnings.warn('careful')", "none", "UserWarning: careful"),
    "setup": ("@pytest.fixture\ndef a(): assert not ours()\ndef test_it(a): pass", "setup     passed", "failed"),
    "setup of stock": ("@pytest.fixture\ndef a(): assert ours()\ndef test_it(a): pass", "setup     failed", "passed"),
    "teardown": (
        "@pytest.fixture\ndef a():\n    yield\n    assert not ours()\ndef test_it(a): 0",
        "teardown",
        "failed",
    ),
    "subtest": (
        "def test_it(subtests):\n    with subtests.test():\n        assert not ours()",
        "call      passed",
        "failed",
    ),
    "doctest": (
        "def test_it(): 0\ndef f():\n    '''\n    >>> from functions import ours\n    >>> ours()\n    False\n    '''",
        "passed",
        "True",
    ),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_difference(suite, kind):
    text, stock, ours = DIFFERENT[kind]
    result = suite(text, "--torch-ext=compare", "--doctest-modules")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1, passed=int(kind == "doctest"))
    start = result.outlines.index("The outcome differs between stock torch and torch_ext:")
    table = result.outlines[start + 2 :]
    table = table[: next(index for index, line in enumerate(table) if not line or line.startswith("="))]
    assert table[0].split() == ["stock", "torch", "torch_ext"]
    assert any(stock in line[:44] for line in table)
    assert any(ours in line[44:] for line in table)
    assert max(map(len, table)) < 80
    assert "differs between stock torch and torch_ext" in next(each for each in result.outlines if "FAILED " in each)
    assert summary(result)[0].endswith("different: 1")


def test_difference_shows_what_was_printed_and_where(suite):
    result = suite("def test_it():\n    print('before', ours())\n    assert not ours()", "--torch-ext=compare")
    result.stdout.fnmatch_lines(
        [
            "On torch_ext, call:",
            ">       assert not ours()",
            "*Captured stdout call (on stock torch)*",
            "before False",
            "*Captured stdout call (on torch_ext)*",
            "before True",
        ]
    )


@pytest.mark.parametrize("end", ["", "def test_more(): pass"], ids=["the module's last", "others follow"])
def test_what_cannot_be_run_twice_is_not_compared(suite, end):
    text = f"""
        from torch_ext import is_installed
        seen, torn_down = [], []

        @pytest.fixture(scope="module")
        def shared():
            yield seen
            torn_down.append(1)
            assert torn_down == [1]

        def test_it(shared):
            shared.append(1)
            assert len(shared) == 1
        {end}
    """
    result = suite(text, "--torch-ext=compare")
    result.assert_outcomes(passed=1 + bool(end))
    assert summary(result) == said(int(bool(end)), unsteady=["test_it"])


def test_wider_fixtures_are_shared_and_ended_once(suite):
    text = """
        events = []
        def fixture_of(scope):
            @pytest.fixture(scope=scope)
            def fixture():
                events.append(scope)
                yield len(events)
                events.append(f"end of {scope}")
            return fixture
        of_session, of_module, of_class, of_test = map(fixture_of, ("session", "module", "class", "function"))

        class TestIt:
            @classmethod
            def setup_class(cls): events.append("setup_class")
            def test_it(self, of_session, of_module, of_class, of_test): pass
        def test_after():
            assert events == ["session", "module", "class", "setup_class", "function", "end of function",
                              "function", "end of function", "end of class"]
    """
    result = suite(text.replace('"class", "setup_class"', '"setup_class", "class"'), "--torch-ext=compare")
    result.assert_outcomes(passed=2)


# --- Options ----------------------------------------------------------------------------------------


def test_marked_tests_run_on_stock_torch(suite):
    text = """
        square = Square.apply
        @pytest.mark.torch_ext_stock
        def test_it(): assert not ours() and not is_ours(square)
        @pytest.mark.torch_ext_stock
        class TestIt(unittest.TestCase):
            def test_it(self): assert not ours()
        def test_after(): assert ours() and is_ours(square)
    """
    suite(text, "--torch-ext", "--strict-markers").assert_outcomes(passed=3)
    result = suite(text.replace("assert ours() and", "ours() and"), "--torch-ext=compare")
    result.assert_outcomes(passed=3)
    assert summary(result) == said(1)
    suite(text.replace("assert ours() and", "ours() and"), "--strict-markers").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "configured, options, expected",
    [
        ("on", (), "passed"),
        ("compare", (), "failed"),
        ("compare", ("--torch-ext",), "passed"),
        ("compare", ("--torch-ext=on",), "passed"),
        ("on", ("--torch-ext=off",), "stock"),
        ("off", (), "stock"),
        ("on", ("--torch-ext=off", "--torch-ext=on"), "passed"),
        ("off", ("--torch-ext", "."), "passed"),
    ],
)
def test_configuration_and_options(suite, pytester, configured, options, expected):
    pytester.makeini(f"[pytest]\ntorch_ext = {configured}\n")
    text = "def test_it(): assert not ours()" if expected == "stock" else "def test_it(): assert ours()"
    suite(text, *options).assert_outcomes(**{"passed" if expected == "stock" else expected: 1})


def test_wrong_mode(suite, pytester):
    result = suite("", "--torch-ext=often")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*argument --torch-ext*'often'*"])
    pytester.makeini("[pytest]\ntorch_ext = often\n")
    result = suite("", "--co")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    line = "ERROR: torch_ext in pytest's configuration is one of on, compare, off, got 'often'"
    assert [each for each in result.errlines if each] == [line]


def test_stops_at_the_first_failure(suite):
    text = "def test_a(): assert not ours()\ndef test_b(): pass"
    result = suite(text, "--torch-ext=compare", "-x")
    result.assert_outcomes(failed=1)


def test_last_failed(suite):
    text = "def test_a(): assert not ours()\ndef test_b(): pass"
    suite(text, "--torch-ext=compare", "-p", "cacheprovider").assert_outcomes(failed=1, passed=1)
    result = suite(text, "--torch-ext=compare", "-p", "cacheprovider", "--lf")
    result.assert_outcomes(failed=1, deselected=0)
    assert summary(result) == said(1, ["test_a"])


def test_runs_again_are_pairs(suite):
    text = """
        runs = []
        @pytest.mark.flaky(reruns=3)
        def test_it():
            runs.append(ours())
            assert runs.count(True) >= 2 or not runs[-1]
        def test_after(): assert runs[:5] == [False, True, False, False, True]
    """
    result = suite(text, "--torch-ext=compare", "-p", "rerunfailures")
    assert result.parseoutcomes() == {"passed": 2, "rerun": 1}
    assert summary(result) == said(2)


def test_debugger_says_which_run_it_is_in(suite):
    debugger = """
        class Debugger:
            def __init__(self, **options): pass
            def interaction(self, frame, error): print("asked for", file=__import__("sys").__stdout__, flush=True)
            def __getattr__(self, name): return lambda *args, **kwargs: None
    """
    options = ("--torch-ext=compare", "--pdb", "--pdbcls=debugger:Debugger", "-s")
    result = suite("def test_it(): assert not ours()", *options, debugger=textwrap.dedent(debugger))
    result.stdout.fnmatch_lines(["torch_ext: this is the run on torch_ext"])
    result.stdout.no_fnmatch_line("*this is the run on stock torch*")


def test_several_processes(suite):
    text = """
        @pytest.mark.parametrize("n", range(4))
        def test_it(n):
            assert n or not ours()
    """
    result = suite(text, "--torch-ext=compare", "-n2", other_process=True)
    result.assert_outcomes(failed=1, passed=3)
    assert summary(result) == said(4, ["test_it[0]"])
    suite("def test_it(): assert ours()", "--torch-ext", "-n1", other_process=True).assert_outcomes(passed=1)


def test_somebody_elses_apply_is_an_error_of_the_next_test(suite):
    text = """
        kept = vars(torch.autograd.Function)["apply"]
        def test_a(): torch.autograd.Function.apply = classmethod(lambda cls, *args: None)
        def test_b(): pass
        @pytest.mark.torch_ext_stock
        def test_c(): pass
        def teardown_module(): torch.autograd.Function.apply = kept
    """
    result = suite(text, "--torch-ext")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*RuntimeError: install() would replace torch.autograd.Function.apply*"])


# --- The page ---------------------------------------------------------------------------------------


def test_the_page_shows_what_is_printed(suite, pytester):
    (text,) = re.findall(r"```python\n(import pytest.*?)```", PAGE, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
    pytester.makepyfile(test_square=text)
    result = suite("", "--torch-ext=compare", "-q")
    printed = re.sub(r"\d+\.\d+s", "...s", "\n".join(result.outlines))
    assert re.sub(r"0x\w+", "0x...", printed) == shown


# --- Without the options ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--torch-ext=off",)], ids=["absent", "off"])
def test_nothing_is_loaded(pytester, own_plugins, options):
    pytester.makepyfile(
        "import sys, json\ndef test_it(pytestconfig):\n    assert pytestconfig.pluginmanager.has_plugin('torch_ext')\n"
        "    print(json.dumps(sorted(each for each in sys.modules if each.startswith('torch'))))"
    )
    result = run_python(pytester, own_plugins, "-m", "pytest", "-s", "-q", "-p", "no:randomly", *options)
    assert result.returncode == 0, result.stdout
    assert json.loads(result.stdout[: result.stdout.index("]") + 1]) == ["torch_ext_cli", "torch_ext_cli.pytest_plugin"]


def test_pytest_does_not_warn_of_what_is_imported_already(pytester, own_plugins):
    pytester.makepyfile("def test_it(): pass")
    program = "import torch_ext, torch_ext_cli, pytest; pytest.main(['-p', 'no:asyncio'])"
    result = run_python(pytester, own_plugins, "-c", program)
    assert "1 passed in" in result.stdout
    assert "rewritten" not in result.stdout


def test_plugin_can_be_left_out(suite):
    result = suite("", "-p", "no:torch_ext", "--torch-ext")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --torch-ext"])


def test_torch_ext_that_does_not_load_is_one_line(pytester, own_plugins):
    (own_plugins / "torch.py").write_text("raise ImportError('no torch here')")
    result = run_python(pytester, own_plugins, "-m", "pytest", "--torch-ext")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.splitlines() if line] == ["ERROR: --torch-ext: no torch here"]


def run_python(pytester, own_plugins, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=pytester.path,
        env={"PYTHONPATH": f"{own_plugins}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

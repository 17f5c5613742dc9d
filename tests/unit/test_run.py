# SPDX-License-Identifier: BSD-3-Clause
"""torch-ext run: the program sees what it sees under python, and it runs on torch_ext, its children too."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = (Path(__file__).parent / "probe_program.py").read_text()
# What torch-ext run puts into the environment, and what would change what is compared.
OWN = ("TORCH_EXT", "TORCH_EXT_RUN", "TORCH_EXT_ALONE", "PYTHONSAFEPATH", "PYTHONWARNINGS", "RANK", "WORLD_SIZE")


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in OWN}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


def run(*command, cwd, stdin="", env=None):
    """The finished process: its status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        input=stdin,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def both(options, program, cwd, **more):
    """What `python` does with a program, and what `torch-ext run` does."""
    return (
        run(*options, *program, cwd=cwd, **more),
        run(*options, "-m", "torch_ext", "run", *program, cwd=cwd, **more),
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with programs of all forms."""
    folder = tmp_path_factory.mktemp("programs")

    def write(name, text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("probe.py", PROBE)
    write("sub/probe.py", PROBE)
    write("package/__init__.py", "")
    write("package/near.py", "value = 7\n")
    write("package/__main__.py", f"from .near import value\n{PROBE}")
    write("package/module.py", f"from .near import value\n{PROBE}")
    write("folder/__main__.py", PROBE)
    with zipfile.ZipFile(folder / "program.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    write("customized/sitecustomize.py", "import builtins\nbuiltins.customized = True\n")
    write("wrong.py", "print('a'\n")
    for name, text in ENDS.items():
        write(f"ends/{name}.py", text)
    write("debugged.py", "x = 1\nbreakpoint()\nx = 2\nprint(x)\n")
    write("children.py", CHILDREN)
    write("function.py", FUNCTION)
    return folder


# --- What the program sees --------------------------------------------------------------------------

PROGRAMS = {
    "a script": ((), ("probe.py",), {}),
    "its arguments": ((), ("probe.py", "a", "--report", "-m", "--", "--help"), {}),
    "a script elsewhere": ((), ("sub/probe.py",), {}),
    "a module": ((), ("-m", "probe", "--json", "x"), {}),
    "a module in one word": ((), ("-mprobe", "--report"), {}),
    "a module with relative imports": ((), ("-m", "package.module"), {}),
    "a package": ((), ("-m", "package"), {}),
    "code": ((), ("-c", PROBE.replace("__file__", "0"), "--html", "x"), {}),
    "stdin": ((), ("-", "x"), {"stdin": PROBE.replace("__file__", "0")}),
    "a folder": ((), ("folder",), {}),
    "a zip file": ((), ("program.zip", "x"), {}),
    "options of python": (("-O", "-B", "-W", "error::FutureWarning", "-X", "dev", "-Xutf8=0"), ("probe.py",), {}),
    "options and a module": (("-Bb", "-X", "m"), ("-m", "probe"), {}),
    "a safe path": ((), ("probe.py",), {"env": {"PYTHONSAFEPATH": "1"}}),
    "no PYTHONPATH but ours": ((), ("probe.py",), {"env": {"PYTHONPATH": f"{ROOT}{os.pathsep}"}}),
    "a sitecustomize": ((), ("probe.py",), {"env": {"PYTHONPATH": f"customized{os.pathsep}{ROOT}"}}),
    "no such script": ((), ("nothing.py",), {}),
    "no such module": ((), ("-m", "nothing"), {}),
    "a wrong program": ((), ("wrong.py",), {}),
    "in the debugger": ((), ("debugged.py",), {"stdin": "p x\nwhere\nnext\np x\nquit\n"}),
    "under the debugger": ((), ("-m", "pdb", "debugged.py"), {"stdin": "where\nnext\nquit\n"}),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_program_sees_what_it_sees_under_python(programs, kind):
    options, program, more = PROGRAMS[kind]
    plain, ours = both(options, program, programs, **more)
    assert ours == plain
    assert plain[0] == 0 or kind.startswith(("no such", "a wrong", "in the"))


# --- How it ends ------------------------------------------------------------------------------------

ENDS = {
    "with_nothing": "print(1)\n",
    "with_a_status": "import sys\nsys.exit(3)\n",
    "with_a_large_status": "raise SystemExit(256 + 5)\n",
    "with_none": "import sys\nsys.exit(None)\n",
    "with_a_text": "import sys\nsys.exit('no data')\n",
    "with_an_object": "raise SystemExit({'a': 1})\n",
    "with_an_exception": "def f():\n    raise ValueError('x')\nf()\n",
    "with_a_group": "raise SystemExit() from ValueError()\n",
    "with_an_exception_in_a_thread": "import threading\nthreading.Thread(target=lambda: 1 / 0).start()\n",
    "with_threads": (
        "import atexit, threading, time\natexit.register(print, 'atexit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('main')\n"
    ),
    "with_daemons": "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()\n",
    "with_a_hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[1])\n1 / 0\n",
    "at_once": "import os\nprint(1, flush=True)\nos._exit(7)\n",
    "by_abort": "import os\nos.abort()\n",
    "by_a_signal": "import os, signal\nprint(1, flush=True)\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "by_an_interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(60)\n",
    "with_garbage": "class A:\n    def __del__(self):\n        print('gone')\na = A()\na.a = a\n",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_program_ends_as_under_python(programs, end):
    plain, ours = both((), (f"ends/{end}.py",), programs)
    strip = ("object at 0x", "Thread-")
    assert ours[:2] == plain[:2]
    assert ours[2] == plain[2] or any(word in plain[2] for word in strip)
    assert "torch_ext" not in ours[2]


def test_a_signal_that_is_sent_reaches_the_program(programs):
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nprint(1, flush=True)\n"
    # Many short ones: Python sees a signal late that comes just before it begins to sleep.
    command = [sys.executable, "-m", "torch_ext", "run", "-c", f"{code}while True: time.sleep(0.01)"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 9


# --- That it runs on torch_ext ----------------------------------------------------------------------

FUNCTION = """
import sys
import torch
import torch_ext

class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad

x = torch.ones(2, requires_grad=True)
y = Double.apply(x)
y.sum().backward()
print(isinstance(y.grad_fn, torch_ext._C.Ctx), torch_ext.is_installed(), x.grad.tolist())
print([type(each).__name__ for each in sys.meta_path if type(each).__module__.startswith("torch_ext")])
print(type(torch.__loader__).__name__, type(torch.__spec__.loader).__name__, vars(torch.__loader__).keys())
"""

# One process after the other, since each imports torch: a row says how it was started and what it is.
CHILDREN = """
import multiprocessing, subprocess, sys

class OfMain:
    pass

def look(name, queue):
    import __main__
    import torch
    import torch_ext
    main = sys.modules["__main__"]
    queue.put((name, torch_ext.is_installed(), main.__name__, main.__spec__ is None, main.OfMain is OfMain, OfMain()))

CODE = "import torch_ext; print('subprocess', torch_ext.is_installed())"

if __name__ == "__main__":
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=look, args=(method, queue))
        process.start()
        *row, other = queue.get()
        process.join()
        print(*row, type(other) is OfMain, process.exitcode, flush=True)
    subprocess.run([sys.executable, "-c", CODE], check=True)
"""


def test_the_program_runs_on_torch_ext(programs):
    status, printed, errors = run("-m", "torch_ext", "run", "function.py", cwd=programs)
    assert (status, errors) == (0, "")
    assert printed.splitlines() == [
        "True True [2.0, 2.0]",
        "[]",
        "SourceFileLoader SourceFileLoader dict_keys(['name', 'path'])",
    ]


@pytest.mark.parametrize("options,installed", [((), True), (("--no-children",), False)], ids=["all", "alone"])
def test_children_run_on_it_too_unless_told_otherwise(programs, options, installed):
    status, printed, errors = run("-m", "torch_ext", "run", *options, "children.py", cwd=programs)
    assert (status, errors) == (0, "")
    assert printed.splitlines() == [
        f"spawn {installed} __mp_main__ True True True 0",
        f"forkserver {installed} __mp_main__ True True True 0",
        "fork True __main__ True True True 0",  # a copy of the program
        f"subprocess {installed}",
    ]


def test_run_may_be_run_by_run(programs):
    code = "import os, torch_ext; print(torch_ext.is_installed(), os.environ['PYTHONPATH'], 'TORCH_EXT' in os.environ)"
    inner = ("-m", "torch_ext", "run", "--no-children", "-c", code)
    done = run("-m", "torch_ext", "run", *inner, cwd=programs)
    assert done == (0, f"True {ROOT} False\n", "")


RANKS = r"""
import os
import torch_ext
# In one piece: the ranks write into one pipe.
os.write(1, f"{os.environ['RANK']} {torch_ext.is_installed()} {__name__}\n".encode())
"""


@pytest.mark.parametrize(
    "by", [("-m", "torch_ext"), ("--no-python", sys.executable, "-m", "torch_ext")], ids=["m", "no"]
)
def test_it_is_started_by_torchrun(programs, by):
    (programs / "ranks.py").write_text(RANKS)
    start = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    status, printed, errors = run(*start, *by, "run", "ranks.py", cwd=programs)
    assert status == 0, errors
    assert sorted(printed.splitlines()) == ["0 True __main__", "1 True __main__"]


# --- What is called wrongly -------------------------------------------------------------------------

WRONG = {
    "nothing to run": ((), "say what to run, as after python: a script, -m MODULE, -c CODE or -"),
    "options alone": (("--report", "--strict"), "say what to run, as after python: a script, -m MODULE, -c CODE or -"),
    "no folder for the page": (("--html", "no/x.html", "probe.py"), "there is no folder no to write x.html into"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_calls_are_one_line(programs, wrong):
    options, line = WRONG[wrong]
    assert run("-m", "torch_ext", "run", *options, cwd=programs) == (2, "", f"torch-ext run: {line}\n")


@pytest.mark.parametrize("options", [("--compare", "x"), ("--strict=loud",), ("--anomaly=2",)], ids=" ".join)
def test_wrong_options_are_refused(programs, options):
    status, printed, errors = run("-m", "torch_ext", "run", *options, "probe.py", cwd=programs)
    assert (status, printed) == (2, "")
    assert "Invalid value" in errors
    assert "Traceback" not in errors

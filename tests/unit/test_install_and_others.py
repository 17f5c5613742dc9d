# SPDX-License-Identifier: BSD-3-Clause
"""install() and its kin while others replace torch.autograd.Function, its apply, or the engine.

Two kinds of replacement are met in other libraries: a subclass with a metaclass of its own in the place of the *name*
``torch.autograd.Function``, and a wrapper in the place of the class's ``apply``; both for a while.
"""

import contextlib
import subprocess
import sys
import threading
from unittest import mock

import pytest
import torch
from harness import torch_is_since
from torch.autograd import Function, Variable

import torch_ext
from torch_ext import _C, _compat

TORCHS_APPLY = vars(Function)["apply"]
TORCHS_ENGINE = Variable._execution_engine
OUR_APPLY = vars(torch_ext.Function)["apply"]


def everything():
    """What others or torch_ext may have replaced."""
    return [
        torch.autograd.Function,
        torch.autograd.function.Function,
        vars(Function).get("apply"),
        Variable._execution_engine,
        metadata_is_ours(),
    ]


pytestmark = pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")

STOCK = [Function, Function, TORCHS_APPLY, TORCHS_ENGINE, False]


def metadata_is_ours():
    ours = _C.use_our_anomaly_metadata(False)
    _C.use_our_anomaly_metadata(ours)
    return ours


def is_same(states, others):
    return all(one is other for one, other in zip(states, others, strict=True))


@pytest.fixture(autouse=True)
def as_torch_has_it():
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)
    yield
    torch.autograd.Function = torch.autograd.function.Function = Function
    Function.apply = TORCHS_APPLY
    Variable._execution_engine = TORCHS_ENGINE
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)


def make_double(base=Function):
    class Double(base):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    return Double


def runs_on_torch_ext(cls):
    x = torch.ones(2, requires_grad=True)
    y = cls.apply(x)
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]
    return isinstance(y.grad_fn, _C.Ctx)


# What others do. Each is a context: from `there` they put something else in torch's place, and then put back what was
# there. `leads_on`: calls get through to what they replaced.


class Theirs:
    kind = "apply"
    leads_on = True
    there = object()

    def __enter__(self):
        self.before = vars(Function)["apply"]
        Function.apply = self.replacement(self.before)
        self.there = vars(Function)["apply"]

    def __exit__(self, *_):
        Function.apply = self.before

    def stand(self):
        """Whether what they put there is there still."""
        return vars(Function).get("apply") is self.there


class Classmethod(Theirs):
    names = "the classmethod test_install_and_others."

    def replacement(self, before):
        @classmethod
        def apply(cls, *args, **kwargs):
            return before.__get__(None, cls)(*args, **kwargs)

        return apply


class AllAttributes:
    """Has every attribute that is asked for."""

    def __init__(self, before):
        self.before = before

    def __getattr__(self, name):
        return self.before

    def __get__(self, instance, cls):
        return lambda *args, **kwargs: self.before.__get__(None, cls)(*args, **kwargs)


class Descriptor(Theirs):
    names = "an instance of test_install_and_others.AllAttributes"

    def replacement(self, before):
        return AllAttributes(before)


class Staticmethod(Theirs):
    names = "the staticmethod test_install_and_others."
    leads_on = False

    def replacement(self, before):
        return staticmethod(lambda *args: args)


class PlainFunction(Staticmethod):
    names = "the function test_install_and_others."

    def replacement(self, before):
        return lambda *args: args


class Subclassed(classmethod):
    """A classmethod of the same function, which counts."""

    count = 0

    def __get__(self, instance, cls):
        self.count += 1
        return super().__get__(instance, cls)


class SubclassOfClassmethod(Theirs):
    names = "Subclassed"

    def replacement(self, before):
        return Subclassed(_compat.function_of(before))


class Bound(Theirs):
    """What Function.apply gives, instead of what stands in the class: a method bound to Function."""

    names = "method"
    leads_on = False

    def replacement(self, before):
        return Function.apply


class Mocked(Theirs):
    names = "an instance of unittest.mock.MagicMock"
    leads_on = False

    def __enter__(self):
        self.patch = mock.patch.object(Function, "apply")
        self.patch.start()
        self.there = vars(Function)["apply"]

    def __exit__(self, *_):
        self.patch.stop()


class Deleted(Theirs):
    names = "missing"
    leads_on = False

    def __enter__(self):
        self.before = vars(Function)["apply"]
        del Function.apply
        self.there = None


class Metaclass(type(Function)):
    def __new__(cls, name, bases, namespace):
        return super().__new__(cls, name, bases, namespace)


class Renamed(Theirs):
    kind = "name"
    modules = (torch.autograd,)
    patched = None

    def __enter__(self):
        class Patched(Function, metaclass=Metaclass):
            pass

        self.patched = Patched
        for module in self.modules:
            module.Function = Patched

    def __exit__(self, *_):
        for module in self.modules:
            module.Function = Function

    def stand(self):
        return all(module.Function is self.patched for module in self.modules)


class RenamedInBothModules(Renamed):
    modules = (torch.autograd, torch.autograd.function)


class Engine(Theirs):
    kind = "engine"
    names = "an instance of test_install_and_others.Forwarding"

    def __enter__(self):
        self.before = Variable._execution_engine
        self.there = Variable._execution_engine = Forwarding(self.before)

    def __exit__(self, *_):
        Variable._execution_engine = self.before

    def stand(self):
        return Variable._execution_engine is self.there


class Forwarding:
    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)


HIDE = [Classmethod, Descriptor, Staticmethod, PlainFunction, SubclassOfClassmethod, Bound, Mocked, Deleted]
PATTERNS = [Renamed, RenamedInBothModules, *HIDE, Engine]

# What each step gives, from stock torch and from an installed torch_ext. The steps: o and O are the beginning and the
# end of ours, t and T of theirs. A letter for each step says whether torch_ext is installed after it, and "!" that the
# step was refused. `calls` has install() for o and uninstall() for O, `context` has installed().
TABLE = {
    # kind, order: (calls from stock, from installed), (context from stock, from installed)
    ("name", "o t T O"): (("y y y n", "y y y n"), ("y y y n", "y y y y")),
    ("name", "t o O T"): (("n y n n", "y y n n"), ("n y n n", "y y y y")),
    ("name", "o t O T"): (("y y n n", "y y n n"), ("y y n n", "y y y y")),
    ("name", "t o T O"): (("n y y n", "y y y n"), ("n y y n", "y y y y")),
    ("apply", "o t T O"): (("y n y n", "y n y n"), ("y n y n", "y n y y")),
    ("apply", "t o O T"): (("n n! n n", "n n! n! y"), ("n n! n n", "n n! n y")),
    ("apply", "o t O T"): (("y n n! y", "y n n! y"), ("y n n! y", "y n n y")),
    ("apply", "t o T O"): (("n n! n n", "n n! y n"), ("n n! n n", "n n! y y")),
    ("engine", "o t T O"): (("y y y n", "y y y n"), ("y y y n", "y y y y")),
    ("engine", "t o O T"): (("n n! n n", "y y y! y"), ("n n! n n", "y y y y")),
    ("engine", "o t O T"): (("y y y! y", "y y y! y"), ("y y y! y", "y y y y")),
    ("engine", "t o T O"): (("n n! n n", "y y y n"), ("n n! n n", "y y y y")),
}
ORDERS = ["o t T O", "t o O T", "o t O T", "t o T O"]


class Block(Exception):
    """Raised in the block of installed()."""


class Calls:
    begin = staticmethod(torch_ext.install)
    end = staticmethod(torch_ext.uninstall)


class Context:
    """installed(), whose block ends with ``error``."""

    def __init__(self, error=None):
        self.error = error
        self.entered = None

    def begin(self):
        manager = torch_ext.installed()
        manager.__enter__()
        self.entered = manager

    def end(self):
        if self.entered is None:
            return
        if self.error is None:
            self.entered.__exit__(None, None, None)
            return
        try:
            swallowed = self.entered.__exit__(type(self.error), self.error, None)
        except BaseException as raised:
            assert raised is self.error, "the block's exception was replaced"
            swallowed = False
        assert not swallowed
        if notes := getattr(self.error, "__notes__", ()):
            raise RuntimeError(*notes)


def check_accelerate(theirs, inside):
    """accelerate() acts on what is there, or refuses and changes nothing."""
    cls = make_double()
    before = dict(vars(cls))
    if inside and theirs.kind == "apply" and not (isinstance(theirs, Deleted) and torch_is_since("2.14")):
        with pytest.raises(RuntimeError, match="accelerate") as refusal:
            torch_ext.accelerate(cls)
        assert theirs.names in str(refusal.value)
        assert dict(vars(cls)) == before
    else:
        assert torch_ext.accelerate(cls) is cls
        assert runs_on_torch_ext(cls)
    accelerated = torch_ext.accelerate(make_double(torch_ext.Function))
    assert runs_on_torch_ext(accelerated)


def take(step, ours, theirs):
    """Takes one step. Returns whether it was refused, and checks that a refusal changed nothing and names theirs."""
    before = everything()
    act = {"o": ours.begin, "O": ours.end, "t": theirs.__enter__, "T": lambda: theirs.__exit__(None, None, None)}[step]
    try:
        act()
    except RuntimeError as refusal:
        assert theirs.names in str(refusal)
        assert is_same(everything(), before)
        return True
    return False


@pytest.mark.parametrize("ours", ["calls", "context", "context that raises"])
@pytest.mark.parametrize("begin", ["stock", "installed"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
def test_interleaving(pattern, order, begin, ours):
    theirs = pattern()
    expected = TABLE[theirs.kind, order][ours != "calls"][begin == "installed"]
    ours = {"calls": Calls, "context": Context}.get(ours, lambda: Context(Block()))()
    if begin == "installed":
        torch_ext.install()
    at_first = everything()
    cls = make_double()
    seen = []
    inside = False
    for step in order.split():
        refused = take(step, ours, theirs)
        inside = step == "t" or (inside and step != "T")
        seen.append(("y" if torch_ext.is_installed() else "n") + "!" * refused)
        assert theirs.stand() == inside
        check_accelerate(theirs, inside)
        if not inside or theirs.leads_on:
            runs = runs_on_torch_ext(cls)
            assert runs == torch_ext.is_installed() or inside
    assert " ".join(seen) == expected
    if begin == "installed" and torch_ext.is_installed():
        assert is_same(everything(), at_first)
    # Also what was refused is possible now.
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)
    assert not runs_on_torch_ext(cls)


# Theirs put back something else than they found


def test_torchs_own_put_back_while_installed():
    torch_ext.install()
    Function.apply = TORCHS_APPLY
    assert not torch_ext.is_installed()
    assert not runs_on_torch_ext(make_double())
    torch_ext.install()
    assert torch_ext.is_installed()
    assert runs_on_torch_ext(make_double())
    Function.apply = TORCHS_APPLY
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)


def test_ours_put_back_after_uninstall():
    torch_ext.install()
    ours = vars(Function)["apply"]
    torch_ext.uninstall()
    Function.apply = ours
    assert torch_ext.is_installed()
    assert runs_on_torch_ext(make_double())
    torch_ext.install()
    assert metadata_is_ours()
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)
    Function.apply = ours
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)


def test_another_classmethod_of_the_same_function():
    Function.apply = classmethod(_compat.function_of(TORCHS_APPLY))
    torch_ext.install()
    Function.apply = classmethod(_compat.function_of(OUR_APPLY))
    assert torch_ext.is_installed()
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)


def test_torchs_engine_put_back_while_installed():
    torch_ext.install()
    ours = Variable._execution_engine
    Variable._execution_engine = TORCHS_ENGINE
    assert torch_ext.is_installed()
    torch_ext.install()
    assert Variable._execution_engine is ours
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)
    Variable._execution_engine = ours
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)


def test_a_wrapper_over_nothing_of_ours_is_no_matter_of_uninstall():
    with Classmethod():
        torch_ext.uninstall()
        assert not is_same(everything(), STOCK)
    assert is_same(everything(), STOCK)


# Anomaly mode


def test_anomaly_mode_leaves_a_foreign_engine_alone():
    theirs = Engine()
    with theirs:
        with torch_ext.detect_anomaly(check_nan=False):
            assert theirs.stand()
        assert theirs.stand()
    assert is_same(everything(), STOCK)


def test_a_foreign_engine_that_comes_in_anomaly_mode_is_left_alone():
    theirs = Engine()
    with torch_ext.detect_anomaly(check_nan=False):
        ours = Variable._execution_engine
        theirs.__enter__()
    assert theirs.stand()
    theirs.__exit__()
    # Ours again, which is not asked to report now. The next end of anything takes it back.
    assert Variable._execution_engine is ours
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.detect_anomaly(check_nan=True), pytest.raises(RuntimeError) as raised:
        (x * float("nan")).sum().backward()
    assert not hasattr(raised.value, "__notes__")
    with torch_ext.detect_anomaly(check_nan=False):
        pass
    assert is_same(everything(), STOCK)


# A step that fails half way


class Fault(Exception):
    pass


def fails(*_):
    raise Fault


@pytest.mark.parametrize("call", [torch_ext.install, torch_ext.uninstall], ids=["install", "uninstall"])
@pytest.mark.parametrize(
    "owner, name", [(_compat, "set_apply"), (_compat, "set_engine"), (_C, "use_our_anomaly_metadata")]
)
def test_what_fails_half_way_is_undone(owner, name, call, monkeypatch):
    if call is torch_ext.uninstall:
        torch_ext.install()
    before = everything()
    with monkeypatch.context() as m:
        m.setattr(owner, name, fails)
        with pytest.raises(Fault):
            call()
    assert is_same(everything(), before)
    call()
    assert torch_ext.is_installed() == (call is torch_ext.install)


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("had", [False, True])
def test_a_metaclass_that_refuses_apply(writes, had):
    class Refuses(type(Function)):
        def __setattr__(cls, name, value):
            if name == "apply":
                if writes:
                    super().__setattr__(name, value)
                raise Fault

    class Guarded(make_double(), metaclass=Refuses):
        if had:
            apply = TORCHS_APPLY

    before = dict(vars(Guarded))
    with pytest.raises(Fault):
        torch_ext.accelerate(Guarded)
    assert dict(vars(Guarded)) == before
    torch_ext.install()
    assert runs_on_torch_ext(Guarded) is not had


def test_a_metaclass_of_torchs_class_that_refuses_apply(monkeypatch):
    def refuse(cls, name, value):
        type.__setattr__(cls, name, value)
        raise Fault

    for call in torch_ext.install, torch_ext.uninstall:
        before = everything()
        with monkeypatch.context() as m:
            m.setattr(type(Function), "__setattr__", refuse, raising=False)
            with pytest.raises(Fault):
                call()
        assert is_same(everything(), before)
        call()


# accelerate() while the name is another class's


def test_accelerate_goes_by_torchs_class():
    before = make_double()
    with contextlib.ExitStack() as stack:
        stack.enter_context(Renamed())
        after = make_double(torch.autograd.Function)
        for cls in before, after:
            assert torch_ext.accelerate(cls) is cls
            assert runs_on_torch_ext(cls)
        for base in torch.autograd.Function, Function:
            with pytest.raises(TypeError, match=r"use torch_ext.install\(\)"):
                torch_ext.accelerate(base)
    assert runs_on_torch_ext(after)


def test_accelerate_refuses_what_the_named_class_calls_itself():
    class Own(Renamed):
        def __enter__(self):
            super().__enter__()
            self.patched.apply = classmethod(lambda cls, x: x)

    with Own():
        cls = make_double(torch.autograd.Function)
        with pytest.raises(TypeError, match="has an apply of its own"):
            torch_ext.accelerate(cls)
        assert "apply" not in vars(cls)


# The message


def test_the_message_says_what_is_there():
    theirs = Classmethod()
    with theirs, pytest.raises(RuntimeError) as refusal:
        torch_ext.install()
    code = theirs.there.__func__.__code__
    name = "test_install_and_others." + getattr(code, "co_qualname", code.co_name)
    assert str(refusal.value) == (
        "install() would replace torch.autograd.Function.apply, which is not torch's now but the classmethod "
        f"{name} ({__file__}:{code.co_firstlineno}). Call it again once that has been taken back"
    )


# Importing


def run(program, *lines):
    """Runs a program in a process of its own. ``lines`` come after its imports."""
    subprocess.run([sys.executable, "-c", "\n".join(["import torch, sys", program, *lines])], check=True)


RENAME = """
stock = torch.autograd.Function
class Patched(stock, metaclass=type("Meta", (type(stock),), {})): pass
torch.autograd.Function = torch.autograd.function.Function = Patched
import torch_ext
"""


def test_imported_while_the_name_is_another_class():
    run(
        RENAME,
        "assert torch_ext.Function.__bases__ == (stock,) and type(torch_ext.Function) is type(stock)",
        "own = vars(stock)['apply']",
        "torch_ext.install()",
        "assert torch_ext.is_installed() and vars(stock)['apply'] is not own and 'apply' not in vars(Patched)",
        "torch.autograd.Function = torch.autograd.function.Function = stock",
        "assert torch_ext.is_installed()",
        "torch_ext.uninstall()",
        "assert vars(stock)['apply'] is own",
        "torch_ext.accelerate(type('F', (stock,), {}))",
    )


WRAP = """
stock, own = torch.autograd.Function, vars(torch.autograd.Function)['apply']
stock.apply = theirs = classmethod(lambda cls, *args: own.__get__(None, cls)(*args))
def imports():
    try:
        import torch_ext
    except ImportError as error:
        return str(error)
"""


def test_imported_while_apply_is_another():
    refused = (
        "assert imports() is None"
        if torch_is_since("2.14")
        else "assert 'torch.autograd.Function has another: <classmethod(<function <lambda>' in imports()"
    )
    run(
        WRAP,
        refused,
        "assert vars(stock)['apply'] is theirs",
        "stock.apply = own",
        "assert imports() is None",
        "import torch_ext",
        "torch_ext.install()",
        "torch_ext.uninstall()",
        "assert vars(stock)['apply'] is own",
    )


def test_imported_while_the_engine_is_another():
    run(
        "own = torch.autograd.Variable._execution_engine",
        "class Theirs: run_backward = own.run_backward",
        "torch.autograd.Variable._execution_engine = theirs = Theirs()",
        "import torch_ext",
        "try: torch_ext.install()",
        "except RuntimeError as error: assert 'an instance of __main__.Theirs' in str(error)",
        "else: assert False",
        "assert not torch_ext.is_installed()",
        "torch.autograd.Variable._execution_engine = own",
        "torch_ext.install()",
        "assert torch.autograd.Variable._execution_engine is not own",
        "torch_ext.uninstall()",
        "assert torch.autograd.Variable._execution_engine is own",
    )


AGAIN = {
    "reloaded": "import importlib\n"
    "for name in sorted(n for n in sys.modules if n.startswith('torch_ext') and n != 'torch_ext._C'):\n"
    "    importlib.reload(sys.modules[name])",
    "removed": "for name in [n for n in sys.modules if n.partition('.')[0] == 'torch_ext']: del sys.modules[name]\n"
    "import torch_ext",
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
@pytest.mark.parametrize("rename", [False, True])
def test_imported_again_while_installed(rename, again):
    run(
        "import torch_ext",
        "stock, own, engine = torch.autograd.Function, vars(torch.autograd.Function)['apply'],"
        " torch.autograd.Variable._execution_engine",
        "torch_ext.install()",
        f"if {rename}: torch.autograd.Function = torch.autograd.function.Function = type('Patched', (stock,), dict())",
        again,
        "assert torch_ext.is_installed()",
        "assert torch_ext.Function.__bases__ == (stock,)",
        "torch_ext.install()",
        "torch_ext.uninstall()",
        "assert vars(stock)['apply'] is own and torch.autograd.Variable._execution_engine is engine",
        "assert torch_ext._C.use_our_anomaly_metadata(False) is False",
    )


# Threads


def test_theirs_come_and_go_while_other_threads_install_and_uninstall():
    def ours(call):
        for _ in range(200):
            with contextlib.suppress(RuntimeError):  # refused
                call()

    def others():
        for _ in range(200):
            with Classmethod():
                torch_ext.is_installed()

    works = [lambda: ours(torch_ext.install), lambda: ours(torch_ext.uninstall), others]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch_ext.uninstall()
    assert is_same(everything(), STOCK)

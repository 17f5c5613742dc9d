# SPDX-License-Identifier: BSD-3-Clause
"""Fault injection: the n-th call of the extension to CPython, torch or ``operator new`` fails.

The extension is the one that users load, unchanged: a small library, compiled here, redirects its calls only.
On x86-64 with a C++ compiler::

    faults = Faults()
    with faults.at(3) as fault:
        work()              # the third call fails, with MemoryError or std::bad_alloc
    fault.failed            # the name of the function that failed; None if there were fewer than three
"""

import contextlib
import ctypes
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch_ext

#: CPython's functions that can't fail, or whose failure looks like an answer.
CANNOT_FAIL = re.compile(
    r"_?Py(Err_|Eval_|GILState_|ThreadState_|Thread_|InterpreterState_|Exception_)|Py(Bool_FromLong|Callable_Check"
    r"|Code_Addr2Line|Dict_Next|Frame_|Mem_Free|Object_ClearWeakRefs|Object_Free|Object_GC_|Object_HasAttr"
    r"|Long_AsLongLong$|Object_HashNot|Sequence_Check|Type_IsSubtype|Iter_Next|Unicode_Compare)"
    r"|_Py(Object_GetDictPtr|Type_Lookup|_Dealloc|ThreadState_UncheckedGet)|Py_IsInitialized|_PyObject_New$"
    r"|PyCapsule_GetContext|PyCapsule_GetName"
    # Without a GIL: locks, and counts of references.
    r"|Py(CriticalSection_|Mutex_|Unstable_EnableTryIncRef|Unstable_TryIncRef)|_Py_(DecRefShared|MergeZeroLocalRefcount)"
)
#: The end of a call, which Python 3.10 has inline: it takes over the result, so its failure would leak that.
ENDS_CALL = "_Py_CheckFunctionResult"
#: What reports a failure by an integer, not by null.
INTEGER = re.compile(
    r".*(Contains|SetItem|SetItemString|SetSlice|Append|IsTrue|RichCompareBool|IsInstance|AsSsize_t|AsUnsignedLongLong"
    r"|_Size|SetAttrString|Hash|Set_Add|AddFunctions|AddObjectRef|AddStringConstant|Type_Ready|AsStringAndSize"
    r"|SetContext|SetDestructor|AddPendingCall|Dict_GetItemRef|SetDefaultRef|Weakref_GetRef|GetOptionalAttr|SetGIL)$"
)
#: What sets no exception: allocators, whose callers do, and what needs no GIL.
SILENT = re.compile(r"PyMem_|Py_AddPendingCall")
#: torch's functions that create Python objects.
TORCH = re.compile(r"_Z15THPVariable_Wrap|_Z13THPDevice_New|functionToPyObject")


def symbols(library):
    """(name, failure value, whether an exception is set) of each function that ``library`` calls and that can fail."""
    nm = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True)
    for line in nm.stdout.splitlines():
        name = line.split()[-1].partition("@")[0]
        if TORCH.search(name) or (re.match(r"_?Py", name) and name != ENDS_CALL and not CANNOT_FAIL.match(name)):
            yield name, -1 if INTEGER.match(name) else 0, SILENT.match(name) is None


class Faults:
    """Redirects the calls of ``torch_ext._C`` for the rest of the process. Nothing fails outside :meth:`at`."""

    def __init__(self):
        library = torch_ext._C.__file__
        with tempfile.TemporaryDirectory() as folder:
            found = list(symbols(library))
            self._library = ctypes.PyDLL(_compile(found, Path(folder)))
        self._names = [*(name for name, _, _ in found), "operator new"]
        self._exempt = (ctypes.c_bool * len(self._names)).in_dll(self._library, "faults_exempt")
        self._library.faults_stop.restype = ctypes.c_char_p
        self.installed = self._library.faults_install(library.encode())
        if self.installed <= 0:
            raise RuntimeError(f"no call of {library} could be redirected")

    @contextlib.contextmanager
    def at(self, n, but=()):
        """Makes the ``n``-th call in the block fail. Functions whose names are in ``but`` are not counted."""
        self._exempt[:] = [name in but for name in self._names]
        fault = SimpleNamespace(failed=None)
        self._library.faults_start(ctypes.c_long(n))
        try:
            yield fault
        finally:
            failed = self._library.faults_stop()
            fault.failed = failed and failed.decode()


def _compile(found, folder):
    """The path of the library with a stub for each symbol in ``found``."""
    lines = [f"X({i}, {name}, {value}, {str(sets).lower()})" for i, (name, value, sets) in enumerate(found)]
    text = f"#define FAULTS_COUNT {len(lines)}\n#define SYMBOLS(X) " + " \\\n  ".join(lines) + "\n"
    (folder / "symbols.h").write_text(text)
    command = ["c++", "-O1", "-shared", "-fPIC", "-I", sysconfig.get_path("include"), "-I", folder]
    subprocess.run([*command, Path(__file__).with_name("faults.cpp"), "-o", folder / "faults.so"], check=True)
    return str(folder / "faults.so")

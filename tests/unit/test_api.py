# SPDX-License-Identifier: BSD-3-Clause
"""The public names of torch_ext, their types and their documentation."""

import ast
import importlib
import inspect
import pickle
import pkgutil
import typing
from importlib.resources import files

import pytest
import torch
from harness import torch_is_since
from packaging.version import Version
from torch.autograd.function import FunctionMeta

import torch_ext

SERVED = [
    "Function",
    "FunctionCtx",
    "InplaceFunction",
    "NestedIOFunction",
    "once_differentiable",
]
OWN = ["accelerate", "install", "installed", "is_installed", "load", "uninstall"]


class Scale(torch_ext.Function):
    """Multiplies by a number."""

    @staticmethod
    def forward(ctx, x, factor=2):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


class StockScale(torch.autograd.Function):
    forward = Scale.forward
    backward = Scale.backward


# Names


@pytest.mark.parametrize("name", [*SERVED, *OWN, "__version__"])
def test_public_name_is_there_and_exported(name):
    assert hasattr(torch_ext, name)
    assert name in torch_ext.__all__


def test_every_exported_name_exists():
    assert len(set(torch_ext.__all__)) == len(torch_ext.__all__)
    assert [name for name in torch_ext.__all__ if not hasattr(torch_ext, name)] == []


def test_star_import():
    namespace = {}
    exec("from torch_ext import *", namespace)
    assert set(torch_ext.__all__) <= set(namespace)


@pytest.mark.parametrize("name", [name for name in SERVED if name != "Function"])
def test_everything_but_function_is_torchs_own(name):
    assert getattr(torch_ext, name) is getattr(torch.autograd.function, name)


def test_version():
    assert isinstance(torch_ext.__version__, str)
    assert str(Version(torch_ext.__version__)) == torch_ext.__version__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'instal'"):
        torch_ext.instal


# Classes


def test_function_class():
    assert issubclass(torch_ext.Function, torch.autograd.Function)
    # torch.compile asks for this exact metaclass.
    assert type(torch_ext.Function) is FunctionMeta
    assert torch_ext.Function.__name__ == "Function"


@pytest.mark.parametrize("name", ["InplaceFunction", "NestedIOFunction"])
def test_old_base_classes_run_on_torch_ext_where_it_is_installed(name):
    class Double(getattr(torch_ext, name)):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    with torch_ext.installed():
        y = Double.apply(torch.ones(2, requires_grad=True))
    assert isinstance(y.grad_fn, torch_ext._C.Ctx)


def test_only_apply_differs_from_torchs_class():
    own = set(vars(torch_ext.Function)) - {"__module__", "__doc__", "__qualname__"}
    # Python 3.13 notes where a class begins.
    assert own - {"__firstlineno__", "__static_attributes__"} == {"apply", "_backward_cls"} | (
        set() if torch_is_since("2.13") else {"boxed_grads_call"}
    )


def test_subclass_works():
    x = torch.ones(2, requires_grad=True)
    y = Scale.apply(x, 3)
    y.sum().backward()
    assert torch.equal(x.grad, torch.full((2,), 3.0))


def test_apply_is_a_bound_method_named_apply():
    # By this torch.compile recognises an alias of apply.
    apply = Scale.apply
    assert type(apply) is type(StockScale.apply)
    assert apply.__self__ is Scale
    assert apply.__name__ == "apply"
    assert apply == Scale.apply
    assert hash(apply) == hash(Scale.apply)


def signature(apply):
    """The signature as text; None if it has none, as torch's own from 2.14 on, a method of C."""
    try:
        return str(inspect.signature(apply))
    except ValueError:
        return None


def test_signature_of_apply():
    assert signature(Scale.apply) == signature(StockScale.apply)


def test_signature_of_apply_while_installed():
    theirs = signature(StockScale.apply)
    with torch_ext.installed():
        assert signature(StockScale.apply) == theirs


def test_apply_says_of_itself_what_torchs_does():
    for name in "__doc__", "__module__", "__name__", "__qualname__":
        theirs = getattr(StockScale.apply, name)
        # A method of C has the name of its class in its own name.
        assert getattr(Scale.apply, name) == (theirs and theirs.replace("StockScale", "Scale"))


def test_function_class_and_apply_pickle_by_name():
    assert pickle.loads(pickle.dumps(Scale)) is Scale
    assert pickle.loads(pickle.dumps(Scale.apply)) == Scale.apply


def test_instantiation_warns_as_torch_does():
    with pytest.warns(DeprecationWarning, match="should not be instantiated"):
        Scale()


# Documentation and types


@pytest.mark.parametrize("name", [*SERVED, *OWN])
def test_public_name_is_documented(name):
    documented = torch_ext.FunctionCtx.save_for_backward if name == "FunctionCtx" else getattr(torch_ext, name)
    if documented is not torch.autograd.function.once_differentiable:
        assert inspect.getdoc(documented)


def test_module_is_documented():
    assert inspect.getdoc(torch_ext)


@pytest.mark.parametrize("name", OWN)
def test_own_function_is_annotated(name):
    signature = inspect.signature(getattr(torch_ext, name))
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Signature.empty


def members_of(package):
    """The functions and classes that the modules of a package define, and the functions of these classes."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(info.name)).values():
            if getattr(value, "__module__", None) == info.name:
                yield value
                if inspect.isclass(value):
                    yield from filter(inspect.isfunction, vars(value).values())


def test_annotations_can_be_evaluated():
    members = [value for value in members_of(torch_ext) if inspect.isfunction(value) or inspect.isclass(value)]
    assert torch_ext.hooks.register_node_prehook in members and torch_ext.anomaly.set_detect_anomaly in members
    for value in members:
        typing.get_type_hints(value)


def test_signatures():
    assert list(inspect.signature(torch_ext.install).parameters) == []
    assert list(inspect.signature(torch_ext.uninstall).parameters) == []
    assert list(inspect.signature(torch_ext.installed).parameters) == []
    assert list(inspect.signature(torch_ext.is_installed).parameters) == []
    assert list(inspect.signature(torch_ext.accelerate).parameters) == ["cls"]
    assert "verbose" in inspect.signature(torch_ext.load).parameters


def test_package_is_typed():
    assert files(torch_ext).joinpath("py.typed").is_file()


def stub():
    return ast.parse(files(torch_ext).joinpath("_C.pyi").read_text("utf-8"))


def declared_names(nodes):
    names = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return names


def test_stub_declares_what_the_extension_has():
    present = {name for name in vars(torch_ext._C) if not name.startswith("__")}
    assert {name for name in declared_names(stub().body) if name[:2] != "__"} == present


def test_stub_declares_the_members_of_the_extensions_types():
    classes = {node.name: node for node in stub().body if isinstance(node, ast.ClassDef)}
    for name, value in vars(torch_ext._C).items():
        if isinstance(value, type) and value.__module__ == torch_ext._C.__name__:
            present = {member for member in vars(value) if not member.startswith("__")}
            declared = declared_names(classes[name].body)
            assert {member for member in declared if member[:2] != "__"} == present


def test_extension_is_documented():
    assert inspect.getdoc(torch_ext._C)
    for name, value in vars(torch_ext._C).items():
        # apply looks like torch's own, which has no docstring.
        if not name.startswith("_") and name not in ("apply", "torch_apply"):
            assert inspect.getdoc(value), name

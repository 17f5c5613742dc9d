# SPDX-License-Identifier: BSD-3-Clause
"""Docstrings of public names: what they take, and what they raise."""

import ast
import builtins
import inspect
import re
import textwrap

import pytest
from harness.public_names import own_names

import torch_ext.checking

NAMES = own_names()
# Whose arguments another one's documentation has: torch's, and that of the function above it.
AS_ANOTHER = {"torch_ext.Function", "torch_ext.tracer.create_graph_by_tracing_with_dict"}


def section(doc, title):
    """The names of one of Google's sections; an entry may have several."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", f"{doc}\n", re.MULTILINE)
    entries = re.findall(r"^    (\S[^:]*):", found[1], re.MULTILINE) if found else []
    return {name.strip().lstrip("*") for entry in entries for name in entry.split(",")}


def parameters_of(value):
    if inspect.isclass(value) and issubclass(value, BaseException):
        return set()
    names = list(inspect.signature(value).parameters)
    return set(names[1:] if names[:1] == ["self"] and not inspect.isbuiltin(value) else names)


def raised_by(function, seen=()):
    """The types of exceptions that its code raises, also in functions of its module that it calls by name."""
    # A dataclass's __init__ has no source.
    if not inspect.isfunction(function) or function in seen or function.__code__.co_filename == "<string>":
        return set()
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = function.__globals__.get(node.func.id)
            if getattr(called, "__module__", None) == function.__module__:
                found |= raised_by(called, (*seen, function))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_a_sentence(name):
    doc = inspect.getdoc(NAMES[name])
    assert doc
    assert re.match(r"[A-Z\"`0-9].*?[.:]($|\s)", doc, re.DOTALL), doc


PROPERTIES = [
    (name, key)
    for name, value in NAMES.items()
    for key, member in (vars(value).items() if inspect.isclass(value) else ())
    if isinstance(member, property)
]


@pytest.mark.parametrize("name,key", PROPERTIES)
def test_the_first_line_of_a_property_has_no_colon(name, key):
    # The reference would show what is before it as the type.
    assert ": " not in inspect.getdoc(getattr(NAMES[name], key)).split("\n")[0]


@pytest.mark.parametrize("name", sorted(NAMES.keys() - AS_ANOTHER))
def test_each_argument_is_described(name):
    doc, parameters = inspect.getdoc(NAMES[name]), parameters_of(NAMES[name])
    described = section(doc, "Args")
    missing = parameters - described - section(doc, "Attributes")
    # A short one names it in its text.
    assert [name for name in missing if f"``{name}``" not in doc] == []
    assert described - parameters == set()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_raised_is_said(name):
    value = NAMES[name]
    said = section(inspect.getdoc(value), "Raises")
    assert raised_by(vars(value).get("__init__") if inspect.isclass(value) else value) - said == set()
    assert [error for error in said if not hasattr(builtins, error) and not hasattr(torch_ext.checking, error)] == []

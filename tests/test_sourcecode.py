"""Facts about the source tree that no checker states: which tree is under test, and what is pinned where."""

from __future__ import annotations

import ast
import importlib
import os
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

import backends
import proxy
from tests.servers import ROOT, TREE

pytestmark = pytest.mark.once  # nothing of it is run

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILED: list[str] = PROJECT["tool"]["redtier"]["compiled"]


def test_the_packages_under_test_come_from_the_tree_that_was_asked_for() -> None:
    assert [Path(package.__path__[0]) for package in (proxy, backends)] == [TREE / "proxy", TREE / "backends"]


@pytest.mark.parametrize("name", COMPILED)
def test_a_hot_module_is_compiled_in_the_compiled_tree_and_nowhere_else(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    is_compiled = file.endswith(tuple(EXTENSION_SUFFIXES))
    assert is_compiled == (os.environ.get("REDTIER_TREE") == "compiled")


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_function_gives_a_name_to_one_type_of_exception_only(name: str) -> None:
    """To mypyc a name has the type that it was first bound to, and the second exception is a TypeError."""
    module = ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text())
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            caught = [
                node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name
            ]
            types = {(node.name, ast.unparse(node.type)) for node in caught if node.type}
            assert len(types) == len({name for name, _ in types}), f"{function.name}: {types}"


def test_no_compiled_module_lies_beside_its_source() -> None:
    assert [file for package in ("proxy", "backends") for file in (ROOT / package).rglob("*.so")] == []


def test_a_wheel_and_a_developer_build_with_the_same_mypy() -> None:
    def mypy(requirements: list[str]) -> list[str]:
        return [requirement for requirement in requirements if requirement.startswith("mypy==")]

    build = mypy(PROJECT["build-system"]["requires"])
    assert build
    assert build == mypy(PROJECT["project"]["optional-dependencies"]["build"])

"""Compiles the hot path with mypyc where there is a C compiler; everything else is in pyproject.toml.

``[tool.redtier] compiled`` lists the modules.  They are one group, so that they call each other natively.
``REDTIER_COMPILE=0`` builds plain Python.
"""

import os
import sys
import tempfile
import tomllib
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

BUILDS = {"build", "build_ext", "bdist_wheel", "install"}
"""Commands that compile.  Not the ones that only ask for metadata, nor an editable install: beside its
source a compiled module would shadow every later change."""


def has_compiler() -> bool:
    """Whether a module that includes Python.h compiles: a compiler without the headers is of no use."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <Python.h>\n")
        command = build_ext(Distribution({"ext_modules": [Extension("probe", [str(source)])]}))
        command.build_lib = command.build_temp = directory
        try:
            command.ensure_finalized()
            command.run()
        except CCompilerError:
            return False
    return True


def extensions() -> list[Extension]:
    if os.environ.get("REDTIER_COMPILE") == "0" or BUILDS.isdisjoint(sys.argv):
        return []
    if not has_compiler():
        print("redtier: no C compiler with Python's headers: building plain Python", file=sys.stderr)
        return []
    from mypyc.build import mypycify  # only here: a plain build needs no mypy

    with open("pyproject.toml", "rb") as file:
        modules = tomllib.load(file)["tool"]["redtier"]["compiled"]
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    return mypycify(paths, opt_level="3", debug_level="0", group_name="redtier")


setup(ext_modules=extensions())

"""Compiles the hot path with mypyc where there is a C compiler; everything else is in pyproject.toml.

``[tool.redtier] compiled`` lists the modules.  They are one group, so that they call each other natively.
``REDTIER_COMPILE=0`` builds plain Python.
"""

import os
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

BUILDS = {"build", "build_ext", "bdist_wheel", "install"}
"""Commands that compile.  Not the ones that only ask for metadata, nor an editable install: beside its
source a compiled module would shadow every later change."""


LTO = ["-O3", "-flto=auto"]
"""Lets files that are compiled side by side be optimised as one."""


def compiles(*flags: str) -> bool:
    """Whether a module that includes Python.h compiles: a compiler without the headers is of no use."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <Python.h>\n")
        probe = Extension("probe", [str(source)], extra_compile_args=[*flags], extra_link_args=[*flags])
        command = build_ext(Distribution({"ext_modules": [probe]}))
        command.build_lib = command.build_temp = directory
        try:
            command.ensure_finalized()
            command.run()
        except CCompilerError:
            return False
    return True


class ParallelBuild(build_ext):
    """Compiles the files of an extension side by side, as many as there are processors."""

    def build_extensions(self) -> None:
        compile_all = self.compiler.compile

        # Any: the compiler's options, which are passed on as they are.
        def compile_each(sources: list[str], *args: Any, **options: Any) -> list[str]:
            def compile_one(source: str) -> list[str]:
                objects: list[str] = compile_all([source], *args, **options)
                return objects

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(chain.from_iterable(pool.map(compile_one, sources)))

        self.compiler.compile = compile_each
        super().build_extensions()


def extensions() -> list[Extension]:
    if os.environ.get("REDTIER_COMPILE") == "0" or BUILDS.isdisjoint(sys.argv):
        return []
    if not compiles():
        print("redtier: no C compiler with Python's headers: building plain Python", file=sys.stderr)
        return []
    from mypyc.build import mypycify  # only here: a plain build needs no mypy

    with open("pyproject.toml", "rb") as file:
        modules = tomllib.load(file)["tool"]["redtier"]["compiled"]
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    side_by_side = compiles(*LTO)
    built: list[Extension] = mypycify(
        paths, opt_level="3", debug_level="0", multi_file=side_by_side, group_name="redtier"
    )
    if side_by_side:
        for extension in built:
            extension.extra_compile_args += LTO
            extension.extra_link_args += LTO
    return built


setup(ext_modules=extensions(), cmdclass={"build_ext": ParallelBuild})

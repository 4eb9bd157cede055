"""An import-linter contract that lists what a part may import.

A list of what is allowed stays true when a module or a dependency is added; one of what is forbidden,
as import-linter's own kinds take it, doesn't.  The contracts stand in pyproject.toml.
"""

import sys
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


def _names(**options: Any) -> Any:  # a field, of which import-linter makes a list
    return fields.ListField(subfield=fields.StringField(), **options)


class ImportsOnly(Contract):
    """``modules`` import, directly, only each other, ``allowed``, and the standard library less ``banned``.

    A module stands for what is below it too.  ``leaves`` stands for the modules in [tool.importlinter]
    leaves, ``*`` for every package outside the project.  Modules in ``exempt`` are not looked at.
    """

    modules: list[str] = _names()
    allowed: list[str] = _names()
    banned: list[str] = _names(default=[])
    exempt: list[str] = _names(default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        modules, allowed = self._resolve(self.modules), self._resolve(self.allowed)
        roots = self.session_options["root_packages"]
        stdlib = sys.stdlib_module_names - set(self.banned)

        def may_import(module: str) -> bool:
            if module in stdlib or _within(module, modules) or _within(module, allowed):
                return True
            return "*" in allowed and not _within(module, roots) and module not in self.banned

        broken = [
            graph.get_import_details(importer=importer, imported=imported)[0]
            for importer in sorted(graph.modules)
            if _within(importer, modules) and not _within(importer, self.exempt)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if not may_import(imported)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for found in check.metadata["broken"]:
            importer, imported, line = found["importer"], found["imported"], found["line_number"]
            output.print_error(f"{importer} (l.{line}) may not import {imported}")

    def _resolve(self, names: list[str]) -> list[str]:
        leaves = self.session_options["leaves"]
        return [module for name in names for module in (leaves if name == "leaves" else [name])]


def _within(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)

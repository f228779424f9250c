"""Imports JupyterLab without the slow parts of the import that no start needs.

Packages that a server hardly ever uses are imported at their first use.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

# `jupyterlab_server` uses requests only where lists of allowed or blocked extensions are configured. `isoduration` uses
# arrow to parse durations, a format that JupyterLab's schemas do not have.
LAZY_PACKAGES = ("requests", "arrow")
# What a JupyterLab imports after `jupyterlab.labapp`, up to its first kernel and its first terminal.
PRELOADED = (
    *("tornado.platform.asyncio", "anyio._backends._asyncio", "jinja2.ext", "IPython", "psutil"),
    *("notebook_shim.nbserver", "jupyter_lsp", "jupyter_lsp.specs", "jupyter_lsp.virtual_documents_shadow"),
    *("jupyter_server_terminals", "ipykernel.kernelspec", "babel.dates", "babel.numbers"),
    *("jupyter_server.view.handlers", "jupyter_server.kernelspecs.handlers", "jupyter_server.nbconvert.handlers"),
    *("jupyter_server.services.api.handlers", "jupyter_server.services.config.handlers"),
    *("jupyter_server.services.contents.handlers", "jupyter_server.services.events.handlers"),
    *("jupyter_server.services.kernels.handlers", "jupyter_server.services.kernelspecs.handlers"),
    *("jupyter_server.services.nbconvert.handlers", "jupyter_server.services.security.handlers"),
    *("jupyter_server.services.sessions.handlers", "jupyter_server.services.shutdown"),
)


def import_jupyterlab() -> None:
    """Imports `jupyterlab.labapp`."""
    sys.meta_path.insert(0, LazyFinder())
    # jsonschema's formats `iri` and `uri`, which JupyterLab's schemas do not have. The first one builds 15 grammars.
    defer_function("rfc3987_syntax", "is_valid_syntax")
    defer_function("rfc3986_validator", "validate_rfc3986")
    # At import `jupyterlab.labapp` asks for its version, which runs node for a setting of yarn that nobody reads.
    commands = try_import("jupyterlab.commands")
    run_node = getattr(commands, "_yarn_config", None)
    if run_node:
        commands._yarn_config = lambda logger: {"yarn config": {}, "npm config": {}}
    importlib.import_module("jupyterlab.labapp")
    if run_node:
        commands._yarn_config = run_node


def preload() -> None:
    """Imports what JupyterLab would import later, and compiles the patterns of its routes for the base URL `/`."""
    for name in PRELOADED:
        try_import(name)
    for name, module in list(sys.modules.items()):
        if name.startswith("jupyter_server."):
            for route, *_ in getattr(module, "default_handlers", ()):
                re.compile(f"/{route.lstrip('/')}{'' if route.endswith('$') else '$'}")


def try_import(name: str) -> Any:
    """Imports an internal module of JupyterLab. Returns None where this version has no such module."""
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
    return sys.modules.get(name)


class LazyFinder(importlib.abc.MetaPathFinder):
    """Defers the import of `LAZY_PACKAGES` to the first use of the package or of one of its submodules."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name in LAZY_PACKAGES:
            spec = PathFinder.find_spec(name, path, target)
            if spec and spec.loader:
                spec.loader = importlib.util.LazyLoader(spec.loader)
            return spec
        # Asking for a submodule has just imported the package, often with the submodule: it must not be imported twice.
        present = sys.modules.get(name) if name.partition(".")[0] in LAZY_PACKAGES else None
        return ModuleSpec(name, PresentLoader(present)) if present else None


class PresentLoader(importlib.abc.Loader):
    """Loads a module that is loaded already."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._module

    def exec_module(self, module: Any) -> None:
        module.__spec__ = self._spec


def defer_function(name: str, function: str) -> None:
    """Defers the import of a module until one of its attributes is read, or `function`, once imported, is called."""
    spec = importlib.util.find_spec(name)
    if spec is None or name in sys.modules:
        return
    stand_in = importlib.util.module_from_spec(spec)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in.__getattr__ = load
    setattr(stand_in, function, lambda *args, **kwargs: load(function)(*args, **kwargs))
    sys.modules[name] = stand_in

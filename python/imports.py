"""Imports JupyterLab without the work that takes most of an import's time and that serves no start.

Modules that hardly a server ever uses are put off until they are used, authorities of https until a connection is made,
and regular expressions come ready made from a file, as modules do: what a pattern compiles to depends on nothing but the
pattern and the version of Python. `python imports.py` writes that file, for an image that nobody can write later.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import marshal
import os
import re
import ssl
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

# `jupyterlab_server` asks lists of extensions by the one, where such a list is configured; `isoduration` reads
# durations by the other, for a format that JupyterLab's schemas do not use.
LATE_PACKAGES = ("requests", "arrow")
READ_AUTHORITIES = ssl.SSLContext.load_default_certs
PATTERNS_FILE = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "__pycache__", f"patterns.{sys.implementation.cache_tag}"
)
# One prints what it compiles, the other depends on where it runs.
UNKEPT_FLAGS = int(re.DEBUG | re.LOCALE)
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
    """Imports `jupyterlab.labapp`. Patterns that are compiled from now on come from the file where they are in it."""
    Patterns.attend()
    sys.meta_path.insert(0, LateFinder())
    # jsonschema's formats `iri` and `uri`, which JupyterLab's own schemas do not use: fifteen grammars and a pattern.
    defer_function("rfc3987_syntax", "is_valid_syntax")
    defer_function("rfc3986_validator", "validate_rfc3986")
    with late_authorities():
        # `jupyterlab.labapp` asks for its own version, and by the way node for yarn's registry, which it then drops.
        commands = find_module("jupyterlab.commands")
        ask_node = getattr(commands, "_yarn_config", None)
        if ask_node:
            commands._yarn_config = lambda logger: {"yarn config": {}, "npm config": {}}
        importlib.import_module("jupyterlab.labapp")
        if ask_node:
            commands._yarn_config = ask_node


def import_the_rest() -> None:
    """Imports what a JupyterLab would import later, and compiles the addresses that it serves under the base URL `/`."""
    for name in PRELOADED:
        find_module(name)
    for name, module in list(sys.modules.items()):
        if name.startswith("jupyter_server."):
            for address, *_ in getattr(module, "default_handlers", ()):
                re.compile(f"/{address.lstrip('/')}{'' if address.endswith('$') else '$'}")


def find_module(name: str) -> Any:
    """Imports a module of JupyterLab's inside, which need not be there."""
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
    return sys.modules.get(name)


def look_into(module: Any) -> dict:
    """What a module holds. One that was put off stays so."""
    return object.__getattribute__(module, "__dict__")


class LateFinder(importlib.abc.MetaPathFinder):
    """Finds the packages that are put off: the first use of one, or of a part of it, imports it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name in LATE_PACKAGES:
            spec = PathFinder.find_spec(name, path, target)
            if spec and spec.loader:
                spec.loader = importlib.util.LazyLoader(spec.loader)
            return spec
        # To ask for a part has just imported its package, and the part with it: nothing is imported twice.
        present = sys.modules.get(name) if name.partition(".")[0] in LATE_PACKAGES else None
        return ModuleSpec(name, PresentLoader(present)) if present else None


class PresentLoader(importlib.abc.Loader):
    """Loads a module that is there already."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._module

    def exec_module(self, module: Any) -> None:
        module.__spec__ = self._spec


def defer_function(name: str, function: str) -> None:
    """Puts off the import of a module until something of it is used. To import `function` from it is no use yet."""
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


class LateContext(ssl.SSLContext):
    """A context that reads the system's authorities when it is first used for a connection."""

    def _settle(self) -> ssl.SSLContext:
        purpose = vars(self).pop("_late_purpose", None)
        self.__class__ = ssl.SSLContext
        if purpose is not None:
            READ_AUTHORITIES(self, purpose)
        return self

    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        return self._settle().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> Any:
        return self._settle().wrap_bio(*args, **options)

    def load_verify_locations(self, *args: Any, **options: Any) -> None:
        self._settle().load_verify_locations(*args, **options)

    def load_default_certs(self, *args: Any) -> None:
        self._settle().load_default_certs(*args)

    def get_ca_certs(self, *args: Any, **options: Any) -> Any:
        return self._settle().get_ca_certs(*args, **options)

    def cert_store_stats(self) -> dict:
        return self._settle().cert_store_stats()


@contextlib.contextmanager
def late_authorities() -> Iterator[None]:
    """Contexts that are made at import, as tornado makes two of them, read no authorities yet."""

    def read_later(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        if type(context) is not ssl.SSLContext:
            return READ_AUTHORITIES(context, purpose)
        context.__class__ = LateContext
        context._late_purpose = purpose

    ssl.SSLContext.load_default_certs = read_later
    try:
        yield
    finally:
        ssl.SSLContext.load_default_certs = READ_AUTHORITIES


class Patterns:
    """Compiled regular expressions, kept in a file. A Python whose inside is another one compiles them as always."""

    _known: dict[tuple[str | bytes, int], tuple] = {}
    _new: dict[tuple[str | bytes, int], tuple] = {}
    _is_usable = False
    _stop: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def attend(cls) -> None:
        """Serves `re` until `settle`."""
        compiler, engine = getattr(re, "_compiler", None), sys.modules.get("_sre")
        stock = getattr(compiler, "compile", None)
        if not stock or getattr(compiler, "_sre", None) is not engine or not hasattr(engine, "compile"):
            return
        cls._read()
        last: list[tuple] = []

        def build(*parts: Any) -> re.Pattern:
            last[:] = [parts]
            return engine.compile(*parts)

        def compile_or_recall(pattern: Any, flags: Any = 0) -> re.Pattern:
            if type(pattern) not in (str, bytes) or int(flags) & UNKEPT_FLAGS:
                return stock(pattern, flags)
            key = (pattern, int(flags))
            known = cls._known.get(key)
            if known:
                return engine.compile(pattern, *known)
            compiled = stock(pattern, flags)
            _, all_flags, code, *groups = last[0]
            # Names of numbers, which the file knows as numbers.
            cls._new[key] = (int(all_flags), [int(word) for word in code], *groups)
            return compiled

        def stop() -> None:
            compiler.compile, compiler._sre = stock, engine

        compiler.compile = compile_or_recall
        compiler._sre = types.SimpleNamespace(**{**vars(engine), "compile": build})
        cls._stop = stop

    @classmethod
    def settle(cls, keep: bool = True) -> None:
        """Ends it. What was compiled is written where there is no usable file; one that can't be written is no fault."""
        cls._stop()
        if keep and not cls._is_usable and not sys.dont_write_bytecode:
            with contextlib.suppress(OSError, ValueError):
                cls._write()
        cls._known = cls._new = {}

    @classmethod
    def _read(cls) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError), open(PATTERNS_FILE, "rb") as file:
            version, patterns = marshal.loads(file.read())
            if version == sys.version:
                cls._known, cls._is_usable = patterns, True

    @classmethod
    def _write(cls) -> None:
        os.makedirs(os.path.dirname(PATTERNS_FILE), exist_ok=True)
        draft = f"{PATTERNS_FILE}.{os.getpid()}"
        try:
            with open(draft, "wb") as file:
                marshal.dump((sys.version, cls._new), file)
            os.replace(draft, PATTERNS_FILE)
        except BaseException:
            os.unlink(draft)
            raise


if __name__ == "__main__":
    with contextlib.suppress(FileNotFoundError):
        os.unlink(PATTERNS_FILE)
    import_jupyterlab()
    import_the_rest()
    Patterns.settle()

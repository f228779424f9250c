"""Imports JupyterLab without the slow parts of the import that no start needs.

Packages that a server hardly ever uses are imported at their first use. CA certificates are read at the first https
connection. Compiled regular expressions are cached in a file, as Python caches modules: they depend only on the pattern
and the version of Python. `python imports.py` writes that file, for an image that is read-only later.
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

# `jupyterlab_server` uses requests only where lists of allowed or blocked extensions are configured. `isoduration` uses
# arrow to parse durations, a format that JupyterLab's schemas do not have.
LAZY_PACKAGES = ("requests", "arrow")
LOAD_DEFAULT_CERTS = ssl.SSLContext.load_default_certs
PATTERNS_FILE = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "__pycache__", f"patterns.{sys.implementation.cache_tag}"
)
# DEBUG prints what it compiles, and LOCALE depends on where it runs: neither can be cached.
UNCACHED_FLAGS = int(re.DEBUG | re.LOCALE)
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
    """Imports `jupyterlab.labapp`. Regular expressions come from the cache until `PatternCache.uninstall`."""
    PatternCache.install()
    sys.meta_path.insert(0, LazyFinder())
    # jsonschema's formats `iri` and `uri`, which JupyterLab's schemas do not have. The first one builds 15 grammars.
    defer_function("rfc3987_syntax", "is_valid_syntax")
    defer_function("rfc3986_validator", "validate_rfc3986")
    with lazy_certificates():
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


def module_dict(module: Any) -> dict:
    """Returns a module's attributes without importing it, where its import is deferred."""
    return object.__getattribute__(module, "__dict__")


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


class LazyContext(ssl.SSLContext):
    """An SSL context that loads the system's CA certificates at its first use, and is a plain context from then on."""

    def _load(self) -> ssl.SSLContext:
        purpose = vars(self).pop("_deferred_purpose", None)
        self.__class__ = ssl.SSLContext
        if purpose is not None:
            LOAD_DEFAULT_CERTS(self, purpose)
        return self

    def wrap_socket(self, *args: Any, **options: Any) -> Any:
        return self._load().wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> Any:
        return self._load().wrap_bio(*args, **options)

    def load_verify_locations(self, *args: Any, **options: Any) -> None:
        self._load().load_verify_locations(*args, **options)

    def load_default_certs(self, *args: Any) -> None:
        self._load().load_default_certs(*args)

    def get_ca_certs(self, *args: Any, **options: Any) -> Any:
        return self._load().get_ca_certs(*args, **options)

    def cert_store_stats(self) -> dict:
        return self._load().cert_store_stats()


@contextlib.contextmanager
def lazy_certificates() -> Iterator[None]:
    """Makes SSL contexts that are created meanwhile lazy. Tornado creates two of them at import."""

    def load_later(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        if type(context) is not ssl.SSLContext:
            return LOAD_DEFAULT_CERTS(context, purpose)
        context.__class__ = LazyContext
        context._deferred_purpose = purpose

    ssl.SSLContext.load_default_certs = load_later
    try:
        yield
    finally:
        ssl.SSLContext.load_default_certs = LOAD_DEFAULT_CERTS


class PatternCache:
    """A file of compiled regular expressions. A Python whose `re` is built differently compiles them as usual."""

    _cached: dict[tuple[str | bytes, int], tuple] = {}
    _new: dict[tuple[str | bytes, int], tuple] = {}
    _is_valid = False
    _restore: Callable[[], None] = staticmethod(lambda: None)

    @classmethod
    def install(cls) -> None:
        """Makes `re` use the cache until `uninstall`."""
        compiler, engine = getattr(re, "_compiler", None), sys.modules.get("_sre")
        stock = getattr(compiler, "compile", None)
        if not stock or getattr(compiler, "_sre", None) is not engine or not hasattr(engine, "compile"):
            return
        cls._read()
        last: list[tuple] = []

        def build(*parts: Any) -> re.Pattern:
            last[:] = [parts]
            return engine.compile(*parts)

        def compile_cached(pattern: Any, flags: Any = 0) -> re.Pattern:
            if type(pattern) not in (str, bytes) or int(flags) & UNCACHED_FLAGS:
                return stock(pattern, flags)
            key = (pattern, int(flags))
            cached = cls._cached.get(key)
            if cached:
                return engine.compile(pattern, *cached)
            compiled = stock(pattern, flags)
            _, all_flags, code, *groups = last[0]
            # The codes are a subclass of int, which `marshal` can't write.
            cls._new[key] = (int(all_flags), [int(word) for word in code], *groups)
            return compiled

        def restore() -> None:
            compiler.compile, compiler._sre = stock, engine

        compiler.compile = compile_cached
        compiler._sre = types.SimpleNamespace(**{**vars(engine), "compile": build})
        cls._restore = restore

    @classmethod
    def uninstall(cls, save: bool = True) -> None:
        """Restores `re`, and writes the file where there is no valid one. A folder that is read-only is no error."""
        cls._restore()
        if save and not cls._is_valid and not sys.dont_write_bytecode:
            with contextlib.suppress(OSError, ValueError):
                cls._write()
        cls._cached = cls._new = {}

    @classmethod
    def _read(cls) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError), open(PATTERNS_FILE, "rb") as file:
            version, patterns = marshal.loads(file.read())
            if version == sys.version:
                cls._cached, cls._is_valid = patterns, True

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
    preload()
    PatternCache.uninstall()

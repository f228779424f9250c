"""Reads Jupyter's configuration files as `jupyter lab` does, and after them the control API's own one.

A file that does not load ends the start with `ConfigFileError`, which names the file and the line. Jupyter itself logs
the error, without the file's name if it is JSON, and starts without that file's settings.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TextIO

from jupyter_core.paths import jupyter_config_dir, jupyter_config_path
from traitlets.config import Application, Config
from traitlets.config.loader import ConfigFileNotFound, JSONFileConfigLoader, PyFileConfigLoader

MAX_REASON_CHARS = 300
SUFFIXES = (".py", ".json")
# What Jupyter reads as plain JSON from each configuration folder: `NAME.json` and `NAME.d/*.json`.
JSON_NAMES = (
    "jupyter_server_config",
    "jupyter_notebook_config",
    os.path.join("labconfig", "page_config"),
    os.path.join("labconfig", "default_setting_overrides"),
)


class ConfigFileError(BaseException):
    """A configuration file does not load.

    It is no `Exception`, because Jupyter catches those and starts an extension without its configuration.
    """

    def __init__(self, path: str, line: int | None, reason: str) -> None:
        super().__init__(f"{path}{f' (line {line})' if line else ''}: {reason}")
        self.details = {"file": path, "line": line, "reason": reason}


class LoadedFile(NamedTuple):
    """A configuration file and the settings that it has."""

    path: str
    settings: Config


class Reader:
    """What has been read: the control API's file, and everything that the files have used."""

    def __init__(self) -> None:
        self.own_path: str | None = None
        self.is_own_turn = False
        self.loaded: list[LoadedFile] = []
        # What configuration files load or import. It may be outside the configuration folders.
        self.used: set[str] = set()

    def is_skipped(self, path: str) -> bool:
        """Whether it is the control API's file, which is read once, when all others have been."""
        return self.own_path is not None and not self.is_own_turn and os.path.realpath(path) == self.own_path


reader = Reader()


def install(own_path: str | None) -> None:
    """Makes Jupyter's applications of this process read configuration files with the loaders below."""
    reader.own_path = own_path and os.path.realpath(own_path)
    Application.python_config_loader_class = PythonLoader
    Application.json_config_loader_class = JsonLoader


def load_own(app: Application, path: str | None) -> None:
    """Reads the control API's file, which wins over all files that the application has read before."""
    if path is None:
        return
    folder, name = os.path.split(path)
    if not name.endswith(SUFFIXES):
        raise ConfigFileError(path, None, f"its name must end with {' or '.join(SUFFIXES)}")
    reader.is_own_turn = True
    Application.load_config_file(app, name, path=folder)
    reader.is_own_turn = False


class NamedLoader:
    """Names the file that does not load, and leaves the control API's own file out until its turn."""

    def _find_file(self) -> None:
        super()._find_file()
        if reader.is_skipped(self.full_filename):
            raise FileNotFoundError(self.full_filename)

    def load_config(self) -> Config:
        return load_named(self, super().load_config)


class PythonLoader(NamedLoader, PyFileConfigLoader):
    """Loads a configuration file in Python."""

    def _read_file_as_dict(self) -> None:
        before = set(sys.modules)
        super()._read_file_as_dict()
        files = [getattr(sys.modules.get(name), "__file__", None) for name in set(sys.modules) - before]
        reader.used.update(file for file in files if file)

    def load_subconfig(self, fname: str, path: str | None = None) -> None:
        # An error of that file belongs to the line that loads it, which may catch it.
        loader = PartLoader(fname, self.path if path is None else path)
        with contextlib.suppress(ConfigFileNotFound):
            self.config.merge(loader.load_config())


class PartLoader(PyFileConfigLoader):
    """Loads a file that another configuration file names."""

    def load_config(self) -> Config:
        reader.used.add(os.path.abspath(os.path.join(self.path or "", self.filename)))
        return super().load_config()


class JsonLoader(NamedLoader, JSONFileConfigLoader):
    """Loads a configuration file in JSON."""

    def _read_file_as_dict(self) -> dict:
        settings = super()._read_file_as_dict()
        require_object(settings)
        for name, section in settings.items():
            if name[:1].isupper() and not isinstance(section, dict):
                raise ValueError(f"{name} must be an object of settings")
        return settings


def load_named(loader: Any, load: Callable[[], Config]) -> Config:
    """Loads a file, and names it if that fails."""
    path = os.path.join(loader.path or "", loader.filename)
    try:
        settings = load()
    except ConfigFileNotFound:
        reason = explain_absence(path)
        if reason:
            raise ConfigFileError(path, None, reason) from None
        raise
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        path = loader.full_filename or path
        raise ConfigFileError(path, find_line(error, path), describe(error)) from error
    reader.loaded.append(LoadedFile(loader.full_filename, settings))
    return settings


def explain_absence(path: str) -> str | None:
    """Says what is in the place of a file that Jupyter takes for missing. None if nothing is, or if it is a device."""
    if os.path.isdir(path):
        return "it is a folder"
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which can't be read"
    return None


def check_json_files(paths: Iterable[str]) -> None:
    """Raises `ConfigFileError` if a file is no JSON object. Jupyter leaves such a file out; an empty one it allows."""
    for path in paths:
        try:
            if os.path.isfile(path) and os.path.getsize(path):
                with open(path, encoding="utf-8") as file:
                    require_object(load_json5(file) if path.endswith(".json5") else json.load(file))
        except (ValueError, OSError) as error:
            raise ConfigFileError(path, find_line(error, path), describe(error)) from error


def list_json_files(folders: Iterable[str]) -> Iterator[str]:
    """Yields the JSON files that Jupyter reads without traitlets: enabled extensions, and defaults of JupyterLab's pages."""
    for folder in folders:
        for name in JSON_NAMES:
            path = os.path.join(folder, name)
            yield from sorted(glob.glob(os.path.join(glob.escape(f"{path}.d"), "*.json")))
            yield f"{path}.json"


def list_application_files(folder: str) -> Iterator[str]:
    """Yields the JSON files of JupyterLab's application settings, which change its pages and their defaults."""
    for suffix in (".json", ".json5"):
        yield from sorted(glob.glob(os.path.join(glob.escape(folder), "overrides.d", f"*{suffix}")))
        for name in ("overrides", "page_config"):
            yield os.path.join(folder, f"{name}{suffix}")


def load_json5(file: TextIO) -> Any:
    """Reads a file with the library that JupyterLab reads it with."""
    import json5

    return json5.load(file)


def require_object(value: object) -> None:
    if not isinstance(value, dict):
        raise ValueError("it must hold one JSON object")


def find_line(error: BaseException, path: str) -> int | None:
    """Returns the line of a file that an error comes from, if there is one."""
    if isinstance(error, json.JSONDecodeError):
        return error.lineno
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno
    if isinstance(error, UnicodeDecodeError) and path.endswith(".json"):
        return error.object[: error.start].count(b"\n") + 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return lines[-1] if lines else None


def describe(error: BaseException) -> str:
    """Returns an error as the reason why a file does not load."""
    if isinstance(error, SystemExit):
        return f"it ended the program with sys.exit({error.code!r})"
    if isinstance(error, json.JSONDecodeError):
        if not error.doc.strip():
            return "it is empty, and JSON needs at least {}"
        if error.doc.startswith("\ufeff"):
            return "it begins with a byte order mark, which JSON must not have"
        return f"{error.msg} (column {error.colno})"
    text = "".join(traceback.format_exception_only(error)).strip().splitlines() or [type(error).__name__]
    # A syntax error is described by its lines, and what it is stands in the last one.
    line = text[-1] if isinstance(error, SyntaxError) else text[0]
    return line[:MAX_REASON_CHARS]


def find_folders(own_path: str | None) -> set[str]:
    """Returns the folders that configuration is read from. A file in them that changes makes an armed process stale."""
    from jupyterlab.commands import get_app_dir

    folders = {*jupyter_config_path(), jupyter_config_dir()}
    # `lab` holds what users set in the browser. It changes all the time, and is read at each request.
    inner = {os.path.join(folder, name) for folder in folders for name in list_names(folder) if name != "lab"}
    settings = os.path.join(get_app_dir(), "settings")
    inner |= {settings, os.path.join(settings, "overrides.d")}
    inner |= {os.path.join(folder, name) for folder in inner for name in list_names(folder) if name.endswith(".d")}
    return folders | inner | ({os.path.dirname(os.path.abspath(own_path))} if own_path else set())


def list_names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

"""What a warm process has read: files, folders and variables. A process whose fingerprint has changed is stale."""

from __future__ import annotations

import contextlib
import os
import site
import sys
from collections.abc import Callable, Iterable, Iterator

# Read where `record_environ` does not see it: when the interpreter, the C library, OpenSSL and SQLite are loaded, and by the
# files of setuptools and coverage that run before a program's first line.
UNSEEN_NAMES = (
    *("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_", "SQLITE_", "TMPDIR", "TZ"),
    *("SETUPTOOLS_", "COVERAGE_"),
)
# Stands for every name.
ALL_NAMES = "*"
# The variables that were read, set or not: a change of their values would come too late.
read_names: set[str] = set()

MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pth", ".egg-link", "-info")
CONFIG_SUFFIXES = (".py", ".json", ".json5", ".d", "config")


class Stale(Exception):
    """Something that was read has changed since. `renew`: a new process would read what is there now."""

    def __init__(self, reason: str, renew: bool = True) -> None:
        super().__init__(reason)
        self.renew = renew


@contextlib.contextmanager
def record_environ() -> Iterator[None]:
    """Records what is read meanwhile. The class of `os.environ` stays: modules that are imported may keep it."""
    kind = type(os.environ)
    read, iterate = kind.__getitem__, kind.__iter__

    def record(environ: os._Environ, name: str) -> str:
        read_names.add(os.fsdecode(name))
        return read(environ, name)

    def record_all(environ: os._Environ) -> Iterator[str]:
        read_names.add(ALL_NAMES)
        return iterate(environ)

    kind.__getitem__, kind.__iter__ = record, record_all
    yield
    kind.__getitem__, kind.__iter__ = read, iterate


def check_environ(changed: Iterable[str]) -> None:
    """Raises `Stale` if one of these variables was read, so that another value of it would have no effect."""
    for name in changed:
        if not read_names.isdisjoint((name, ALL_NAMES)) or name.startswith(UNSEEN_NAMES):
            raise Stale(f"{name} was read before the start gave it another value")


class Fingerprint:
    """The state of the files and folders that were read, as each `look` function describes it."""

    def __init__(self) -> None:
        self._states: dict[tuple[Callable[[str], object], str], tuple[object, object]] = {}
        self.add(stat_path, [os.path.join(sys.prefix, "pyvenv.cfg"), *list_start_files()])

    def add(self, look: Callable[[str], object], paths: Iterable[str]) -> None:
        for path in paths:
            self._states.setdefault((look, path), (stat_path(path), look(path)))

    def check(self) -> None:
        """Raises `Stale` if one of them has changed."""
        for (look, path), (status, state) in self._states.items():
            # A file that is added or removed changes its folder. One that is edited does not, which matters for config.
            is_same = look is not list_config and stat_path(path) == status
            if not is_same and look(path) != state:
                raise Stale(f"{path} has changed")


def stat_path(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def list_import_folders() -> list[str]:
    """Returns the folders of `sys.path`, and those that a new process has there, too, if they exist by then."""
    own = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*sys.path, *own, *site.getsitepackages()]


def list_modules(path: str) -> object:
    """Returns what can be imported from a folder of `sys.path`. A notebook that is saved there makes no difference."""
    names = list_folder(path)
    return {name for name in names if name != "__pycache__" and ("." not in name or name.endswith(MODULE_SUFFIXES))}


def list_start_files() -> list[str]:
    """Returns the files with code that Python runs before a program's first line. They may be edited in place."""
    hooks = [getattr(sys.modules.get(name), "__file__", None) for name in ("sitecustomize", "usercustomize")]
    folders = [(folder, list_folder(folder)) for folder in list_import_folders()]
    paths = [os.path.join(folder, name) for folder, names in folders for name in names if name.endswith(".pth")]
    return [*filter(None, hooks), *paths]


def list_config(path: str) -> object:
    """Returns the configuration files of a folder with their state, as they may be edited in place."""
    names = list_folder(path)
    return {name: stat_path(os.path.join(path, name)) for name in names if name.endswith(CONFIG_SUFFIXES)}


def list_folder(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def find_module_folders() -> set[str]:
    """Returns the folders of all imported modules. Installing a package replaces files, which changes a folder."""
    # A module whose import is deferred must not be imported by a look at it.
    attributes = [object.__getattribute__(module, "__dict__") for module in list(sys.modules.values())]
    files = [names.get("__file__") for names in attributes]
    return {os.path.dirname(file) for file in files if file}


def require_one_thread() -> None:
    """Raises `Stale` if there are threads, which a fork would not copy."""
    with contextlib.suppress(OSError):
        count = len(os.listdir("/proc/self/task"))
        if count > 1:
            raise Stale(f"it has {count} threads after its imports, which a fork does not copy")

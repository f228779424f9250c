"""Keeps a JupyterLab ready: imports all that one needs, and waits for the order to become it, in this very process.

Lines of JSON come on standard input and go to standard output:

    in   {"order": {...}, "env": {NAME: value or null}, "cwd": path, "log": path}   become JupyterLab now
    in   {"arm": {...}, "env": ..., "cwd": ..., "log": ...}   initialise it, and hold just before the port is taken
    in   {"go": {}, "log": path}                              take the port
    out  {"phase": "warm", "ms": ..., "missing": [...]}, {"phase": "armed"}, and the launcher's phases
    out  {"phase": "stale", "reason": ...}   and exit code 75: only a new process does what JupyterLab would do now

"env", "cwd" and "log" can be left out. The end of the input before JupyterLab runs is the control API's end, and this
process's too, with exit code 0.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher.py")
SPEC = importlib.util.spec_from_file_location("launcher", PATH)
launcher = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(launcher)
imports = launcher.imports

EXIT_STALE = 75
# Of the warm-up's thread only: nobody but root can take back the priority that a process has given away.
WARM_UP_NICE = 10
# Nobody may be left to kill a process whose configuration file, or an extension's thread, never ends.
ARM_LIMIT_S = 60
LEAVE_LIMIT_S = 5

# What the interpreter, the C library, OpenSSL and SQLite read when they are loaded, where nothing here sees it.
NATIVE_NAMES = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_", "SQLITE_", "TMPDIR", "TZ")

MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pth", ".egg-link", "-info")
CONFIG_SUFFIXES = (".py", ".json", ".d", "config")


class Stale(Exception):
    """What was read at import or at arming is not what it was."""


class RecordedEnviron(type(os.environ)):
    """`os.environ` that remembers which names it was asked for, set or not: their values can't come late."""

    names: set[str] = set()
    read_as_a_whole = False

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        type(self).read_as_a_whole = True
        return super().__iter__()


@contextlib.contextmanager
def record_environ() -> Iterator[None]:
    # This one keeps a copy of the whole environment, for CGI programs. There are none.
    importlib.import_module("wsgiref.handlers")
    stock = type(os.environ)
    os.environ.__class__ = RecordedEnviron
    yield
    os.environ.__class__ = stock


class Fingerprint:
    """How the folders and files looked that were read."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Callable[[str], object], str], tuple[object, object]] = {}

    def add(self, look: Callable[[str], object], paths: Iterable[str]) -> None:
        for path in paths:
            self._seen.setdefault((look, path), (look_at_entry(path), look(path)))

    def check(self) -> None:
        """Raises `Stale` where one looks different now."""
        for (look, path), (entry, seen) in self._seen.items():
            # No file comes or goes without a trace in its folder.
            settled = look is not look_at_config and look_at_entry(path) == entry
            if not settled and look(path) != seen:
                raise Stale(f"{path} has changed")


def look_at_entry(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino


def look_at_modules(path: str) -> object:
    """What can be imported from a folder of `sys.path`. A notebook that is saved in it changes nothing."""
    names = list_folder(path)
    return {name for name in names if "." not in name or name.endswith(MODULE_SUFFIXES)}


def look_at_config(path: str) -> object:
    """The configuration files in a folder, which can also be changed in place."""
    names = list_folder(path)
    return {name: look_at_entry(os.path.join(path, name)) for name in names if name.endswith(CONFIG_SUFFIXES)}


def list_folder(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def find_module_folders() -> set[str]:
    """The folders of everything that was imported. Installing a package replaces its files, which its folder shows."""
    files = [imports.look_into(module).get("__file__") for module in list(sys.modules.values())]
    return {os.path.dirname(file) for file in files if file}


def find_lab_folders() -> set[str]:
    """JupyterLab's own files and its browser-side extensions."""
    from jupyter_core.paths import jupyter_path
    from jupyterlab.commands import get_app_dir

    own = {os.path.join(get_app_dir(), name) for name in ("static", "settings", "schemas", "themes")}
    extensions = jupyter_path("labextensions")
    return {*own, *extensions, *(os.path.join(folder, name) for folder in extensions for name in list_folder(folder))}


def find_config_folders(order: dict) -> set[str]:
    """Where JupyterLab and its extensions look for configuration when they are initialised."""
    from jupyter_core.paths import jupyter_config_dir, jupyter_config_path

    folders = {*jupyter_config_path(), jupyter_config_dir()}
    # The browser's own settings are in `lab`. They are written all the time, and read at each request.
    below = {os.path.join(folder, name) for folder in folders for name in list_folder(folder) if name != "lab"}
    files = [argument.partition("=")[2] for argument in order["arguments"] if argument.startswith("--config=")]
    return folders | below | {os.path.dirname(os.path.abspath(file)) for file in files}


def take_log(message: dict) -> None:
    """Writes into the start's log from now on; until then there can be another JupyterLab's lines in it."""
    if "log" in message:
        log = os.open(message["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


class Standby:
    """A JupyterLab in waiting."""

    def __init__(self) -> None:
        self._reporter = launcher.Reporter()
        self._orders = launcher.Orders()
        self._log = launcher.open_log()
        self._fingerprint = Fingerprint()
        self._missing: list[str] = []

    def run(self) -> None:
        """Warms up and waits. The order can come before all is warm. Ends with the process."""
        gc.disable()
        launcher.leave_own_folder()
        warm_up = threading.Thread(target=self._warm_up)
        warm_up.start()
        message = self._orders.read()
        if message is None:
            os._exit(0)
        warm_up.join()
        try:
            self._fingerprint.check()
            self._settle(message)
            if "arm" in message:
                self._arm(message["arm"])
            else:
                self._orders.close()
                launcher.become_jupyterlab(message["order"], self._reporter)
        except Stale as reason:
            self._leave_stale(reason)

    def _warm_up(self) -> None:
        begun = time.perf_counter()
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WARM_UP_NICE)
            self._fingerprint.add(look_at_modules, sys.path)
            with record_environ():
                imports.import_jupyterlab()
                imports.import_the_rest()
            # It asks a program, and remembers the answer.
            platform.processor()
            self._missing = launcher.find_missing_hooks()
            self._fingerprint.add(look_at_entry, find_module_folders() | find_lab_folders())
            gc.collect()
            gc.freeze()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        self._reporter.tell("warm", ms=round((time.perf_counter() - begun) * 1000), missing=self._missing)

    def _settle(self, message: dict) -> None:
        """Takes over the environment, the working directory and the log of the start."""
        env = {name: value for name, value in message.get("env", {}).items() if os.environ.get(name) != value}
        for name in env:
            if RecordedEnviron.read_as_a_whole or name in RecordedEnviron.names or name.startswith(NATIVE_NAMES):
                raise Stale(f"{name} was read before it was given")
        for name, value in env.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if "cwd" in message:
            os.chdir(message["cwd"])
        take_log(message)
        self._log.mask(message.get("arm", message.get("order"))["secrets"])

    def _arm(self, order: dict) -> None:
        if self._missing:
            raise Stale(f"This JupyterLab can't be armed: it has no {', '.join(self._missing)}")
        self._fingerprint.add(look_at_config, find_config_folders(order))
        signal.alarm(ARM_LIMIT_S)
        launcher.become_jupyterlab(order, self._reporter, self._hold)

    def _hold(self, app: Any) -> None:
        """Waits for the word to go on, in a JupyterLab that is initialised."""
        signal.alarm(0)
        # JupyterLab's handler only tells the loop to stop, and there is none yet.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._fingerprint.add(look_at_entry, find_module_folders())
        gc.collect()
        gc.freeze()
        self._reporter.tell("armed")
        go = self._orders.read()
        self._orders.close()
        if go is None:
            # Extensions end as they do with JupyterLab, but not for ever.
            signal.alarm(LEAVE_LIMIT_S)
            sys.exit(0)
        try:
            self._fingerprint.check()
        except Stale as reason:
            self._leave_stale(reason)
        take_log(go)
        signal.signal(signal.SIGTERM, handler)
        # The start that `/api/status` names, and from which the clock of idleness runs.
        settings = app.web_app.settings
        settings["started"] = datetime.now(settings["started"].tzinfo)

    def _leave_stale(self, reason: Stale) -> None:
        self._reporter.tell("stale", reason=str(reason))
        signal.alarm(LEAVE_LIMIT_S)
        sys.exit(EXIT_STALE)


if __name__ == "__main__":
    Standby().run()

"""Imports JupyterLab ahead of time, and becomes it when the control API asks for it.

Messages are lines of JSON. The control API writes to standard input:

    {"spec": {...}, "env": {NAME: value or null}, "cwd": path, "log": path}   become JupyterLab now
    {"arm": {...}, "env": ..., "cwd": ..., "log": ...}   initialise it by this launch spec, and wait for "go"
    {"go": {}, "log": path}   bind the port

"env", "cwd" and "log" are optional. This process writes to standard output:

    {"phase": "warm", "ms": ..., "missing": [...]}   everything is imported; the launcher's missing hooks
    {"phase": "armed"}   JupyterLab is initialised
    {"phase": "stale", "reason": ...}   what was read has changed: exit code 75 follows, and a new process is needed
    and the launcher's reports

When standard input closes before JupyterLab runs, the control API has ended: this process exits with code 0.
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
# Only the warm-up's thread is nice: a process that has lowered its priority can't raise it again unless it is root.
WARM_UP_NICE = 10
# The control API may have died by now, so a configuration file or an extension that hangs is ended by SIGALRM.
ARM_LIMIT_S = 60
EXIT_LIMIT_S = 5

# Read by the interpreter, the C library, OpenSSL and SQLite when they are loaded, which `RecordedEnviron` can't see.
NATIVE_NAMES = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_", "SQLITE_", "TMPDIR", "TZ")

MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pth", ".egg-link", "-info")
CONFIG_SUFFIXES = (".py", ".json", ".d", "config")


class Stale(Exception):
    """Something that was read at import or at arming has changed since."""


class RecordedEnviron(type(os.environ)):
    """`os.environ` that records which names are read, set or not: a change of their values would come too late."""

    names: set[str] = set()
    was_iterated = False

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        type(self).was_iterated = True
        return super().__iter__()


@contextlib.contextmanager
def record_environ() -> Iterator[None]:
    # wsgiref copies the whole environment at import, for CGI programs, which do not run here: it is not recorded.
    importlib.import_module("wsgiref.handlers")
    stock = type(os.environ)
    os.environ.__class__ = RecordedEnviron
    yield
    os.environ.__class__ = stock


class Fingerprint:
    """The state of the files and folders that were read, as each `look` function describes it."""

    def __init__(self) -> None:
        self._states: dict[tuple[Callable[[str], object], str], tuple[object, object]] = {}

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


def list_modules(path: str) -> object:
    """Returns what can be imported from a folder of `sys.path`. A notebook that is saved there makes no difference."""
    names = list_folder(path)
    return {name for name in names if name != "__pycache__" and ("." not in name or name.endswith(MODULE_SUFFIXES))}


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
    files = [imports.module_dict(module).get("__file__") for module in list(sys.modules.values())]
    return {os.path.dirname(file) for file in files if file}


def find_lab_folders() -> set[str]:
    """Returns the folders of JupyterLab's page and of its extensions for the browser."""
    from jupyter_core.paths import jupyter_path
    from jupyterlab.commands import get_app_dir

    own = {os.path.join(get_app_dir(), name) for name in ("static", "settings", "schemas", "themes")}
    extensions = jupyter_path("labextensions")
    return {*own, *extensions, *(os.path.join(folder, name) for folder in extensions for name in list_folder(folder))}


def redirect_output(message: dict) -> None:
    """Sends output to the log that the message names. Until a start another JupyterLab may own that log."""
    if "log" in message:
        log = os.open(message["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


class Standby:
    """A process that waits to become JupyterLab."""

    def __init__(self) -> None:
        self._reporter = launcher.Reporter()
        self._messages = launcher.MessageReader()
        self._log = launcher.open_log()
        self._fingerprint = Fingerprint()
        self._missing: list[str] = []

    def run(self) -> None:
        """Warms up, waits for a message, which may come before that is done, and runs until the process ends."""
        gc.disable()
        launcher.fix_import_path()
        warm_up = threading.Thread(target=self._warm_up)
        warm_up.start()
        message = self._messages.read()
        if message is None:
            os._exit(0)
        warm_up.join()
        try:
            self._fingerprint.check()
            self._apply(message)
            if "arm" in message:
                self._arm(message["arm"])
            else:
                self._messages.close()
                launcher.become_jupyterlab(message["spec"], self._reporter)
        except Stale as reason:
            self._exit_stale(reason)

    def _warm_up(self) -> None:
        started = time.perf_counter()
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), WARM_UP_NICE)
            self._fingerprint.add(list_modules, sys.path)
            with record_environ():
                imports.import_jupyterlab()
                imports.preload()
                with contextlib.suppress(ImportError):
                    launcher.load_module("websockets")
            # It runs a program and caches the answer.
            platform.processor()
            self._missing = launcher.find_missing_hooks()
            self._fingerprint.add(stat_path, find_module_folders() | find_lab_folders())
            gc.collect()
            gc.freeze()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        self._reporter.report("warm", ms=round((time.perf_counter() - started) * 1000), missing=self._missing)

    def _apply(self, message: dict) -> None:
        """Takes over the environment, the working directory and the log of the start."""
        env = {name: value for name, value in message.get("env", {}).items() if os.environ.get(name) != value}
        for name in env:
            if RecordedEnviron.was_iterated or name in RecordedEnviron.names or name.startswith(NATIVE_NAMES):
                raise Stale(f"{name} was read before the start gave it another value")
        for name, value in env.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if "cwd" in message:
            os.chdir(message["cwd"])
        redirect_output(message)
        self._log.mask(message.get("arm", message.get("spec"))["secrets"])

    def _arm(self, spec: dict) -> None:
        if self._missing:
            raise Stale(f"This JupyterLab can't be armed: it lacks {', '.join(self._missing)}")
        self._fingerprint.add(list_config, launcher.load_module("config_files").find_folders(spec["config_file"]))
        signal.alarm(ARM_LIMIT_S)
        launcher.become_jupyterlab(spec, self._reporter, self._hold)

    def _hold(self, app: Any) -> None:
        """Waits for the message "go", in a JupyterLab that is initialised."""
        signal.alarm(0)
        # JupyterLab's own handler only stops the event loop, which does not run yet.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._fingerprint.add(stat_path, find_module_folders() | launcher.load_module("config_files").reader.used)
        gc.collect()
        gc.freeze()
        self._reporter.report("armed")
        go = self._messages.read()
        self._messages.close()
        if go is None:
            # Extensions run their exit handlers as in any JupyterLab, within a limit.
            signal.alarm(EXIT_LIMIT_S)
            sys.exit(0)
        try:
            self._fingerprint.check()
        except Stale as reason:
            self._exit_stale(reason)
        redirect_output(go)
        signal.signal(signal.SIGTERM, handler)
        # The start time that `/api/status` shows, from which idle time counts.
        settings = app.web_app.settings
        settings["started"] = datetime.now(settings["started"].tzinfo)

    def _exit_stale(self, reason: Stale) -> None:
        self._reporter.report("stale", reason=str(reason))
        signal.alarm(EXIT_LIMIT_S)
        sys.exit(EXIT_STALE)


if __name__ == "__main__":
    Standby().run()

"""Imports JupyterLab once, and forks a process for each start, which becomes JupyterLab by the launcher's code.

Messages are lines of JSON. The control API writes to standard input:

    {"id": n, "spec": {...}, "env": {NAME: value or null}, "cwd": path, "log": path}   fork a JupyterLab
    the same with "arm" in place of "spec", and no log: fork one that is initialised and waits for "go"
    {"id": n, "go": {}, "log": path}   the armed one with this number binds its port
    {"id": n, "learn": {}}   that one has just bound its port: it shows what a start writes

Every process writes to the same pipe, with its number:

    {"phase": "warm"}   the zygote is ready
    {"phase": "forked", "pid": ...}, {"phase": "armed"} and the launcher's reports
    {"phase": "stale", "reason": ..., "renew": ...}   this start has to be cold; `renew`: a new zygote may serve
    {"phase": "exited", "code": ..., "signal": ...}   the zygote has seen a process end

When standard input closes the control API has ended. The zygote leaves then, and so do armed processes, but a
JupyterLab that runs does not depend on it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import platform
import select
import signal
import sys
import threading
import traceback
from datetime import datetime
from typing import Any

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launcher.py")
SPEC = importlib.util.spec_from_file_location("launcher", PATH)
launcher = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(launcher)
imports = launcher.imports
fingerprint = launcher.load_module("fingerprint")
prefault = launcher.load_module("prefault")
Stale = fingerprint.Stale

# The control API may have died by now, so a configuration file or an extension that hangs is ended by SIGALRM.
ARM_LIMIT_S = 60
EXIT_LIMIT_S = 5
EXIT_STALE = 75
READ_BYTES = 65536


def find_lab_folders() -> set[str]:
    """Returns the folders of JupyterLab's page and of its extensions for the browser."""
    from jupyter_core.paths import jupyter_path
    from jupyterlab.commands import get_app_dir

    own = {os.path.join(get_app_dir(), name) for name in ("static", "settings", "schemas", "themes")}
    extensions = jupyter_path("labextensions")
    inner = {os.path.join(folder, name) for folder in extensions for name in fingerprint.list_folder(folder)}
    return {*own, *extensions, *inner}


def redirect_output(path: str) -> None:
    """Sends output to a log file. Until a start another JupyterLab may own it."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


class Zygote:
    """The process that forks, and in each forked process what it becomes."""

    def __init__(self) -> None:
        self._view = launcher.load_module("proc_view").ProcView()
        self._reporter = launcher.Reporter()
        self._requests = launcher.take_input()
        self._log = launcher.masked_log.open_log()
        self._fingerprint = fingerprint.Fingerprint()
        self._missing: list[str] = []
        # Of each process that was forked: its number, and the pipe to one that is armed.
        self._children: dict[int, int] = {}
        self._armed: dict[int, int] = {}
        self._written: list[tuple[int, int]] = []

    def warm_up(self) -> None:
        """Imports everything. A failure ends the process, with its reason in the log."""
        gc.disable()
        launcher.fix_import_path()
        self._fingerprint.add(fingerprint.list_modules, fingerprint.list_import_folders())
        # It copies the whole environment at import, for CGI programs, which do not run here: that is not recorded.
        importlib.import_module("wsgiref.handlers")
        with fingerprint.record_environ():
            imports.import_jupyterlab()
            imports.preload()
            for name in ("websockets", "kernels", "kernel_forks"):
                with contextlib.suppress(ImportError):
                    launcher.load_module(name)
        # It runs a program and caches the answer.
        platform.processor()
        launcher.load_module("first_page").prepare(launcher.load_module)
        self._missing = launcher.find_missing_hooks()
        self._fingerprint.add(fingerprint.stat_path, fingerprint.find_module_folders() | find_lab_folders())
        fingerprint.require_one_thread()
        # Without a collection first: imports leave next to no garbage, and it would take a tenth of their time.
        gc.freeze()
        self._reporter.report("warm")

    def serve(self) -> None:
        """Forks for each message, and reports each end. Returns only in a forked process."""
        wake_up, waker = os.pipe()
        for end in (wake_up, waker):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        rest = b""
        while True:
            ready, _, _ = select.select([self._requests, wake_up], [], [])
            if wake_up in ready:
                os.read(wake_up, READ_BYTES)
                self._reap()
            if self._requests not in ready:
                continue
            chunk = os.read(self._requests, READ_BYTES)
            if not chunk:
                os._exit(0)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "learn" in message:
                    self._learn(message["id"])
                elif "go" in message:
                    self._release(message["id"], line)
                elif self._fork(message):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for descriptor in (wake_up, waker, self._requests, *self._armed.values()):
                        os.close(descriptor)
                    return self._become(message)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                number = self._children.pop(pid, None)
                if number is None:
                    continue
                if number in self._armed:
                    os.close(self._armed.pop(number))
                killed = os.WIFSIGNALED(status)
                self._reporter.report(
                    "exited",
                    id=number,
                    code=None if killed else os.WEXITSTATUS(status),
                    signal=signal.Signals(os.WTERMSIG(status)).name if killed else None,
                )

    def _learn(self, number: int) -> None:
        """Remembers which pages a JupyterLab that has just started has written: the next one will write the same."""
        for pid in [pid for pid, child in self._children.items() if child == number]:
            self._written = prefault.find_written(pid)

    def _release(self, number: int, line: bytes) -> None:
        """Passes "go" on. One that has ended is reported as such."""
        pipe = self._armed.pop(number, None)
        if pipe is not None:
            with contextlib.suppress(OSError):
                os.write(pipe, line + b"\n")
            os.close(pipe)

    def _fork(self, message: dict) -> bool:
        """Whether this is the forked process."""
        number = message["id"]
        go, pipe = os.pipe() if "arm" in message else (-1, -1)
        try:
            pid = os.fork()
        except OSError as error:
            self._reporter.report("stale", id=number, reason=f"it can't be forked: {error.strerror}", renew=False)
            pid = -1
        if pid == 0:
            self._go = go
            if pipe >= 0:
                os.close(pipe)
            return True
        if go >= 0:
            os.close(go)
            if pid > 0:
                self._armed[number] = pipe
            else:
                os.close(pipe)
        if pid > 0:
            self._children[pid] = number
        return False

    def _become(self, message: dict) -> None:
        """Makes this process the JupyterLab of a message, in a session of its own."""
        self._reporter.details["id"] = message["id"]
        prefault.copy(self._written)
        # A fork leaves it as it was in the other process.
        with contextlib.suppress(AttributeError):
            threading.main_thread()._set_native_id()
        try:
            os.setsid()
            # The mark by which this process and its children are found, whatever happens to them.
            name = "JUPYTER_RUNTIME_DIR"
            if not self._view.show_variable(name, message["env"][name]):
                raise Stale(f"/proc/PID/environ can't show its {name}")
            self._reporter.report("forked", pid=os.getpid())
            self._apply(message)
            self._fingerprint.check()
            launcher.call_module("folders", "prepare")
            if "arm" in message:
                self._arm(message["arm"])
            else:
                launcher.become_jupyterlab(message["spec"], self._reporter)
        except Stale as reason:
            self._exit_stale(reason)

    def _apply(self, message: dict) -> None:
        """Takes over the environment, the working directory and the log of the start."""
        env = {name: value for name, value in message["env"].items() if os.environ.get(name) != value}
        fingerprint.check_environ(env)
        for name, value in env.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        os.chdir(message["cwd"])
        if "log" in message:
            redirect_output(message["log"])
        self._log.mask(message.get("arm", message.get("spec"))["secrets"])

    def _arm(self, spec: dict) -> None:
        if self._missing:
            raise Stale(f"This JupyterLab can't be armed: it lacks {', '.join(self._missing)}", renew=False)
        folders = launcher.load_module("config_files").find_folders(spec["config_file"])
        self._fingerprint.add(fingerprint.list_config, folders)
        signal.alarm(ARM_LIMIT_S)
        launcher.become_jupyterlab(spec, self._reporter, self._hold)

    def _hold(self, app: Any) -> None:
        """Waits for the message "go", in a JupyterLab that is initialised."""
        signal.alarm(0)
        # JupyterLab's own handler only stops the event loop, which does not run yet.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        used = launcher.load_module("config_files").reader.used
        self._fingerprint.add(fingerprint.stat_path, fingerprint.find_module_folders() | used)
        gc.freeze()
        self._reporter.report("armed")
        with os.fdopen(self._go, "rb") as pipe:
            line = pipe.readline()
        if not line.endswith(b"\n"):
            # Extensions run their exit handlers as in any JupyterLab, within a limit.
            signal.alarm(EXIT_LIMIT_S)
            sys.exit(0)
        try:
            self._fingerprint.check()
        except Stale as reason:
            # What the zygote itself has read is compared at its next fork.
            self._exit_stale(Stale(str(reason), renew=False))
        redirect_output(json.loads(line)["log"])
        signal.signal(signal.SIGTERM, handler)
        # The start time that `/api/status` shows, from which idle time counts.
        settings = app.web_app.settings
        settings["started"] = datetime.now(settings["started"].tzinfo)

    def _exit_stale(self, reason: Stale) -> None:
        self._reporter.report("stale", reason=str(reason), renew=reason.renew)
        signal.alarm(EXIT_LIMIT_S)
        sys.exit(EXIT_STALE)


def main() -> None:
    zygote = Zygote()
    try:
        zygote.warm_up()
    except BaseException as error:
        if isinstance(error, Stale):
            print(f"JupyterLab can't be forked from this process: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        os._exit(1)
    zygote.serve()


if __name__ == "__main__":
    main()

"""Becomes JupyterLab by an order from the control API, in this very process.

The order is one line of JSON on standard input, so that no secret stands on a command line or in an environment. What
happens is told in lines of JSON on standard output until the port is bound: {"phase": "imported"}, {"phase":
"configured"}, {"phase": "bound", "server": {...}}. After that standard output is JupyterLab's log, as standard error is
from the beginning.

A JupyterLab that lacks what this program takes hold of is started as `jupyter lab` starts it, with the settings as
command line arguments inside the process: {"phase": "plain"} says so, and nothing is told after it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.util
import io
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

MASK = "***"
ROOMS = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(os.path.dirname(sys.executable), "jupyter-lab")
SAFE_EXTENSIONS = {"jupyterlab": True, "jupyter_lsp": True, "jupyter_server_terminals": True}

# What is overridden, set or called by name. Nothing of it is touched before all of it was found.
HOOKS = {
    "jupyterlab.labapp:LabApp": "launch_instance serverapp_class serverapp_config",
    "jupyter_server.serverapp:ServerApp": "parse_command_line load_config_file raise_config_file_errors update_config "
    "init_resources init_configurables init_shutdown_no_activity init_httpserver _bind_http_server server_info start_ioloop "
    "tornado_settings identity_provider_class",
    "traitlets.config.loader:DeferredConfigString": "get_value",
}


def load_room(name: str) -> Any:
    """A file beside this one, be its folder in `sys.path` or not. It enters no table that an extension could find it in."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOMS, f"{name}.py"))
    room = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(room)
    return room


imports = load_room("imports")


class MaskedStream(io.TextIOWrapper):
    """The log without secrets: a gateway kernel makes JupyterLab log its environment, tokens included."""

    secrets: re.Pattern[str] | None = None

    def write(self, text: str) -> int:
        return super().write(self.secrets.sub(MASK, text) if self.secrets else text)

    def mask(self, secrets: list[str]) -> None:
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
        # A short one is masked only as a word of its own, so that a token such as `a` leaves the log readable.
        patterns = [re.escape(form) if len(form) >= 8 else rf"(?<!\w){re.escape(form)}(?!\w)" for form in forms if form]
        self.secrets = re.compile("|".join(sorted(patterns, key=len, reverse=True))) if patterns else None


def open_log() -> MaskedStream:
    """Puts a masked stream in place of both outputs, before anything keeps the originals."""
    stream = MaskedStream(open(2, "wb", buffering=0, closefd=False), "utf-8", "backslashreplace", write_through=True)
    sys.stdout = sys.__stdout__ = sys.stderr = sys.__stderr__ = stream
    return stream


class Reporter:
    """The way back to the control API. Its death is no reason for JupyterLab to die: a closed pipe is passed over."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def tell(self, phase: str, **more: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self._descriptor, (json.dumps({"phase": phase, **more}) + "\n").encode())

    def close(self) -> None:
        os.close(self._descriptor)


class Orders:
    """The control API's lines. Standard input itself becomes /dev/null, as a server in a container has it."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(0), "rb")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def read(self) -> dict | None:
        """The next line; None at the end of the pipe, which is the control API's end."""
        line = self._pipe.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def close(self) -> None:
        self._pipe.close()


def leave_own_folder() -> None:
    """A console script has its own folder in `sys.path[0]`, and this program's folder is no place to import from."""
    if sys.path[:1] == [ROOMS]:
        sys.path[0] = os.path.dirname(sys.executable)


def watch_language_server_search() -> Callable[[], None]:
    """Returns what ends jupyter_lsp's search, which runs in a thread, asks npm, and would delay a stop soon after."""
    manager = getattr(sys.modules.get("jupyter_lsp.manager"), "LanguageServerManager", None)
    initialize = getattr(manager, "initialize", None)
    searching = []

    def initialize_watched(*args: object) -> None:
        searching.append(threading.current_thread())
        try:
            initialize(*args)
        finally:
            searching.clear()

    def end() -> None:
        for thread in searching[:]:
            import ctypes

            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            # It does not hear of that while it waits for a child.
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread.native_id}/children") as children:
                for child in children.read().split():
                    os.kill(int(child), signal.SIGKILL)

    if initialize:
        manager.initialize = initialize_watched
    return end


def find_missing_hooks() -> list[str]:
    """The names that this program relies on and that the installed JupyterLab has not got."""
    found = {place: getattr(imports.find_module(place.split(":")[0]), place.split(":")[1], None) for place in HOOKS}
    return [f"{place}.{name}" for place in found for name in HOOKS[place].split() if not hasattr(found[place], name)]


def become_jupyterlab(order: dict, reporter: Reporter, hold: Callable[[Any], None] = lambda app: None) -> None:
    """Runs JupyterLab with the order's settings until it ends. They win over every configuration file.

    `hold` gets the application once it is initialised, and returns when the port may be taken.
    """
    hold = functools.cache(hold)
    missing = find_missing_hooks()
    reporter.tell("imported")
    if missing:
        become_plain_jupyterlab(order, reporter, missing)
    from jupyter_server.serverapp import ServerApp as StockServerApp
    from jupyterlab.labapp import LabApp
    from traitlets import Unicode
    from traitlets.config import Config
    from traitlets.config.loader import DeferredConfigString

    class ExactString(DeferredConfigString):
        """A string that reaches a string trait letter for letter (`~` and quotes too), and is parsed for any other."""

        # The inherited one calls itself for ever in a subclass; JupyterLab prints its configuration with --debug.
        __repr__ = str.__repr__

        def get_value(self, trait):
            return str(self) if isinstance(trait, Unicode) else super().get_value(trait)

    settings = Config()
    for class_name, trait, value in order["settings"]:
        settings[class_name][trait] = ExactString(value) if isinstance(value, str) else value

    class ServerApp(StockServerApp):
        # Without this a file that does not load is logged, and the server starts without its settings.
        raise_config_file_errors = True
        # The page that a browser would be sent to holds the token and can be read by everybody.
        no_browser_open_file = True

        def parse_command_line(self, argv=None):
            super().parse_command_line(argv)
            self.update_config(settings)

        def load_config_file(self, suppress_errors=True):
            try:
                super().load_config_file(suppress_errors)
            except SystemExit as error:
                raise RuntimeError(f"A configuration file ended the program with sys.exit({error.code!r})") from error
            reporter.tell("configured")

        def init_resources(self):
            # Extensions have moved settings of their own here (NotebookApp.ip becomes ServerApp.ip): ours come last.
            self.update_config(settings)
            super().init_resources()

        def init_configurables(self):
            super().init_configurables()
            if self.gateway_config.gateway_enabled:
                load_room("gateway").attend(self)
            if order["embed"]:
                load_room("embed").attend(self, order["embed"])

        def init_shutdown_no_activity(self):
            hold(self)
            super().init_shutdown_no_activity()

        def init_httpserver(self):
            # The port stays free until `hold` has returned, whatever is or is not called before this.
            hold(self)
            super().init_httpserver()

        def _bind_http_server(self):
            super()._bind_http_server()
            reporter.tell("bound", server=self.server_info())
            reporter.close()
            imports.Patterns.settle()
            # What there is now stays for good: no collection, and no end of the process, has to go through it.
            gc.freeze()
            gc.enable()

        def start_ioloop(self):
            end_search = watch_language_server_search()
            super().start_ioloop()
            end_search()
            gc.freeze()

    LabApp.serverapp_class = ServerApp
    LabApp.raise_config_file_errors = True
    if order["safe_mode"]:
        LabApp.serverapp_config = {"jpserver_extensions": SAFE_EXTENSIONS}
    sys.argv = [PROGRAM, *order["arguments"]]
    LabApp.launch_instance()
    end_process()


def end_process() -> None:
    """Ends as an interpreter does, but for taking its memory apart piece by piece, which the system does at once."""
    for finish in (threading._shutdown, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            finish()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def become_plain_jupyterlab(order: dict, reporter: Reporter, missing: list[str]) -> None:
    """Runs JupyterLab as its console script does, with the settings as arguments that `ps` does not see."""
    print(f"This JupyterLab has no {', '.join(missing)}: it is started as `jupyter lab` starts it", file=sys.stderr)
    from jupyter_server.serverapp import ServerApp
    from jupyterlab.labapp import main as jupyter_lab
    from traitlets.config import Application

    Application.raise_config_file_errors = True
    ServerApp.no_browser_open_file = True
    settings = list(order["settings"])
    if order["safe_mode"]:
        settings.append(("ServerApp", "jpserver_extensions", SAFE_EXTENSIONS))
    if order["embed"]:
        settings += load_room("embed").list_settings(order["embed"])
    sys.argv = [PROGRAM, *order["arguments"]]
    for name, trait, value in settings:
        sys.argv += [f"--{name}.{trait}={item}" for item in (isinstance(value, list) and value or [value])]
    gc.freeze()
    gc.enable()
    imports.Patterns.settle(keep=False)
    reporter.tell("plain")
    reporter.close()
    sys.exit(jupyter_lab())


def main() -> None:
    reporter = Reporter()
    orders = Orders()
    log = open_log()
    order = orders.read()
    orders.close()
    if order is None:
        sys.exit("The control API ended before it gave its order")
    log.mask(order["secrets"])
    leave_own_folder()
    # Imports only allocate: a collection among them finds nothing.
    gc.disable()
    imports.import_jupyterlab()
    become_jupyterlab(order, reporter)


if __name__ == "__main__":
    main()

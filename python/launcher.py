"""Turns this process into the JupyterLab that a launch spec describes.

The control API writes the launch spec, one line of JSON, to standard input: no secret is on a command line or in an
environment. Reports go back through the pipe that was standard output, one line of JSON each: {"phase": "imported"},
{"phase": "configured"}, {"phase": "bound", "server": {...}, ...}, or {"phase": "refused", "refusal": {...}}, which names
the configuration file or the setting that ends the start. Standard output itself becomes JupyterLab's log, as standard
error is. If the installed JupyterLab lacks a name that is used here, `fallback.py` runs it instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib.util
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(os.path.dirname(sys.executable), "jupyter-lab")
SAFE_EXTENSIONS = {"jupyterlab": True, "jupyter_lsp": True, "jupyter_server_terminals": True}

# Log lines with advice that can't be followed here: there is no terminal, and Jupyter itself has set the time that tornado
# corrects.
UNHELPFUL = ("Use Control-C", "The websocket_ping_timeout")

# Everything that is overridden, set or called by name. All of it is looked up before any of it is touched.
HOOKS = {
    "jupyterlab.labapp:LabApp": "launch_instance serverapp_class serverapp_config",
    "jupyter_server.serverapp:ServerApp": "parse_command_line migrate_config load_config_file raise_config_file_errors "
    "update_config find_server_extensions config_file_paths init_resources init_configurables init_shutdown_no_activity "
    "init_httpserver _bind_http_server _stop server_info tornado_settings identity_provider_class local_hostnames",
    "jupyter_server.extension.manager:ExtensionPoint": "link load",
    "traitlets.config:Application": "load_config_file python_config_loader_class json_config_loader_class",
    "traitlets.config.loader:DeferredConfigString": "get_value",
}


@functools.cache
def load_module(name: str) -> Any:
    """Loads a file of this folder. It is not in `sys.modules`, where its name could hide an extension's import."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(FOLDER, f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


imports, masked_log = load_module("imports"), load_module("masked_log")


class Reporter:
    """Sends reports to the control API. A closed pipe is ignored: JupyterLab outlives a control API that dies."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        # What every report of this process says.
        self.details: dict[str, object] = {}

    def report(self, phase: str, **details: object) -> None:
        line = json.dumps({"phase": phase, **self.details, **details})
        with contextlib.suppress(OSError):
            # `sitecustomize` or a `.pth` file may have written the beginning of a line before this pipe was taken.
            os.write(self._descriptor, f"\n{line}\n".encode())

    def close(self) -> None:
        os.close(self._descriptor)
        # Another file may get its number.
        self._descriptor = -1


def take_input() -> int:
    """Returns the pipe that was standard input. That becomes /dev/null, as for any server in a container."""
    pipe = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return pipe


def widen_descriptor_table() -> None:
    """Makes room for 256 descriptors. Each doubling of the table blocks a thread of a threaded process for 5 to 15 ms."""
    with contextlib.suppress(OSError):
        os.dup2(0, 255, inheritable=False)
        os.close(255)


def fix_import_path() -> None:
    """Sets `sys.path[0]` to the folder of the script `jupyter-lab`: extensions must not import from this folder."""
    if sys.path[:1] == [FOLDER]:
        sys.path[0] = os.path.dirname(sys.executable)


def find_missing_hooks() -> list[str]:
    """Returns the names in `HOOKS` that the installed JupyterLab lacks."""
    found = {place: getattr(imports.try_import(place.split(":")[0]), place.split(":")[1], None) for place in HOOKS}
    return [f"{place}.{name}" for place in found for name in HOOKS[place].split() if not hasattr(found[place], name)]


def become_jupyterlab(spec: dict, reporter: Reporter, hold: Callable[[Any], None] = lambda app: None) -> None:
    """Runs JupyterLab until it ends, with the settings of the launch spec above those of every configuration file.

    `hold` is called with the initialised application. The port is bound when it returns.
    """
    hold = functools.cache(hold)
    widen_descriptor_table()
    missing = find_missing_hooks()
    reporter.report("imported")
    sys.argv = [PROGRAM]
    if missing:
        become_plain_jupyterlab = load_module("fallback").become_plain_jupyterlab
        become_plain_jupyterlab(spec, reporter, missing, SAFE_EXTENSIONS, load_module, run_and_report)
    from jupyter_server.extension.manager import ExtensionPoint
    from jupyter_server.serverapp import ServerApp as StockServerApp
    from jupyterlab.labapp import LabApp
    from traitlets import Container, Unicode
    from traitlets.config import Config
    from traitlets.config.loader import DeferredConfigString

    class ExactString(DeferredConfigString):
        """A string that reaches a string trait unchanged (`~` and quotes too). For any other trait it is parsed."""

        # The inherited method recurses without end in a subclass, and JupyterLab prints its configuration with --debug.
        __repr__ = str.__repr__

        def get_value(self, trait):
            if isinstance(trait, Unicode):
                return str(self)
            items = requested_settings.parse_items(self) if isinstance(trait, Container) else None
            return super().get_value(trait) if items is None else items

    config_files, requested_settings = load_module("config_files"), load_module("settings")
    requested, loaded = spec["requested"], config_files.reader.loaded
    config_files.install(spec["config_file"])
    load_module("page_defaults").install(
        lambda folder: config_files.check_json_files(config_files.list_application_files(folder))
    )
    findings: dict[str, dict] = {}
    settings = Config()
    for class_name, trait, value in spec["settings"]:
        settings[class_name][trait] = ExactString(value) if isinstance(value, str) else value

    def refuse(trait, reason):
        origin = requested_settings.find_origin(StockServerApp, trait, reason, requested, loaded)
        if origin:
            raise requested_settings.SettingError(origin)

    class ServerApp(StockServerApp):
        # By default a configuration file that does not load is logged, and the server starts without its settings.
        raise_config_file_errors = True
        # The file that sends a browser to JupyterLab holds the token, and every user of the machine can read it.
        no_browser_open_file = True

        def parse_command_line(self, argv=None):
            super().parse_command_line(argv)
            self.update_config(settings)

        def migrate_config(self):
            # It copies what IPython 3 has left, and notes that in Jupyter's folder. If that folder can't be written, every
            # start would fail after the first kernel, which makes IPython's folder.
            with contextlib.suppress(OSError):
                super().migrate_config()

        def load_config_file(self, suppress_errors=True):
            super().load_config_file(suppress_errors)
            config_files.load_own(self, spec["config_file"])
            reporter.report("configured")

        def find_server_extensions(self):
            config_files.check_json_files(config_files.list_json_files(self.config_file_paths))
            # Jupyter adds what it finds to the value in its configuration, which is a string where a start has set it.
            if isinstance(self.config.ServerApp.get("jpserver_extensions"), str):
                self.config.ServerApp.jpserver_extensions = dict(self.jpserver_extensions)
            super().find_server_extensions()

        def init_resources(self):
            # Extensions have copied settings here by now (NotebookApp.ip to ServerApp.ip): ours have to come last.
            self.update_config(settings)
            if spec["public_host"]:
                self.local_hostnames = [*self.local_hostnames, spec["public_host"]]
            super().init_resources()

        def init_configurables(self):
            for handler in self.log.handlers:
                handler.addFilter(lambda record: not str(record.msg).startswith(UNHELPFUL))
            call_module("kernels", "install", self, spec["fork_kernels"], load_module)
            call_module("kernel_states", "install")
            super().init_configurables()
            # The search for language servers runs npm in a thread, which delays a stop soon after the start. It is off
            # unless a configuration file or the start turns it on: by now all of them have been read.
            self.config["LanguageServerManager"].setdefault("autodetect", False)
            call_module("websockets", "install", self)
            if self.gateway_config.gateway_enabled:
                load_module("gateway").install(self)
            if spec["embed"]:
                load_module("embed").install(self, spec["embed"])

        def init_shutdown_no_activity(self):
            findings["unknown"] = requested_settings.find_unknown(requested)
            findings["overridden"] = requested_settings.find_overridden(spec["settings"], requested, loaded)
            # Before `init_metrics`, which publishes the start time that an armed JupyterLab gets at the end of `hold`.
            hold(self)
            super().init_shutdown_no_activity()

        def init_httpserver(self):
            # `hold` runs once (it is cached). This call keeps the port free where Jupyter does not call the method above.
            hold(self)
            load_module("certificates").check(self, refuse)
            super().init_httpserver()

        def _bind_http_server(self):
            load_module("identity").install(self, spec["supervisor_secret"])
            asset_folders = load_module("first_page").install(self, spec["asset_copies"], load_module)
            super()._bind_http_server()
            # Jupyter reports only a password that is set under its old name.
            password = bool(getattr(self.identity_provider, "hashed_password", ""))
            server = {**self.server_info(), "password": password}
            reporter.report("bound", server=server, asset_folders=asset_folders, **findings)
            reporter.close()
            if not self.gateway_config.gateway_enabled:
                call_module("kernels", "start", self)
            # All objects up to now live as long as the process: no garbage collection has to look at them.
            gc.freeze()
            gc.enable()

        async def _stop(self):
            # A kernel that is being restarted makes the cleanup raise, as an extension can: the loop would run for ever.
            try:
                await super()._stop()
            except Exception:
                self.log.exception("The cleanup failed: JupyterLab ends without the rest of it")
                self.io_loop.stop()

    LabApp.serverapp_class = ServerApp
    LabApp.raise_config_file_errors = True
    if spec["safe_mode"]:
        LabApp.serverapp_config = {"jpserver_extensions": SAFE_EXTENSIONS}
    ServerApp.__module__, ServerApp.__qualname__ = StockServerApp.__module__, StockServerApp.__qualname__
    for method in ("link", "load"):
        stock = getattr(ExtensionPoint, method)
        setattr(ExtensionPoint, method, requested_settings.escalate(stock, requested, loaded))
    run_and_report(LabApp.launch_instance, spec, reporter)
    call_module("kernels", "close")
    end_process()


def run_and_report(run: Callable[[], Any], spec: dict, reporter: Reporter) -> None:
    """Runs JupyterLab. If a configuration file or a setting ends it, the report says which one, and the exit code is 1."""
    config_files, settings = load_module("config_files"), load_module("settings")
    try:
        run()
    except (config_files.ConfigFileError, settings.SettingError) as error:
        reporter.report("refused", refusal=error.details)
        # What the file's own code has raised is the traceback that its author can use.
        traceback.print_exception(error.__cause__ or error)
        sys.exit(1)
    except (Exception, SystemExit) as error:
        details = settings.explain(error, spec["requested"], config_files.reader.loaded)
        if details:
            reporter.report("refused", refusal=details)
        raise


def call_module(name: str, function: str, *arguments: Any) -> None:
    """Calls a function of a file of this folder. A Jupyter that lacks what the file imports works without it."""
    try:
        module = load_module(name)
    except ImportError:
        return
    getattr(module, function)(*arguments)


def end_process() -> None:
    """Ends as the interpreter does, but leaves the freeing of memory to the operating system, which is faster."""
    for finish in (threading._shutdown, atexit._run_exitfuncs):
        with contextlib.suppress(BaseException):
            finish()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


def main() -> None:
    reporter = Reporter()
    log = masked_log.open_log()
    with os.fdopen(take_input(), "rb") as pipe:
        line = pipe.readline()
    if not line.endswith(b"\n"):
        sys.exit("The control API ended before it sent the launch spec")
    spec = json.loads(line)
    log.mask(spec["secrets"])
    fix_import_path()
    call_module("folders", "prepare")
    # Imports free next to nothing: a garbage collection during them is wasted time.
    gc.disable()
    imports.import_jupyterlab()
    become_jupyterlab(spec, reporter)


if __name__ == "__main__":
    main()

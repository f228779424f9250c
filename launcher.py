"""Becomes JupyterLab by an order from the control API, in this very process.

The order is one line of JSON on standard input, so that no secret stands on a command line or in an environment. What
happens is told in lines of JSON on standard output until the port is bound: {"phase": "imported"}, {"phase":
"configured"}, {"phase": "bound", "server": {...}}. After that standard output is JupyterLab's log, as standard error is
from the beginning.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from urllib.parse import quote

MASK = "***"
SAFE_EXTENSIONS = {"jupyterlab": True, "jupyter_lsp": True, "jupyter_server_terminals": True}


class MaskedStream(io.TextIOWrapper):
    """Standard error without secrets: a gateway kernel makes JupyterLab log its environment, tokens included."""

    secrets: re.Pattern[str] | None = None

    def write(self, text: str) -> int:
        return super().write(self.secrets.sub(MASK, text) if self.secrets else text)


def open_log(secrets: list[str]) -> None:
    """Puts a masked stream in place of standard error, before anything keeps the original."""
    stream = MaskedStream(
        open(2, "wb", buffering=0, closefd=False), encoding="utf-8", errors="backslashreplace", write_through=True
    )
    forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
    # A short one is masked only as a word of its own, so that a token such as `a` leaves the log readable.
    patterns = [re.escape(form) if len(form) >= 8 else rf"(?<!\w){re.escape(form)}(?!\w)" for form in forms if form]
    stream.secrets = re.compile("|".join(sorted(patterns, key=len, reverse=True))) if patterns else None
    sys.stderr = sys.__stderr__ = stream


class Reporter:
    """The way back to the control API. Its death is no reason for JupyterLab to die: a closed pipe is passed over."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)

    def tell(self, phase: str, **more: object) -> None:
        try:
            os.write(self._descriptor, (json.dumps({"phase": phase, **more}) + "\n").encode())
        except OSError:
            pass

    def close(self) -> None:
        os.close(self._descriptor)


def read_order() -> dict:
    """Reads the order and leaves /dev/null as standard input, as a server in a container has it."""
    with os.fdopen(os.dup(0), "rb") as pipe:
        line = pipe.readline()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if not line.endswith(b"\n"):
        sys.exit("The control API ended before it gave its order")
    return json.loads(line)


def become_jupyterlab(order: dict, reporter: Reporter) -> None:
    """Runs JupyterLab with the order's settings until it ends. They win over every configuration file."""
    if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
        # A console script has its own folder there, and this program's folder is no place to import from.
        sys.path[0] = os.path.dirname(sys.executable)
    from jupyter_server.serverapp import ServerApp as StockServerApp
    from jupyterlab.labapp import LabApp
    from traitlets import Unicode
    from traitlets.config import Config
    from traitlets.config.loader import DeferredConfigString

    reporter.tell("imported")

    class ExactString(DeferredConfigString):
        """A string that reaches a string trait letter for letter (`~` and quotes too), and is parsed for any other."""

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

        def _bind_http_server(self):
            super()._bind_http_server()
            reporter.tell("bound", server=self.server_info())
            reporter.close()

    LabApp.serverapp_class = ServerApp
    LabApp.raise_config_file_errors = True
    if order["safe_mode"]:
        LabApp.serverapp_config = {"jpserver_extensions": SAFE_EXTENSIONS}
    sys.argv = [os.path.join(os.path.dirname(sys.executable), "jupyter-lab"), *order["arguments"]]
    sys.exit(LabApp.launch_instance())


def main() -> None:
    reporter = Reporter()
    order = read_order()
    open_log(order["secrets"])
    become_jupyterlab(order, reporter)


if __name__ == "__main__":
    main()

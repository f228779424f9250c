"""Runs a JupyterLab of a version that lacks the launcher's hooks, in the way its console script does.

The launch spec's settings become command line arguments inside the process, where `ps` does not show them. Such a
JupyterLab is never armed, does not report its port, and has Jupyter's own websockets.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def become_plain_jupyterlab(
    spec: dict,
    reporter: Any,
    missing: list[str],
    safe_extensions: dict,
    load_module: Callable[[str], Any],
    run_and_report: Callable[..., None],
) -> NoReturn:
    """Runs `jupyter lab` until it ends. After the report "plain" the control API watches for the server's own file."""
    print(f"This JupyterLab lacks {', '.join(missing)}: it is started as `jupyter lab` starts it", file=sys.stderr)
    from jupyter_server.serverapp import ServerApp
    from jupyterlab.labapp import main as jupyter_lab
    from traitlets.config import Application

    Application.raise_config_file_errors = True
    ServerApp.no_browser_open_file = True
    load_own_file_last(ServerApp, spec, load_module("config_files"))
    let_control_api_in(ServerApp, spec["supervisor_secret"], load_module("identity"))
    load_module("page_defaults").install()
    settings = list(spec["settings"])
    if spec["public_host"]:
        settings.append(("ServerApp", "local_hostnames", ["localhost", spec["public_host"]]))
    if spec["safe_mode"]:
        settings.append(("ServerApp", "jpserver_extensions", safe_extensions))
    if spec["embed"]:
        settings += list_embed_settings(spec["embed"], load_module("embed"))
    for name, trait, value in settings:
        # A list is given item by item, an empty one as it is.
        sys.argv += [f"--{name}.{trait}={item}" for item in (isinstance(value, list) and value or [value])]
    gc.freeze()
    gc.enable()
    load_module("imports").PatternCache.uninstall(save=False)
    reporter.report("plain")
    run_and_report(lambda: sys.exit(jupyter_lab()), spec, reporter)
    sys.exit()


def load_own_file_last(server: Any, spec: dict, config_files: Any) -> None:
    """Reads the control API's file after Jupyter's own ones."""
    config_files.install(spec["config_file"])
    stock = server.load_config_file

    def load_config_file(app: Any, *args: Any, **kwargs: Any) -> None:
        stock(app, *args, **kwargs)
        config_files.load_own(app, spec["config_file"])

    server.load_config_file = load_config_file


def let_control_api_in(server: Any, secret: str, identity: Any) -> None:
    """No request is answered before the event loop runs, and `start` runs it."""
    stock = server.start

    def start(app: Any, *args: Any, **kwargs: Any) -> Any:
        identity.install(app, secret)
        return stock(app, *args, **kwargs)

    server.start = start


def list_embed_settings(options: dict, embed: Any) -> list[tuple[str, str, str]]:
    """What `embed.install` does, as settings. They replace those of configuration files instead of extending them."""
    settings = [("ServerApp", "tornado_settings", repr(embed.extend_settings({}, options)))]
    if options["secure"]:
        settings.append(("IdentityProvider", "cookie_options", repr(embed.CROSS_SITE_COOKIE)))
    return settings

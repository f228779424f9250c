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
    spec: dict, reporter: Any, missing: list[str], safe_extensions: dict, load_module: Callable[[str], Any]
) -> NoReturn:
    """Runs `jupyter lab` until it ends. After the report "plain" the control API watches for the server's own file."""
    print(f"This JupyterLab lacks {', '.join(missing)}: it is started as `jupyter lab` starts it", file=sys.stderr)
    from jupyter_server.serverapp import ServerApp
    from jupyterlab.labapp import main as jupyter_lab
    from traitlets.config import Application

    Application.raise_config_file_errors = True
    ServerApp.no_browser_open_file = True
    settings = list(spec["settings"])
    if spec["safe_mode"]:
        settings.append(("ServerApp", "jpserver_extensions", safe_extensions))
    if spec["embed"]:
        settings += list_embed_settings(spec["embed"], load_module("embed"))
    for name, trait, value in settings:
        # A list is given item by item, an empty one as it is.
        sys.argv += [f"--{name}.{trait}={item}" for item in (isinstance(value, list) and value or [value])]
    gc.freeze()
    gc.enable()
    reporter.report("plain")
    reporter.close()
    sys.exit(jupyter_lab())


def list_embed_settings(options: dict, embed: Any) -> list[tuple[str, str, str]]:
    """What `embed.install` does, as settings. They replace those of configuration files instead of extending them."""
    settings = [("ServerApp", "tornado_settings", repr(embed.extend_settings({}, options)))]
    if options["secure"]:
        settings.append(("IdentityProvider", "cookie_options", repr(embed.CROSS_SITE_COOKIE)))
    return settings

"""Does the work of JupyterLab's page beforehand, once, or not at all where nobody needs it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

# Schemas of one installation: JupyterLab 4.6 has 71.
MAX_SCHEMAS = 4096


def install(app: Any, copies: list[str], load_module: Callable[[str], Any]) -> list[str]:
    """Makes the page of an initialised ServerApp quick, and returns the folders of its static files.

    What this JupyterLab has no place for is left out, and the log says so: a start never fails for it.
    """
    assets = load_module("assets")
    steps = {
        "compressed assets": lambda: assets.install(app, copies),
        "compressed answers": lambda: load_module("compression").install(app),
        "a splash and preloads": lambda: load_module("page_head").install(),
        "settings that are checked once": remember_valid_schemas,
        "a quick build check": skip_build_check,
    }
    for name, step in steps.items():
        try:
            step()
        except Exception as error:
            app.log.warning("JupyterLab's page is without %s: %r", name, error)
    with contextlib.suppress(Exception):
        return assets.find_folders(app)
    return []


def prepare(load_module: Callable[[str], Any]) -> None:
    """Does what the first page of each forked JupyterLab would do again. Ignores failures: that page meets them itself."""
    for step in (remember_valid_schemas, check_schemas, ask_for_versions):
        with contextlib.suppress(Exception):
            step()
    with contextlib.suppress(Exception):
        load_module("compression")
        load_module("assets").prepare(load_module("page_head").prepare())


def check_schemas() -> None:
    """Reads the settings of the JupyterLab that is installed, and of no user."""
    from jupyter_core.paths import jupyter_path
    from jupyterlab.commands import get_app_dir
    from jupyterlab_server.settings_utils import get_settings

    folders = [os.path.join(get_app_dir(), name) for name in ("settings", "schemas")]
    get_settings(*folders, os.devnull, labextensions_path=jupyter_path("labextensions"))


def ask_for_versions() -> None:
    """Makes Jupyter cache what its pages say of the system, for which it may run git."""
    from jupyter_server.base.handlers import json_sys_info

    json_sys_info()


@functools.cache
def remember_valid_schemas() -> None:
    """Makes JupyterLab check each schema once. It checks all of them for each page, which takes 0.1 s."""
    from jupyterlab_server import settings_utils

    settings_utils.Validator = RememberingValidator(settings_utils.Validator)


class RememberingValidator:
    """jsonschema's validator, which checks each schema once."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._valid: set[bytes] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._stock(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    def check_schema(self, schema: Any) -> None:
        """Raises the error of jsonschema, each time, for a schema that is not valid."""
        key = hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).digest()
        if key not in self._valid:
            self._stock.check_schema(schema)
            if len(self._valid) < MAX_SCHEMAS:
                self._valid.add(key)


def skip_build_check() -> None:
    """Skips the build check, which each page asks for and which runs node, where JupyterLab can't be built anyway."""
    from jupyterlab.handlers.build_handler import Builder

    stock = Builder._run_build_check

    def run_build_check(builder: Any, app_dir: str, *others: Any) -> Any:
        can_build = shutil.which("node") and os.access(app_dir, os.W_OK)
        # Whoever awaits the check gets no message, which means that nothing has to be built.
        return stock(builder, app_dir, *others) if can_build else []

    Builder._run_build_check = run_build_check

"""Does the work of JupyterLab's page beforehand, once, or not at all where nobody needs it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from typing import Any

# Schemas of one installation: JupyterLab 4.6 has 71.
MAX_SCHEMAS = 4096


@functools.cache
def install() -> None:
    """Makes the answers for the page cheaper. What they say stays the same."""
    with contextlib.suppress(ImportError, AttributeError):
        from jupyterlab_server import settings_utils

        settings_utils.Validator = RememberingValidator(settings_utils.Validator)
    with contextlib.suppress(ImportError, AttributeError):
        skip_build_check()


def prepare() -> None:
    """Does what the first page of each forked JupyterLab would do again. A failure is that page's own."""
    install()
    with contextlib.suppress(Exception):
        from jupyter_core.paths import jupyter_path
        from jupyterlab.commands import get_app_dir
        from jupyterlab_server.settings_utils import get_settings

        folders = [os.path.join(get_app_dir(), name) for name in ("settings", "schemas")]
        get_settings(*folders, os.devnull, labextensions_path=jupyter_path("labextensions"))
    with contextlib.suppress(Exception):
        from jupyter_server.base.handlers import json_sys_info

        # It asks git for the version of an installed package.
        json_sys_info()


class RememberingValidator:
    """jsonschema's validator that checks each schema once. JupyterLab checks all of them for each page, in 0.1 s."""

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
    """Answers without node, where JupyterLab can't be built, the question of each page whether it has to be."""
    from jupyterlab.handlers.build_handler import Builder

    stock = Builder._run_build_check

    def run_build_check(builder: Any, app_dir: str, *others: Any) -> Any:
        can_build = shutil.which("node") and os.access(app_dir, os.W_OK)
        # Whoever awaits the check gets no message, which means that nothing has to be built.
        return stock(builder, app_dir, *others) if can_build else []

    Builder._run_build_check = run_build_check

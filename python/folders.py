"""Folders that Jupyter makes for itself: each exists, or is removed with the runtime folder."""

from __future__ import annotations

import os
import tempfile

from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir


def prepare() -> None:
    """Makes them. Has to be called with JupyterLab's environment, before anything asks Jupyter for them."""
    runtime = os.environ["JUPYTER_RUNTIME_DIR"]
    # Without a folder JupyterLab logs a traceback, which hides the reason of a failure, and ignores settings of
    # NotebookApp. The usual one is in the user's home.
    try:
        os.makedirs(jupyter_data_dir(), 0o700, exist_ok=True)
    except OSError:
        os.environ["JUPYTER_DATA_DIR"] = os.path.join(runtime, "data")
    if os.environ.get("JUPYTER_NO_CONFIG"):
        # A process's first call makes an empty folder, which nobody would remove.
        stock, tempfile.tempdir = tempfile.tempdir, runtime
        try:
            jupyter_config_dir()
        finally:
            tempfile.tempdir = stock

"""Gives JupyterLab a folder for its data where the usual one, in the user's home, can't be made."""

from __future__ import annotations

import os

from jupyter_core.paths import jupyter_data_dir


def ensure() -> None:
    """Makes the folder, or has another one used, which is removed with the runtime folder.

    Without a folder JupyterLab logs a traceback, which hides the reason of a failure, and ignores settings of NotebookApp.
    """
    try:
        os.makedirs(jupyter_data_dir(), 0o700, exist_ok=True)
    except OSError:
        os.environ["JUPYTER_DATA_DIR"] = os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "data")

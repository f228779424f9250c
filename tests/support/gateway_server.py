"""Runs a headless Jupyter Server as a gateway, over http and at another port over https.

It forks kernels as JupyterLab does, unless their kernelspec says otherwise.
"""

from __future__ import annotations

import json
import os
import sys

# jsonschema imports these two where they are installed, for formats that no schema of the server has. The first one builds
# grammars for seconds.
sys.modules.update(dict.fromkeys(("rfc3987_syntax", "isoduration")))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "python"))

import kernel_forks  # noqa: E402
import kernels  # noqa: E402
from jupyter_server.serverapp import ServerApp  # noqa: E402
from tornado.httpserver import HTTPServer  # noqa: E402


class Gateway(ServerApp):
    """A Jupyter Server with the kernels of `python/kernels.py`."""

    def init_configurables(self) -> None:
        kernels.install(self, fork=True, load_module=lambda _name: kernel_forks)
        super().init_configurables()

    def init_httpserver(self) -> None:
        super().init_httpserver()
        secure = json.loads(os.environ["SECURE"])
        port = secure.pop("port")
        HTTPServer(self.web_app, ssl_options=secure).listen(port, "127.0.0.1")

    def start_ioloop(self) -> None:
        kernels.start(self)
        super().start_ioloop()


# As `python -m jupyter_server` has it.
sys.path.pop(0)
Gateway.launch_instance()

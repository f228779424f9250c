"""Adds to JupyterLab what it lacks with a gateway.

A record of its kernels, a private CA, requests that follow no redirect, and a log without secrets.
"""

from __future__ import annotations

import logging
import os
from typing import Any

# One kernel id a line, in the runtime folder. The control API deletes these kernels when JupyterLab no longer can.
KERNELS_FILE = "gateway-kernels"


def install(app: Any) -> None:
    """Adds all of it to a configured ServerApp whose kernels run at a gateway."""
    apply_ca_certs(app.gateway_config)
    refuse_redirects(app.gateway_config)
    record_kernels(app.kernel_manager, os.path.join(app.runtime_dir, KERNELS_FILE))
    logging.getLogger("ServerApp").addFilter(drop_environment)


def apply_ca_certs(client: Any) -> None:
    """Makes `ca_certs` work on its own. Jupyter ignores it unless there is a client certificate as well."""
    if client.ca_certs and not client.client_cert:
        client.init_connection_args()
        client._connection_args["ca_certs"] = client.ca_certs


def refuse_redirects(client: Any) -> None:
    """Sends requests to the gateway's own address only: a redirect would take the token's headers to another host."""
    load_connection_args = client.load_connection_args

    def load_without_redirects(**options: Any) -> dict[str, Any]:
        return {**load_connection_args(**options), "follow_redirects": False}

    client.load_connection_args = load_without_redirects


def record_kernels(manager: Any, path: str) -> None:
    """Appends the id of each kernel that the gateway starts to a file."""
    start_kernel = manager.start_kernel

    async def start_and_record(**options: Any) -> str:
        kernel_id = await start_kernel(**options)
        # Opened for each line: it is written whole when the file closes, and a kill after that does not lose it.
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{kernel_id}\n")
        return kernel_id

    manager.start_kernel = start_and_record


def drop_environment(record: logging.LogRecord) -> bool:
    """Shortens the log line of a started kernel, which ends with JupyterLab's whole environment."""
    if isinstance(record.msg, str) and record.msg.startswith("GatewayKernelManager started kernel"):
        record.msg = record.msg.partition(", args: ")[0]
    return True

"""What JupyterLab lacks when its kernels run at a gateway: a memory of them that outlives it, trust, and discretion."""

from __future__ import annotations

import logging
import os
from typing import Any

# One kernel id a line, in the runtime folder: the control API deletes at the gateway what JupyterLab can't any more.
KERNELS_FILE = "gateway-kernels"


def attend(app: Any) -> None:
    """Adds it to a ServerApp whose parts are configured and whose kernels are to run at a gateway."""
    trust_authority(app.gateway_config)
    remember_kernels(app.kernel_manager, os.path.join(app.runtime_dir, KERNELS_FILE))
    logging.getLogger("ServerApp").addFilter(leave_out_environment)


def trust_authority(client: Any) -> None:
    """Jupyter passes the gateway's certificate authority on only beside a certificate of its own."""
    if client.ca_certs and not client.client_cert:
        client.init_connection_args()
        client._connection_args["ca_certs"] = client.ca_certs


def remember_kernels(manager: Any, path: str) -> None:
    """Writes down the id of each kernel that the gateway has started."""
    start_kernel = manager.start_kernel

    async def start_and_remember(**options: Any) -> str:
        kernel_id = await start_kernel(**options)
        # Opened for each: a write of one line at the end of a file is whole, whatever comes after it.
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{kernel_id}\n")
        return kernel_id

    manager.start_kernel = start_and_remember


def leave_out_environment(record: logging.LogRecord) -> bool:
    """The line about a started kernel ends with the whole environment."""
    if isinstance(record.msg, str) and record.msg.startswith("GatewayKernelManager started kernel"):
        record.msg = record.msg.partition(", args: ")[0]
    return True

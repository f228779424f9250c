"""Adds to JupyterLab what it lacks with a gateway.

A record of its kernels, a private CA, requests that follow no redirect, and a log without secrets.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

# One kernel id a line, in the runtime folder. The control API deletes these kernels when JupyterLab no longer can.
KERNELS_FILE = "gateway-kernels"
# The line of a kernel whose id the gateway has not sent yet.
STARTING = "starting"
# The line of kernels that may run without an id: the gateway has neither started nor refused them.
UNANSWERED = "unanswered"


def install(app: Any) -> None:
    """Adds all of this to a configured ServerApp whose kernels run at a gateway."""
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
    """Keeps a file with a line for each kernel at the gateway, the newest one last: its id, or that it is being started."""
    start_kernel, remove_kernel = manager.start_kernel, manager.remove_kernel
    # By kernel id, and by an object of its own for a kernel without an id. A dict keeps the order.
    lines: dict[object, str] = {}

    def write() -> None:
        # Atomically: JupyterLab can be killed at any moment.
        with open(f"{path}.new", "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines.values())
        os.replace(file.name, path)

    def write_if_possible() -> None:
        # On a full disk the earlier file stays, and what has been done is done: a kernel that is gone can be deleted again,
        # and one that has been started runs.
        with contextlib.suppress(OSError):
            write()

    async def start_and_record(**options: Any) -> str:
        start = object()
        lines[start] = STARTING
        try:
            write()
            try:
                kernel_id = await start_kernel(**options)
            except BaseException as error:
                if not is_refusal(error):
                    lines[UNANSWERED] = UNANSWERED
                raise
            lines[kernel_id] = kernel_id
        finally:
            del lines[start]
            write_if_possible()
        return kernel_id

    # Jupyter calls it once the gateway has deleted the kernel. One that is only missing in the gateway's list may live.
    def remove_and_record(kernel_id: str) -> Any:
        kernel = remove_kernel(kernel_id)
        lines.pop(kernel_id, None)
        write_if_possible()
        return kernel

    manager.start_kernel = start_and_record
    manager.remove_kernel = remove_and_record


def is_refusal(error: BaseException) -> bool:
    """Whether it says that no kernel was started: a status below 500, or a connection that was refused."""
    return getattr(error, "status_code", 500) < 500 or isinstance(error.__cause__, ConnectionRefusedError)


def drop_environment(record: logging.LogRecord) -> bool:
    """Shortens the log line of a started kernel, which ends with JupyterLab's whole environment."""
    if isinstance(record.msg, str) and record.msg.startswith("GatewayKernelManager started kernel"):
        record.msg = record.msg.partition(", args: ")[0]
    return True

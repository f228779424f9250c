"""Keeps a kernel busy for as long as it runs a cell.

Jupyter takes a kernel's last status for its state. While a cell runs, the kernel also answers other requests, such as a
widget's message, which JupyterLab sends to a subshell, and reports itself idle after each of them: Jupyter would cull the
kernel, and the control API stop JupyterLab, in the middle of the cell.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import MappingKernelManager


def install() -> None:
    """Applies to the kernels of this process, but not to those at a gateway, which reports their states itself."""
    watch = MappingKernelManager.start_watching_activity

    def watch_cells(self: Any, kernel_id: str) -> None:
        watch(self, kernel_id)
        kernel = self._kernels[kernel_id]
        record = getattr(kernel._activity_stream, "_recv_callback", None)
        if record is None:
            return
        cell = Cell(kernel.session)

        def receive(parts: list[bytes]) -> None:
            record(parts)
            if cell.is_running_after(parts) and kernel.execution_state == "idle":
                kernel.execution_state = "busy"

        kernel._activity_stream.on_recv(receive)

    MappingKernelManager.start_watching_activity = watch_cells


class Cell:
    """Whether a kernel runs a cell in its main shell, where they run one by one: the state of one is that of all."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._process = None
        self._is_running = False

    def is_running_after(self, parts: list[bytes]) -> bool:
        """Takes a message of the kernel's iopub channel."""
        _, [_, header, parent, _, content, *_] = self._session.feed_identities(parts)
        header = self._session.unpack(header)
        if header.get("msg_type") == "status":
            parent = self._session.unpack(parent) or {}
            state = self._session.unpack(content).get("execution_state")
            kind = parent.get("msg_type")
            # A restart loses the cell. Some kernels report the end of a request without naming the request.
            if header.get("session") != self._process or state == "starting" or kind is None:
                self._process = header.get("session")
                self._is_running = False
            if kind == "execute_request" and not parent.get("subshell_id"):
                self._is_running = state == "busy"
        return self._is_running

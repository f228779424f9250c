"""Keeps a kernel busy for as long as it answers any request.

Jupyter goes by the kernel's last word. A cell is then told as idle once the kernel has answered something beside it, such as
a widget's message, which JupyterLab sends to a subshell: the kernel is culled, and JupyterLab stopped, in the cell.
"""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

# Requests of the control channel that Jupyter counts as activity. A kernel answers them beside those of its shells.
CONTROL_REQUESTS = ("usage_request", "create_subshell_request", "delete_subshell_request", "list_subshell_request")
CONTROL = object()


def install() -> None:
    """Applies to the kernels of this process, but not to those at a gateway, which tells their states itself."""
    watch = MappingKernelManager.start_watching_activity

    def watch_requests(self: Any, kernel_id: str) -> None:
        watch(self, kernel_id)
        kernel = self._kernels[kernel_id]
        record = getattr(kernel._activity_stream, "_recv_callback", None)
        if record is None:
            return
        requests = Requests(kernel.session, self.track_message_type)

        def receive(parts: list[bytes]) -> None:
            record(parts)
            if requests.follow(parts) and kernel.execution_state == "idle":
                kernel.execution_state = "busy"

        kernel._activity_stream.on_recv(receive)

    MappingKernelManager.start_watching_activity = watch_requests


class Requests:
    """What a kernel is answering: at most one request of its control channel, of its main shell and of each subshell."""

    def __init__(self, session: Any, is_activity: Any) -> None:
        self._session = session
        self._is_activity = is_activity
        self._process = None
        self._working: set[object] = set()

    def follow(self, parts: list[bytes]) -> bool:
        """Takes a message of the kernel's iopub channel, and returns whether a request is under way."""
        _, [_, header, parent, _, content, *_] = self._session.feed_identities(parts)
        header = self._session.unpack(header)
        if header["msg_type"] != "status":
            return bool(self._working)
        if header["session"] != self._process:
            # The kernel was restarted: what its process was answering is lost.
            self._process = header["session"]
            self._working.clear()
        parent = self._session.unpack(parent)
        if self._is_activity(parent.get("msg_type")):
            shell = CONTROL if parent.get("msg_type") in CONTROL_REQUESTS else parent.get("subshell_id")
            is_busy = self._session.unpack(content)["execution_state"] == "busy"
            (self._working.add if is_busy else self._working.discard)(shell)
        return bool(self._working)

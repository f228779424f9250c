"""Websockets of kernels that send at once, and that lose no cell when the kernel runs at a gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from jupyter_server.gateway.connections import GatewayWebSocketConnection
from jupyter_server.services.kernels.connection import base
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from tornado.websocket import WebSocketClosedError
from traitlets import Unicode

TRAIT = "kernel_websocket_connection_class"
V1 = "v1.kernel.websocket.jupyter.org"
# Together as long as one pause of Jupyter's own wait.
STATUS_POLLS = 25
STATUS_PAUSE_S = 0.002
PARTS = ("header", "parent_header", "metadata", "content")


def install(app: Any) -> None:
    """Makes these classes the default of a configured ServerApp. A class that a file or a start has set stays."""
    if not app.trait_has_value(TRAIT):
        at_gateway = app.gateway_config.gateway_enabled
        setattr(app, TRAIT, QuickGatewayConnection if at_gateway else QuickLocalConnection)


class QuickConnection:
    """Sends each message at once. Otherwise a cell's small messages wait some 40 ms for a delayed acknowledgement."""

    async def connect(self):
        self.websocket_handler.set_nodelay(True)
        self.log.debug("The websocket of kernel %s sends at once", self.kernel_id)
        return await super().connect()


class QuickLocalConnection(QuickConnection, ZMQChannelsWebsocketConnection):
    """The websocket of a kernel in this container. It notices within 2 ms that a new kernel has answered.

    It opens once the server, too, has heard from the kernel: a client could otherwise run a cell before the server
    listens to the kernel's status, and the kernel would count as idle for as long as the cell runs.
    """

    async def connect(self):
        # `prepare` has waited for the kernel's answer: its status is on the way. Jupyter's own wait, which follows if this
        # one is in vain, polls every 50 ms and asks the kernel again every 500 ms.
        for _ in range(STATUS_POLLS):
            if getattr(self.kernel_manager, "execution_state", None) != "starting":
                break
            await asyncio.sleep(STATUS_PAUSE_S)
        return await super().connect()


class QuickGatewayConnection(QuickConnection, GatewayWebSocketConnection):
    """The websocket of a kernel at a gateway. It accepts protocol v1, which all clients offer, and translates it.

    Jupyter's own class refuses v1. A client then connects a second time in the same session, and the gateway sends the
    answers to the first connection, which is closed: the first cell is lost, and so is the first after a restart.
    """

    # Jupyter's class sets this to the empty string, which refuses every protocol. None accepts what the client offers.
    kernel_ws_protocol = Unicode(None, allow_none=True, config=True)

    @property
    def speaks_v1(self):
        return self.websocket_handler.selected_subprotocol == V1

    def _connection_done(self, future):
        super()._connection_done(future)
        if self.disconnected and not future.cancelled() and future.exception() is None:
            # The client left during the handshake. Jupyter leaves the gateway's connection open in that case.
            future.result().close()
        elif self.ws is not None:
            read_message = self.ws.read_message

            async def read_text():
                message = await read_message()
                return BinaryText(message, "latin-1") if isinstance(message, bytes) else message

            self.ws.read_message = read_text

    def handle_outgoing_message(self, incoming_msg, *args):
        """Passes a message of the gateway on to the client."""
        message = incoming_msg.encode("latin-1") if isinstance(incoming_msg, BinaryText) else incoming_msg
        binary = self.speaks_v1 or isinstance(message, bytes)
        try:
            self.websocket_handler.write_message(to_v1(message) if self.speaks_v1 else message, binary=binary)
        except WebSocketClosedError:
            self.log.debug("The client of kernel %s has disconnected: a message was dropped", self.kernel_id)

    def _write_message(self, message):
        """Passes a message of the client on to the gateway."""
        if self.speaks_v1 and isinstance(message, bytes):
            message = from_v1(message)
        try:
            if self.ws is not None and not self.disconnected:
                self.ws.write_message(message, binary=isinstance(message, bytes))
        except WebSocketClosedError:
            self.log.warning("The gateway has closed the connection to kernel %s: a message was lost", self.kernel_id)


class BinaryText(str):
    """A binary message as text, one character a byte: the loop that reads the gateway's messages accepts text only."""


def from_v1(message: bytes) -> str | bytes:
    """Translates a v1 message into the protocol of gateways: JSON, or a binary message when there are buffers."""
    channel, parts = base.deserialize_msg_from_ws_v1(message)
    texts = [part.decode("utf-8") for part in parts[:4]]
    if not parts[4:]:
        # The parts are JSON already.
        fields = "".join(f', "{name}": {text}' for name, text in zip(PARTS, texts))
        return f'{{"channel": "{channel}"{fields}, "buffers": []}}'
    fields = dict(zip(PARTS, map(json.loads, texts)))
    return base.serialize_binary_message({"channel": channel, **fields, "buffers": parts[4:]})


def to_v1(message: str | bytes) -> bytes:
    """Translates a gateway's message into v1."""
    if isinstance(message, bytes):
        fields = base.deserialize_binary_message(message)
    else:
        fields = {"buffers": [], **json.loads(message)}
    parts = [json.dumps(fields[name], default=base.json_default).encode("utf-8") for name in PARTS]
    return base.serialize_msg_to_ws_v1([*parts, *fields["buffers"]], fields["channel"])

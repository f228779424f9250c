"""JupyterLab's settings in this container. They are in force: the control API hands this file over with --config=.

What the control API sets itself (address, port, folder, base URL, token) wins over this file, and so does what a start
asks for by a setting's name. A file that does not load fails the start: JupyterLab never runs without its settings.
"""

c = get_config()  # noqa: F821 - Jupyter defines it where it runs this file.

# Nobody sits in front of the container: there is no browser to open.
c.ServerApp.open_browser = False

# A port that is taken is an error that has to be seen: the next one is not published.
c.ServerApp.port_retries = 0

# Terminals stay, as JupyterLab has them: whoever may run a kernel may run a shell.
c.ServerApp.terminals_enabled = True

# Whoever has the token may run code, so a download of any file of theirs gives nothing away; large notebooks and
# uploads are usual (512 MiB; JupyterLab sends larger files in pieces).
c.ServerApp.max_body_size = 512 * 1024 * 1024
c.ServerApp.max_buffer_size = 512 * 1024 * 1024

# Deleting in the file browser deletes: a trash folder inside a mounted volume would only fill it.
c.FileContentsManager.delete_to_trash = False

# A kernel that doesn't end when asked is killed after this many seconds; a stop of the container has ten in all.
c.KernelManager.shutdown_wait_time = 2.0

# Kernels run until somebody stops them: a long computation is not idle because its tab is closed.
c.MappingKernelManager.cull_idle_timeout = 0

# The image decides the version: a question about updates that nobody in the container can act on stays away, and so
# does every request to a host outside.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"

# A cell's small answers wait some 40 ms for an acknowledgement that the other side delays: websockets of kernels, local
# or at a gateway, send at once. A start turns it off by its own "ServerApp.kernel_websocket_connection_class".
try:
    from jupyter_server.gateway.connections import GatewayWebSocketConnection
    from jupyter_server.gateway.gateway_client import GatewayClient
    from jupyter_server.services.kernels.connection import base
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
except ImportError:
    # Another version keeps these elsewhere: its cells wait, and work.
    pass
else:
    import json

    from tornado.websocket import WebSocketClosedError
    from traitlets import Unicode

    V1 = "v1.kernel.websocket.jupyter.org"
    PARTS = ("header", "parent_header", "metadata", "content")

    def read_v1(message):
        """A message of the protocol that clients offer, as the JSON (or, with buffers, binary) one of gateways."""
        channel, parts = base.deserialize_msg_from_ws_v1(message)
        texts = [part.decode("utf-8") for part in parts[:4]]
        if not parts[4:]:
            fields = "".join(f', "{name}": {text}' for name, text in zip(PARTS, texts))
            return f'{{"channel": "{channel}"{fields}, "buffers": []}}'
        fields = dict(zip(PARTS, map(json.loads, texts)))
        return base.serialize_binary_message({"channel": channel, **fields, "buffers": parts[4:]})

    def write_v1(message):
        """The other way round."""
        if isinstance(message, bytes):
            fields = base.deserialize_binary_message(message)
        else:
            fields = {"buffers": [], **json.loads(message)}
        parts = [json.dumps(fields[name], default=base.json_default).encode("utf-8") for name in PARTS]
        return base.serialize_msg_to_ws_v1([*parts, *fields["buffers"]], fields["channel"])

    class Binary(str):
        """A binary message on its way through Jupyter's reader of messages, which expects text: a character a byte."""

    class QuickWebsocket:
        """What is added to Jupyter's own class of a kernel's websocket."""

        async def connect(self):
            self.websocket_handler.set_nodelay(True)
            self.log.debug("The websocket of kernel %s sends at once", self.kernel_id)
            return await super().connect()

    class QuickLocalConnection(QuickWebsocket, ZMQChannelsWebsocketConnection):
        """To a kernel in this container."""

    class QuickGatewayConnection(QuickWebsocket, GatewayWebSocketConnection):
        """To a kernel at a gateway, in the protocol that clients offer, which Jupyter's own class refuses.

        A client whose offer is refused connects a second time at once, in the same session, and the gateway then sends
        the answers to the connection that is gone: the first cell is lost, or the one after a restart of the kernel.
        """

        kernel_ws_protocol = Unicode(None, allow_none=True, config=True)

        @property
        def speaks_v1(self):
            return self.websocket_handler.selected_subprotocol == V1

        def _connection_done(self, future):
            super()._connection_done(future)
            if self.disconnected and not future.cancelled() and future.exception() is None:
                # The client went away during the handshake: nobody else closes what has been opened.
                future.result().close()
            elif self.ws is not None:
                read_message = self.ws.read_message

                async def read_text():
                    message = await read_message()
                    return Binary(message, "latin-1") if isinstance(message, bytes) else message

                self.ws.read_message = read_text

        def handle_outgoing_message(self, incoming_msg, *args):
            message = incoming_msg.encode("latin-1") if isinstance(incoming_msg, Binary) else incoming_msg
            binary = self.speaks_v1 or isinstance(message, bytes)
            try:
                self.websocket_handler.write_message(write_v1(message) if self.speaks_v1 else message, binary=binary)
            except WebSocketClosedError:
                self.log.debug("The client of kernel %s has gone: a message was dropped", self.kernel_id)

        def _write_message(self, message):
            if self.speaks_v1 and isinstance(message, bytes):
                message = read_v1(message)
            try:
                if self.ws is not None and not self.disconnected:
                    self.ws.write_message(message, binary=isinstance(message, bytes))
            except WebSocketClosedError:
                self.log.warning("The gateway has closed the connection to kernel %s: a message was lost", self.kernel_id)

    class QuickWebsocketConnection(base.BaseKernelWebsocketConnection):
        """Becomes the local or the gateway's class: which one is known when a websocket opens."""

        def __new__(cls, *args, **kwargs):
            at_gateway = GatewayClient.instance().gateway_enabled
            return (QuickGatewayConnection if at_gateway else QuickLocalConnection)(*args, **kwargs)

    c.ServerApp.kernel_websocket_connection_class = QuickWebsocketConnection

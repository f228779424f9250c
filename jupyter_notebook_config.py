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
    from jupyter_server.gateway.gateway_client import GatewayClient
    from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
except ImportError:
    # Another version keeps these elsewhere: its cells wait, and work.
    pass
else:

    class QuickWebsocket:
        """What is added to Jupyter's own class of a kernel's websocket."""

        async def connect(self):
            self.websocket_handler.set_nodelay(True)
            self.log.debug("The websocket of kernel %s sends at once", self.kernel_id)
            return await super().connect()

    class QuickWebsocketConnection(BaseKernelWebsocketConnection):
        """Becomes the local or the gateway's class: which one is known when a websocket opens."""

        def __new__(cls, *args, **kwargs):
            if GatewayClient.instance().gateway_enabled:
                from jupyter_server.gateway.connections import GatewayWebSocketConnection as Stock
            else:
                from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection as Stock
            return type(Stock.__name__, (QuickWebsocket, Stock), {})(*args, **kwargs)

    c.ServerApp.kernel_websocket_connection_class = QuickWebsocketConnection

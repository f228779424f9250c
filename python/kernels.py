"""Python kernels that are forked from a template, and kernels whose start and end are noticed at once.

`install` makes this the default provisioner of JupyterLab's kernels. A kernel that the template can't make, whatever the
reason, is spawned as Jupyter spawns it. A kernelspec or a configuration that names a provisioner has that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import types
from collections.abc import Callable
from typing import Any

import zmq
from jupyter_client.connect import LocalPortCache
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "quick-local-provisioner"
CHANNELS = ("shell", "stdin", "control", "iopub", "hb")
# What Jupyter waits for between two looks at a kernel that is to end.
LOOK_PAUSE_S = 0.1
MAX_PORT_CHOICES = 5


def install(app: Any, fork: bool, load_module: Callable[[str], Any]) -> None:
    """Makes it the default of a ServerApp whose configuration is read but not used yet. `fork`: with a template."""
    if os.environ.get(KernelProvisionerFactory.default_provisioner_name_env):
        return
    config = app.config.KernelProvisionerFactory
    if "default_provisioner_name" in config:
        return
    config.default_provisioner_name = NAME
    QuickProvisioner.forks = load_module("kernel_forks")
    QuickProvisioner.template = QuickProvisioner.forks.Template(app.log) if fork else None
    entry = types.SimpleNamespace(name=NAME, value=f"{__name__}:QuickProvisioner", load=lambda: QuickProvisioner)
    KernelProvisionerFactory.provisioners[NAME] = entry
    # There is one factory, made for the first kernel. nbconvert makes it without a configuration.
    make_factory = KernelProvisionerFactory.instance
    KernelProvisionerFactory.instance = lambda **_: make_factory(parent=app)


def start(app: Any) -> None:
    """Starts the template of a JupyterLab whose port is bound."""
    template = QuickProvisioner.template
    if template:
        template.loop = app.io_loop.asyncio_loop
        app.io_loop.call_later(QuickProvisioner.forks.TEMPLATE_DELAY_S, template.start)


def close() -> None:
    """Ends the template, before JupyterLab ends."""
    template = QuickProvisioner.template
    if template:
        template.close()


class QuickProvisioner(LocalProvisioner):
    """Jupyter's own provisioner, with forked kernels where they equal spawned ones, and without waits in steps."""

    # The module `kernel_forks`, and its template if kernels are forked.
    forks: Any = None
    template: Any = None
    _is_ending = False

    async def launch_kernel(self, cmd, **kwargs):
        context = getattr(self.parent, "context", None)
        if context:
            # After a restart ZeroMQ waits 100 to 200 ms before it connects again: now 1, 2, 4 ... 100 ms.
            context.setsockopt(zmq.RECONNECT_IVL, 1)
            context.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._is_ending = False
        if not has_disk_space(2):
            return await super().launch_kernel(cmd, **{**kwargs, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})
        with self._hold_ports() as listeners:
            try:
                return await self._fork_kernel(listeners, cmd, **self._scrub_kwargs(kwargs))
            except self.forks.Refused as reason:
                if self.template:
                    self.log.info("Kernel %s is spawned, not forked: %s", self.kernel_id, reason)
        return await super().launch_kernel(cmd, **kwargs)

    async def _fork_kernel(self, listeners, cmd, env=None, cwd=None, **others):
        if not self.template:
            raise self.forks.Refused("there is no template")
        if cmd[:3] != self.forks.LAUNCH or others or env is None:
            raise self.forks.Refused("its command is another one")
        if not listeners:
            raise self.forks.Refused("it does not listen on free ports of 127.0.0.1")
        env["JPY_PARENT_PID"] = str(os.getpid())
        pid = await self.template.fork(cmd, env, cwd or os.getcwd(), listeners)
        self.process, self.pid, self.pgid, self.cwd = self.forks.ForkedProcess(pid, cmd), pid, pid, cwd or os.getcwd()
        return self.connection_info

    @contextlib.contextmanager
    def _hold_ports(self):
        """Holds sockets that are bound to the kernel's ports; none if it does not use free ports of 127.0.0.1.

        A client's connection can have come from a port since Jupyter chose it. The kernel would end, each time it is
        restarted, and gets other ports.
        """
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_PORT_CHOICES):
                try:
                    listeners = bind_ports(stack, self.connection_info)
                    break
                except OSError as error:
                    listeners = []
                    stack.close()
                    if error.errno != errno.EADDRINUSE:
                        break
                self._choose_ports()
            yield listeners

    def _choose_ports(self) -> None:
        """Chooses other ports, as Jupyter has done before."""
        manager, cache = self.parent, LocalPortCache.instance()
        for name in CHANNELS:
            cache.return_port(getattr(manager, f"{name}_port"))
            setattr(manager, f"{name}_port", cache.find_available_port(manager.ip))
        manager.cleanup_connection_file()
        manager.write_connection_file()
        self.connection_info = manager.get_connection_info()
        if getattr(manager, "_activity_stream", None):
            # Jupyter listens to a kernel's state at the port before, and looks at the ports only if a person restarts it.
            manager.execution_state = "starting"
            manager.parent.stop_watching_activity(self.kernel_id)
            manager.parent.start_watching_activity(self.kernel_id)

    async def shutdown_requested(self, restart=False):
        self._is_ending = True
        await super().shutdown_requested(restart=restart)

    async def poll(self):
        """While a kernel is to end the answer comes with its end, not at the next of Jupyter's looks."""
        status = await super().poll()
        if status is None and self._is_ending and self.process:
            await await_end(self.process.pid)
            status = await super().poll()
        return status


def bind_ports(stack: contextlib.ExitStack, info: dict) -> list[socket.socket]:
    """Binds a socket to the port of each channel; none of a kernel that is reached otherwise. Raises `OSError`."""
    if info.get("transport") != "tcp" or info.get("ip") != "127.0.0.1":
        return []
    listeners = [stack.enter_context(socket.socket()) for _ in CHANNELS]
    for name, listener in zip(CHANNELS, listeners):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((info["ip"], info[f"{name}_port"]))
    return listeners


def has_disk_space(descriptor: int) -> bool:
    """Whether the disk of a log is not full. A kernel ends at its start where it can't write the warnings of its imports."""
    status = os.fstatvfs(descriptor)
    # A pipe has no blocks at all.
    return status.f_blocks == 0 or status.f_bavail > 0


async def await_end(pid: int) -> None:
    """Waits for the end of a process, at most as long as Jupyter waits between two looks."""
    loop, end = asyncio.get_running_loop(), asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return
    loop.add_reader(descriptor, end.set)
    try:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(end.wait(), LOOK_PAUSE_S)
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)

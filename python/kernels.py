"""Python kernels that are forked from a template, and kernels whose start and end are noticed at once.

`install` makes this the default provisioner of JupyterLab's kernels. A kernel that the template can't make, whatever the
reason, is spawned as Jupyter spawns it. A kernelspec or a configuration that names a provisioner has that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import types
from typing import Any

import zmq
from jupyter_client.connect import LocalPortCache
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "quick-local-provisioner"
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_template.py")
LAUNCH = [sys.executable, "-m", "ipykernel_launcher"]
CHANNELS = ("shell", "stdin", "control", "iopub", "hb")
LIBC = ctypes.CDLL(None)
PR_SET_CHILD_SUBREAPER = 36
# A fork takes milliseconds. A template that does not answer in this time is ended.
ANSWER_LIMIT_S = 2
# What Jupyter waits for between two looks at a kernel that is to end.
LOOK_PAUSE_S = 0.1
# The template's imports would take time from the first page.
TEMPLATE_DELAY_S = 0.2
# By then a kernel has answered for the first time.
LEARN_DELAY_S = 1
MAX_FAILURES = 3
MAX_PORT_CHOICES = 5
MAX_ANSWER_BYTES = 4096


def install(app: Any, fork: bool) -> None:
    """Makes it the default of a ServerApp whose configuration is read but not used yet. `fork`: with a template."""
    if os.environ.get(KernelProvisionerFactory.default_provisioner_name_env):
        return
    config = app.config.KernelProvisionerFactory
    if "default_provisioner_name" in config:
        return
    config.default_provisioner_name = NAME
    QuickProvisioner.template = Template(app.log) if fork else None
    entry = types.SimpleNamespace(name=NAME, value=f"{__name__}:QuickProvisioner", load=lambda: QuickProvisioner)
    KernelProvisionerFactory.provisioners[NAME] = entry


def start(app: Any) -> None:
    """Starts the template of a JupyterLab whose port is bound."""
    template = QuickProvisioner.template
    if template:
        app.io_loop.call_later(TEMPLATE_DELAY_S, template.start)


def close() -> None:
    """Ends the template, before JupyterLab ends."""
    template = QuickProvisioner.template
    if template:
        template.close()


class ForkedProcess(subprocess.Popen):
    """A `Popen` of a child that was not spawned here. The methods of `Popen` need no more than this."""

    _sigint_wait_secs = 0

    def __init__(self, pid: int, args: list[str]) -> None:
        self.pid, self.args, self.returncode, self._child_created = pid, args, None, True
        self.stdin = self.stdout = self.stderr = self._input = None
        self._communication_started, self._waitpid_lock = False, threading.Lock()


class Refused(Exception):
    """The template did not make a kernel."""


class Template:
    """The process from which kernels are forked. One that fails is ended, and another one made, a few times."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._process: subprocess.Popen | None = None
        self._channel: socket.socket | None = None
        self._ready: asyncio.Future | None = None
        self._failures = 0
        self._lock = asyncio.Lock()
        self._has_learned = False

    def start(self) -> None:
        """Starts it, unless it runs or has failed too often. Has to be called in JupyterLab's loop."""
        if self._process or self._failures >= MAX_FAILURES:
            return
        loop = asyncio.get_running_loop()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, PROGRAM, str(theirs.fileno())]
        # The kernel's command line has to fit where the template's is.
        length = len(" ".join([*LAUNCH, "-f", os.environ.get("JUPYTER_RUNTIME_DIR", ""), f"/kernel-{'0' * 36}.json"]))
        command.append("-".ljust(length - len(" ".join(command)) - 2, "-"))
        # `ipykernel.kernelapp` reads this when it is imported.
        env = {**os.environ, "JPY_PARENT_PID": str(os.getpid())}
        try:
            self._process = subprocess.Popen(
                command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        except OSError as error:
            self._channel.close()
            self._fail(f"{error}")
            return
        finally:
            theirs.close()
        self._ready = loop.create_future()
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._read)

    async def fork(self, command: list[str], env: dict[str, str], cwd: str, listeners: list[socket.socket]) -> int:
        """Returns the pid of a new kernel, which has these sockets for its channels. Raises `Refused`."""
        async with self._lock:
            self.start()
            process, ready = self._process, self._ready
            if process is None or ready is None:
                raise Refused("there is no template")
            # Its imports are those of a spawned kernel, so nothing is lost by waiting for them.
            done, _ = await asyncio.wait([ready], timeout=ANSWER_LIMIT_S)
            if not done or not ready.result():
                raise Refused("the template is not ready")
            # For this moment the orphans of processes below JupyterLab become its children.
            LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                answer = await self._order(command, env, cwd, listeners)
            except (OSError, ValueError, asyncio.TimeoutError) as error:
                answer = {"refused": str(error) or "the template does not answer"}
            finally:
                LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            if "pid" in answer:
                self._failures = 0
                if not self._has_learned:
                    asyncio.get_running_loop().call_later(LEARN_DELAY_S, self._learn, process, answer["pid"])
                return answer["pid"]
            reason = answer.get("refused", "the fork failed")
            if answer.get("renew", True) and self._process is process:
                self._renew(reason)
            raise Refused(reason)

    def _learn(self, process: subprocess.Popen, pid: int) -> None:
        """Shows the template a kernel that has started: the next ones will write the same memory."""
        if self._process is process and not self._has_learned and os.path.exists(f"/proc/{pid}"):
            self._has_learned = True
            with contextlib.suppress(OSError):
                self._channel.send(json.dumps({"learn": pid}).encode())

    def _renew(self, reason: str) -> None:
        """Ends it and makes another one. That frees the listeners of orders which it has not read, too."""
        self.close()
        self._fail(reason)

    def close(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        self._process.kill()
        self._process.wait()
        self._process, self._has_learned = None, False
        if self._ready and not self._ready.done():
            self._ready.set_result(False)

    def _fail(self, reason: str) -> None:
        self._failures += 1
        given_up = self._failures >= MAX_FAILURES
        end = "kernels are spawned from now on" if given_up else "another one is made"
        self._log.warning("The template of kernels has failed, and %s: %s", end, reason)
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_later(TEMPLATE_DELAY_S, self.start)

    def _read(self) -> None:
        """The template is ready, or has ended."""
        try:
            packet = self._channel.recv(MAX_ANSWER_BYTES)
        except OSError:
            packet = b""
        if packet:
            self._ready.set_result(True)
        else:
            self._renew("it has ended")

    async def _order(self, command: list[str], env: dict[str, str], cwd: str, listeners: list[socket.socket]) -> dict:
        """Sends an order with its descriptors, and returns the answer."""
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        ports = [listener.getsockname()[1] for listener in listeners]
        os.umask(umask := os.umask(0o77))
        order = {"cmd": command, "env": env, "cwd": cwd, "umask": umask, "parent": os.getpid(), "ports": ports}
        with contextlib.ExitStack() as stack:
            read_end, write_end = open_pipe(stack)
            input_end, closed_end = os.pipe()
            os.close(closed_end)
            stack.callback(os.close, input_end)
            for listener in listeners:
                listener.listen(100)
            descriptors = [input_end, 1, 2, write_end.fileno(), *(listener.fileno() for listener in listeners)]
            socket.send_fds(self._channel, [json.dumps(order).encode()], descriptors)
            write_end.close()
            loop.add_reader(read_end, lambda: told.done() or told.set_result(read_end.read(MAX_ANSWER_BYTES)))
            stack.callback(loop.remove_reader, read_end)
            return json.loads(await asyncio.wait_for(told, ANSWER_LIMIT_S) or b"{}")


def open_pipe(stack: contextlib.ExitStack) -> tuple[Any, Any]:
    ends = os.pipe()
    read_end, write_end = os.fdopen(ends[0], "rb", buffering=0), os.fdopen(ends[1], "wb", buffering=0)
    return stack.enter_context(read_end), stack.enter_context(write_end)


class QuickProvisioner(LocalProvisioner):
    """Jupyter's own provisioner, with forked kernels where they equal spawned ones, and without waits in steps."""

    template: Template | None = None
    _is_ending = False

    async def launch_kernel(self, cmd, **kwargs):
        context = getattr(self.parent, "context", None)
        if context:
            # After a restart ZeroMQ waits 100 to 200 ms before it connects again: now 1, 2, 4 ... 100 ms.
            context.setsockopt(zmq.RECONNECT_IVL, 1)
            context.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
        self._is_ending = False
        if not has_room(2):
            return await super().launch_kernel(cmd, **{**kwargs, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})
        with self._hold_ports() as listeners:
            try:
                return await self._fork_kernel(listeners, cmd, **self._scrub_kwargs(kwargs))
            except Refused as reason:
                if self.template:
                    self.log.info("Kernel %s is spawned, not forked: %s", self.kernel_id, reason)
        return await super().launch_kernel(cmd, **kwargs)

    async def _fork_kernel(self, listeners, cmd, env=None, cwd=None, **others):
        if not self.template:
            raise Refused("there is no template")
        if cmd[:3] != LAUNCH or others or env is None:
            raise Refused("its command is another one")
        if not listeners:
            raise Refused("it does not listen on free ports of 127.0.0.1")
        env["JPY_PARENT_PID"] = str(os.getpid())
        pid = await self.template.fork(cmd, env, cwd or os.getcwd(), listeners)
        self.process, self.pid, self.pgid, self.cwd = ForkedProcess(pid, cmd), pid, pid, cwd or os.getcwd()
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


def has_room(descriptor: int) -> bool:
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
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(end.wait(), LOOK_PAUSE_S)
    loop.remove_reader(descriptor)
    os.close(descriptor)

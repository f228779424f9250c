"""The process from which Python kernels are forked, as JupyterLab sees it: `kernel_template.py` is what it runs."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_template.py")
LAUNCH = [sys.executable, "-m", "ipykernel_launcher"]
LIBC = ctypes.CDLL(None)
PR_SET_CHILD_SUBREAPER = 36
# A fork takes milliseconds. A template that does not answer in this time is ended.
ANSWER_LIMIT_S = 2
# The template's imports would take time from the first page.
TEMPLATE_DELAY_S = 0.2
# By then a kernel has answered for the first time.
LEARN_DELAY_S = 1
MAX_FAILURES = 3
MAX_ANSWER_BYTES = 4096


class ForkedProcess(subprocess.Popen):
    """A `Popen` of a child that was not spawned here. The methods of `Popen` need no more than this."""

    _sigint_wait_secs = 0

    def __init__(self, pid: int, args: list[str]) -> None:
        self.pid, self.args, self.returncode, self._child_created = pid, args, None, True
        self.stdin = self.stdout = self.stderr = self._input = None
        self._communication_started, self._waitpid_lock = False, threading.Lock()


class Refused(Exception):
    """The template did not make a kernel."""


def count_bytes(command: list[str]) -> int:
    """The length of a command line as `/proc` shows it, without its last NUL."""
    return len(os.fsencode("\0".join(command)))


class Template:
    """The process from which kernels are forked. One that fails is ended, and another one made, a few times."""

    def __init__(self, log: Any) -> None:
        self._log = log
        # JupyterLab's, to which the lock, the future and the reader belong.
        self.loop: asyncio.AbstractEventLoop | None = None
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
        connection_file = os.path.join(os.environ.get("JUPYTER_RUNTIME_DIR", ""), f"kernel-{'0' * 36}.json")
        missing = count_bytes([*LAUNCH, "-f", connection_file]) - count_bytes([*command, ""])
        command.append("-".ljust(missing, "-"))
        # `ipykernel.kernelapp` reads this when it is imported.
        env = {**os.environ, "JPY_PARENT_PID": str(os.getpid())}
        try:
            # Its standard input is a closed pipe, as a kernel's is: Python asks it once whether it can seek.
            self._process = subprocess.Popen(
                command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.PIPE, start_new_session=True
            )
            self._process.stdin.close()
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
        if asyncio.get_running_loop() is not self.loop:
            raise Refused("it is not started in JupyterLab's event loop")
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
                answer = await self._request(command, env, cwd, listeners)
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
                self._renew(reason, is_stale="renew" in answer)
            raise Refused(reason)

    def _learn(self, process: subprocess.Popen, pid: int) -> None:
        """Shows the template a kernel that has started: the next ones will write the same memory."""
        if self._process is process and not self._has_learned and os.path.exists(f"/proc/{pid}"):
            self._has_learned = True
            with contextlib.suppress(OSError):
                self._channel.send(json.dumps({"learn": pid}).encode())

    def _renew(self, reason: str, is_stale: bool = False) -> None:
        """Ends it and makes another one. That frees the listeners of requests which it has not read, too."""
        self.close()
        # A package can be installed any number of times: that is no failure.
        if is_stale:
            self._log.info("The template of kernels is replaced: %s", reason)
            self._start_later()
        else:
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
        self._start_later()

    def _start_later(self) -> None:
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

    async def _request(self, command: list[str], env: dict[str, str], cwd: str, listeners: list[socket.socket]) -> dict:
        """Sends a request with its descriptors, and returns the answer."""
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        ports = [listener.getsockname()[1] for listener in listeners]
        os.umask(umask := os.umask(0o77))
        request = {"cmd": command, "env": env, "cwd": cwd, "umask": umask, "parent": os.getpid(), "ports": ports}
        with contextlib.ExitStack() as stack:
            read_end, write_end = open_pipe(stack)
            input_end, closed_end = os.pipe()
            os.close(closed_end)
            stack.callback(os.close, input_end)
            for listener in listeners:
                listener.listen(100)
            descriptors = [input_end, 1, 2, write_end.fileno(), *(listener.fileno() for listener in listeners)]
            socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
            write_end.close()
            loop.add_reader(read_end, lambda: told.done() or told.set_result(read_end.read(MAX_ANSWER_BYTES)))
            stack.callback(loop.remove_reader, read_end)
            return json.loads(await asyncio.wait_for(told, ANSWER_LIMIT_S) or b"{}")


def open_pipe(stack: contextlib.ExitStack) -> tuple[Any, Any]:
    ends = os.pipe()
    read_end, write_end = os.fdopen(ends[0], "rb", buffering=0), os.fdopen(ends[1], "wb", buffering=0)
    return stack.enter_context(read_end), stack.enter_context(write_end)

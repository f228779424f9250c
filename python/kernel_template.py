"""Imports what a Python kernel imports, and forks a kernel for each request of JupyterLab.

It is a program of its own and holds no module of JupyterLab: `sys.modules` of a forked kernel is that of a spawned one.
A request is one packet with JSON ({"cmd", "env", "cwd", "umask", "parent", "ports"}) and descriptors: standard input, output
and error, a pipe for the answer, and a listening socket for each port. The answer is {"pid": n} once the kernel has become
JupyterLab's child, or {"refused": reason, "renew": whether another template may serve}. {"learn": pid} shows it a kernel
that has started. The template ends with JupyterLab.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib.util
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

FOLDER = os.path.dirname(os.path.abspath(__file__))
# These pull in all that a spawned kernel has imported when it has run its first cell, and nothing else.
PRELOADED = (
    *("ipykernel.kernelapp", "ipykernel.debugger", "IPython.core.completerlib", "IPython.core.debugger"),
    *("IPython.core.logger", "IPython.core.oinspect", "IPython.extensions.storemagic", "IPython.utils.wildcard"),
    *("faulthandler", "pdb", "psutil", "pwd", "resource", "sqlite3", "tornado.platform.asyncio"),
)
# Read when a kernel starts, by the interpreter or by what it runs first, in ways that are not all recorded.
START_NAMES = ("CONDA", "VIRTUAL_ENV", "IPYTHON", "JUPYTER", "PYDEVD", "DEBUGPY", "ZMQ", "HOME", "USER", "PATH", "TERM")
MAX_REQUEST_BYTES = 1 << 20
MAX_DESCRIPTORS = 9
PARENT_LIMIT_S = 1


def load_module(name: str) -> Any:
    """Loads a file of this folder, which is not in `sys.modules` then."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(FOLDER, f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fingerprint = load_module("fingerprint")
prefault = load_module("prefault")


class Template:
    """The process that forks. `serve` returns in each kernel, and nowhere else."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._view = load_module("proc_view").ProcView()
        self._fingerprint = fingerprint.Fingerprint()
        self._environ = dict(os.environ)
        # Imports set variables too (PYDEVD_USE_FRAME_EVAL): they stay, as in a spawned kernel.
        self._set_by_imports: dict[str, str] = {}
        # The pages that an earlier kernel has written: the next one will write the same.
        self._written: list[tuple[int, int]] = []

    def warm_up(self) -> None:
        gc.disable()
        # As `python -m ipykernel_launcher` has it. With PYTHONSAFEPATH it is not there.
        if sys.path[:1] == [FOLDER]:
            del sys.path[0]
        self._fingerprint.add(fingerprint.list_modules, fingerprint.list_import_folders())
        with fingerprint.record_environ(), silence():
            for name in PRELOADED:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        before = self._environ
        self._set_by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
        self._fingerprint.add(fingerprint.stat_path, fingerprint.find_module_folders() - {FOLDER})
        fingerprint.require_one_thread()
        # Without a collection first: imports leave next to no garbage, and it would take a tenth of their time.
        gc.freeze()

    def serve(self) -> None:
        self._channel.send(b"ready")
        while True:
            packet, descriptors = self._receive()
            if not packet:
                os._exit(0)
            request = json.loads(packet)
            if "learn" in request:
                self._written = prefault.find_written(request["learn"])
                continue
            report = descriptors[3]
            try:
                self._check(request)
                helper = os.fork()
            except (fingerprint.Stale, OSError) as error:
                answer = {"refused": str(error), "renew": getattr(error, "renew", False)}
                os.write(report, json.dumps(answer).encode())
            else:
                if helper == 0:
                    # When this process has ended the kernel is JupyterLab's child, as a spawned one is.
                    if os.fork():
                        os._exit(0)
                    self._channel.close()
                    return self._become(request, descriptors)
                os.waitpid(helper, 0)
            for descriptor in descriptors:
                os.close(descriptor)

    def _receive(self) -> tuple[bytes, list[int]]:
        size = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
        packet, ancillary, _, _ = self._channel.recvmsg(MAX_REQUEST_BYTES, size, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for _, _, part in ancillary:
            descriptors.frombytes(part[: len(part) - len(part) % descriptors.itemsize])
        return packet, list(descriptors)

    def _check(self, request: dict) -> None:
        """Raises `Stale` if a spawned kernel would differ."""
        fingerprint.require_one_thread()
        if not os.access(request["cwd"], os.X_OK):
            raise fingerprint.Stale("its folder is gone or can't be entered", renew=False)
        env = request["env"]
        changed = [name for name in env.keys() | self._environ if env.get(name) != self._environ.get(name)]
        for name in changed:
            if name.startswith(START_NAMES):
                raise fingerprint.Stale(f"its {name} is another one than JupyterLab's", renew=False)
        try:
            fingerprint.check_environ(changed)
        except fingerprint.Stale as error:
            # Another template would have JupyterLab's environment again.
            raise fingerprint.Stale(str(error), renew=False) from error
        self._fingerprint.check()

    def _become(self, request: dict, descriptors: list[int]) -> None:
        """Makes this process what a spawned kernel is before its first line."""
        report, listeners = descriptors[3], descriptors[4:]
        prefault.copy(self._written)
        # A fork leaves these as they were in the other process. From Python 3.13 on the time is one in nanoseconds.
        with contextlib.suppress(AttributeError):
            threading.main_thread()._set_native_id()
            logging._startTime = time.time_ns() if isinstance(logging._startTime, int) else time.time()
        os.setsid()
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
            os.close(descriptor)
        # While there is one thread: later each doubling of the table of descriptors stops one for 5 to 15 ms.
        with contextlib.suppress(OSError):
            os.dup2(0, 255, inheritable=False)
            os.close(255)
        # A failure ends this process, and the kernel is spawned.
        os.chdir(request["cwd"])
        os.umask(request["umask"])
        env = {**self._set_by_imports, **request["env"]}
        for name in os.environ.keys() - env.keys():
            del os.environ[name]
        os.environ.update(env)
        command = request["cmd"]
        self._view.show_command(command)
        sys.argv = [importlib.util.find_spec("ipykernel_launcher").origin, *command[3:]]
        sys.orig_argv = list(command)
        await_parent(request["parent"])
        bind_to(dict(zip(request["ports"], listeners)))
        importlib.invalidate_caches()
        gc.enable()
        os.write(report, json.dumps({"pid": os.getpid()}).encode())
        os.close(report)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drops output meanwhile: debugpy warns of frozen modules, which a spawned kernel shows to nobody."""
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    with open(os.devnull, "w") as null:
        for descriptor in (1, 2):
            os.dup2(null.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, copy in zip((1, 2), saved):
            os.dup2(copy, descriptor)
            os.close(copy)


def await_parent(parent: int) -> None:
    """Waits until this process is JupyterLab's child: `ParentPollerUnix` looks at that once, soon after."""
    started = time.monotonic()
    while os.getppid() != parent:
        if time.monotonic() - started > PARENT_LIMIT_S:
            os._exit(1)
        time.sleep(0.0002)


def bind_to(listeners: dict[int, int]) -> None:
    """Makes the kernel's sockets use listeners that JupyterLab has opened, so that clients never have to try again."""
    import zmq
    from ipykernel.heartbeat import Heartbeat
    from ipykernel.kernelapp import IPKernelApp

    def bind_with(stock: Any, find: Any) -> Any:
        def bind(self: Any, *args: Any) -> Any:
            zmq_socket, port = find(self, *args)
            if port in listeners:
                zmq_socket.setsockopt(zmq.USE_FD, listeners.pop(port))
            return stock(self, *args)

        return bind

    IPKernelApp._try_bind_socket = bind_with(IPKernelApp._try_bind_socket, lambda app, zmq_socket, port: (zmq_socket, port))
    Heartbeat._try_bind_socket = bind_with(Heartbeat._try_bind_socket, lambda beat: (beat.socket, beat.port))


def main() -> None:
    template = Template(socket.socket(fileno=int(sys.argv[1])))
    try:
        template.warm_up()
    except fingerprint.Stale as reason:
        print(f"Kernels can't be forked: {reason}", file=sys.stderr)
        # Another thread may never end.
        os._exit(1)
    template.serve()
    # Its sockets are on 127.0.0.1, and ipykernel warns of them in the log of each kernel.
    logging.getLogger("IPKernelApp").addFilter(lambda record: "TCP without encryption" not in str(record.msg))
    # The rest is `ipykernel_launcher`. Its end is the end of the program, exit handlers included.
    from ipykernel import kernelapp as app

    app.launch_new_instance()


if __name__ == "__main__":
    main()

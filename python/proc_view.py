"""What `/proc` shows of this process, after a fork: the environment and the command line of what it has become.

The system shows the memory in which it once put them, so they are overwritten in place, within their first length.
"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None)


class ProcView:
    """Has to be made before anything changes a variable: later the C library may hold a copy elsewhere."""

    def __init__(self) -> None:
        # The arguments and then the variables follow each other on the stack, each with a NUL at its end.
        self._variables: dict[bytes, tuple[int, int]] = {}
        entries = ctypes.POINTER(ctypes.c_void_p).in_dll(LIBC, "environ")
        index = 0
        while entries and entries[index]:
            address = entries[index]
            text = ctypes.string_at(address)
            self._variables[text.partition(b"=")[0]] = (address, len(text))
            index += 1

    def show_variable(self, name: str, value: str) -> bool:
        """Makes `/proc/PID/environ` show a variable with this value. False if that can't be done."""
        text = os.fsencode(f"{name}={value}")
        address, size = self._variables.get(os.fsencode(name), (0, -1))
        if size != len(text):
            return False
        ctypes.memmove(address, text, size)
        with open("/proc/self/environ", "rb") as file:
            return text in file.read().split(b"\0")

    def show_command(self, command: list[str]) -> None:
        """Makes `/proc/PID/cmdline` show this command, cut to the length of the old one."""
        with open("/proc/self/cmdline", "rb") as file:
            shown = file.read()
        start = min((address for address, _ in self._variables.values()), default=0) - len(shown)
        if shown and start > 0 and ctypes.string_at(start, len(shown)) == shown:
            text = b"\0".join(map(os.fsencode, command))[: len(shown) - 1]
            ctypes.memmove(start, text.ljust(len(shown), b"\0"), len(shown))

"""Copies the pages that a forked process is going to write, in a few calls: a page fault for each costs several times more."""

from __future__ import annotations

import array
import contextlib
import ctypes
import os

LIBC = ctypes.CDLL(None)
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ENTRY_BYTES = 8
# Flags of an entry of /proc/PID/pagemap: the page is in memory, and in that of no other process.
PRESENT = 1 << 63
EXCLUSIVE = 1 << 56
MADV_POPULATE_WRITE = 23


def find_written(pid: int) -> list[tuple[int, int]]:
    """Returns the spans of this process's memory (first page, number) that a process forked from it has written since."""
    with contextlib.suppress(OSError):
        inherited = find_pages("self", PRESENT)
        return join(sorted(inherited & find_pages(str(pid), PRESENT | EXCLUSIVE)))
    return []


def find_pages(process: str, flags: int) -> set[int]:
    """Returns the numbers of the pages of private writable memory that have these flags."""
    found: set[int] = set()
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/pagemap", "rb", buffering=0) as pagemap:
        for line in maps:
            span, mode = line.split()[:2]
            if mode != "rw-p":
                continue
            first, end = (int(address, 16) // PAGE_BYTES for address in span.split("-"))
            pagemap.seek(first * ENTRY_BYTES)
            entries = array.array("Q", pagemap.read((end - first) * ENTRY_BYTES))
            found.update(first + index for index, entry in enumerate(entries) if entry & flags == flags)
    return found


def join(pages: list[int]) -> list[tuple[int, int]]:
    """Returns sorted pages as spans."""
    spans: list[tuple[int, int]] = []
    for page in pages:
        if spans and page == sum(spans[-1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((page, 1))
    return spans


def copy(spans: list[tuple[int, int]]) -> None:
    """Copies them now. A system that can't do that (before Linux 5.14) copies each one when it is written."""
    for first, count in spans:
        address, size = ctypes.c_void_p(first * PAGE_BYTES), ctypes.c_size_t(count * PAGE_BYTES)
        if LIBC.madvise(address, size, MADV_POPULATE_WRITE) != 0:
            return

"""Serves compressed copies of static files, and lets browsers keep a file for ever that has a hash in its name.

`lab/compress-assets.ts` makes the copies beforehand. The name of a copy is the hash of its original's content, so that a
copy never belongs to another file, or to an earlier version of this one. A file without a copy is served as it is.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import stat
import sys
from typing import Any

# Shorter files are smaller than what their headers cost. Longer ones are no assets, and reading them would take long.
MIN_BYTES = 1024
MAX_BYTES = 16 * 1024 * 1024
KEY_CHARS = 32
# In the order in which they are tried among equals: the smaller copy first.
ENCODINGS = {"br": "br", "gzip": "gz"}
# webpack writes at least 16 hex digits of a hash into a name.
HASHED_NAME = re.compile(r"(^|[._-])[0-9a-f]{16,64}\.[\w.]+$")
FOR_EVER = "public, max-age=31536000, immutable"


def install(app: Any, copies: list[str]) -> None:
    """Makes the handler of all static files serve copies. `copies` are their folders, which may not exist yet."""
    from jupyter_server.base.handlers import FileFindHandler

    set_headers, get_content_size = FileFindHandler.set_headers, FileFindHandler.get_content_size

    def set_more_headers(handler: Any) -> None:
        set_headers(handler)
        handler.add_header("Vary", "Accept-Encoding")
        # Jupyter knows only the folders that were there when it started, by their URL below `/`.
        if HASHED_NAME.search(os.path.basename(handler.absolute_path)):
            handler.set_header("Cache-Control", FOR_EVER)

    def choose_content(handler: Any) -> int:
        """Chooses what is sent, and returns its size. Ranges are those of the original."""
        if "Range" not in handler.request.headers:
            accepted = handler.request.headers.get("Accept-Encoding", "")
            found = find_copy(handler.absolute_path, accepted, copies)
            if found:
                handler.absolute_path, encoding, size = found
                handler.set_header("Content-Encoding", encoding)
                # A client that has a part of the copy must not continue it with a range, which is of the original.
                handler.set_header("Accept-Ranges", "none")
                return size
        return get_content_size(handler)

    FileFindHandler.set_headers = set_more_headers
    FileFindHandler.get_content_size = choose_content


def find_copy(path: str, accepted: str, copies: list[str]) -> tuple[str, str, int] | None:
    """Returns the copy of a file that a client prefers: its path, encoding and size. None: the file itself is sent."""
    encodings = rank_encodings(accepted)
    try:
        status = os.stat(path)
        if not encodings or not MIN_BYTES <= status.st_size <= MAX_BYTES:
            return None
        key = hash_content(path, status.st_size, status.st_mtime_ns)
    except OSError:
        return None
    for encoding in encodings:
        for folder in copies:
            copy = os.path.join(folder, f"{key}.{ENCODINGS[encoding]}")
            try:
                found = os.stat(copy, follow_symlinks=False)
            except OSError:
                continue
            is_usable = stat.S_ISREG(found.st_mode) and 0 < found.st_size < status.st_size
            if is_usable and is_trusted(found) and is_trusted(os.stat(folder)):
                return copy, encoding, found.st_size
    return None


def is_trusted(status: os.stat_result) -> bool:
    """Whether no other user can have written a file, or put one into a folder."""
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def prepare(paths: list[str]) -> None:
    """Hashes files that a page is going to ask for, for every process that is forked."""
    for path in paths:
        status = os.stat(path)
        hash_content(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def hash_content(path: str, size: int, mtime_ns: int) -> str:
    """Returns the name of a file's copies. Size and time are there so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:KEY_CHARS]


def rank_encodings(accepted: str) -> list[str]:
    """Returns the encodings that an Accept-Encoding prefers to the file itself, the best first."""
    weights: dict[str, float] = {}
    for part in accepted.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        try:
            weights[name] = next((float(piece[2:]) for piece in parameters if piece.startswith("q=")), 1.0)
        except ValueError:
            weights[name] = 0.0
    other = weights.get("*", 0.0)
    ranked = sorted(ENCODINGS, key=lambda name: -weights.get(name, other))
    least = weights.get("identity", 0.0)
    return [name for name in ranked if weights.get(name, other) > 0 and weights.get(name, other) >= least]


def find_folders(app: Any) -> list[str]:
    """Returns the folders from which an initialised ServerApp serves static files."""
    from jupyter_server.base.handlers import FileFindHandler

    found: dict[str, None] = {}

    def collect(rules: Any) -> None:
        for rule in rules:
            collect(getattr(rule.target, "rules", ()))
            if isinstance(rule.target, type) and issubclass(rule.target, FileFindHandler):
                path = rule.target_kwargs.get("path", ())
                found.update(dict.fromkeys([path] if isinstance(path, str) else path))

    collect(app.web_app.default_router.rules)
    collect(app.web_app.wildcard_router.rules)
    return [os.path.abspath(os.path.expanduser(folder)) for folder in found]


def find_installed_folders() -> list[str]:
    """Returns the folders that JupyterLab serves by default, without running it: for the build of an image."""
    from jupyter_core.paths import jupyter_path
    from jupyter_server import DEFAULT_STATIC_FILES_PATH
    from jupyterlab.commands import get_app_dir

    return [os.path.join(get_app_dir(), "static"), DEFAULT_STATIC_FILES_PATH, *jupyter_path("labextensions")]


if __name__ == "__main__":
    sys.stdout.write("\n".join(find_installed_folders()))

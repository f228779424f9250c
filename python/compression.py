"""Compresses large answers that are made for a request: JSON, which the page waits for, themes, and kernels' logos.

Pages are left alone, because they can hold a token and show what is in their URL: the size of a compressed page would
reveal the token, character by character (the BREACH attack). So are event streams, and whatever is sent piece by piece.
"""

from __future__ import annotations

import zlib
from typing import Any

from tornado.web import OutputTransform

TYPES = {"application/json", "text/css", "image/svg+xml"}
# A packet holds 1.4 KB: a shorter answer gains nothing.
MIN_BYTES = 1500
# What is longer holds up all other requests for more than 20 ms.
MAX_BYTES = 1024 * 1024
# JupyterLab's 142 KB of settings: 30 KB in 1.3 ms with level 1, 27 in 1.7 with level 3, 23 in 22 with level 6.
LEVEL = 3
GZIP_FORMAT = 31
# Pictures in a notebook are compressed already: a sample of the answer shows it in 0.1 ms.
SAMPLE_BYTES = 8192
MAX_SAMPLE_RATIO = 0.6


def install(app: Any) -> None:
    """Adds compression to an initialised ServerApp. An answer that something else has compressed stays as it is."""
    app.web_app.transforms.append(CompressedAnswer)


class CompressedAnswer(OutputTransform):
    """Compresses an answer that is sent as a whole, with status 200: any other one has a short body, a part of one, or none."""

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self._accepted = accepts_gzip(request.headers.get("Accept-Encoding", ""))

    def transform_first_chunk(self, status_code: int, headers: Any, chunk: bytes, finishing: bool) -> Any:
        """Tornado calls it with the first part of each answer. An answer in several parts stays as it is."""
        is_whole = status_code == 200 and (finishing or headers.get("Content-Length") == str(len(chunk)))
        is_type = headers.get("Content-Type", "").split(";")[0].strip().lower() in TYPES
        is_sized = MIN_BYTES <= len(chunk) <= MAX_BYTES
        if not (is_whole and is_type and is_sized) or "Content-Encoding" in headers:
            return status_code, headers, chunk
        if "Accept-Encoding" not in headers.get("Vary", ""):
            headers.add("Vary", "Accept-Encoding")
        middle = (len(chunk) - min(len(chunk), SAMPLE_BYTES)) // 2
        sample = chunk[middle : middle + SAMPLE_BYTES]
        if self._accepted and len(compress(sample)) < len(sample) * MAX_SAMPLE_RATIO:
            chunk = compress(chunk)
            headers["Content-Encoding"] = "gzip"
            headers["Content-Length"] = str(len(chunk))
            if "Accept-Ranges" in headers:
                headers["Accept-Ranges"] = "none"
        return status_code, headers, chunk


def accepts_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding names gzip, with any weight but 0."""
    for part in accepted.lower().replace(" ", "").split(","):
        name, _, weight = part.partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or weight == ""
    return False


def compress(content: bytes) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP_FORMAT)
    return compressor.compress(content) + compressor.flush()

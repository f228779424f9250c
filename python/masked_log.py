"""JupyterLab's log: standard error and standard output without secrets."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
from typing import Any
from urllib.parse import quote

MASK = "***"


class LogWriter(io.FileIO):
    """The log's file. On a full disk what is written is lost: it must not fail whatever has something to say."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return len(data)


class MaskedStream(io.TextIOWrapper):
    """The log without secrets. JupyterLab logs its environment, tokens included, when a gateway starts a kernel."""

    secrets: re.Pattern[str] | None = None

    def write(self, text: str) -> int:
        return super().write(self.secrets.sub(MASK, text) if self.secrets else text)

    def mask(self, secrets: list[str]) -> None:
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
        # A short secret is masked only as a whole word: a token such as `a` would make the log unreadable.
        patterns = [re.escape(form) if len(form) >= 8 else rf"(?<!\w){re.escape(form)}(?!\w)" for form in forms if form]
        self.secrets = re.compile("|".join(sorted(patterns, key=len, reverse=True))) if patterns else None


def open_log() -> MaskedStream:
    """Replaces both output streams by a masked one. It has to run before anything keeps a reference to them."""
    stream = MaskedStream(LogWriter(2, "wb", closefd=False), "utf-8", "backslashreplace", write_through=True)
    sys.stdout = sys.__stdout__ = sys.stderr = sys.__stderr__ = stream
    return stream

"""JupyterLab's log: standard error and standard output without secrets."""

from __future__ import annotations

import errno
import io
import re
import sys
from typing import Any

MASK = "***"


class LogWriter(io.FileIO):
    """The log's file. On a full disk it drops what is written: a log line must not make the code that writes it fail."""

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
        """Masks the secrets of a launch spec, which has them in every form in which they are written."""
        # One secret can begin with another: the longest that matches is masked.
        forms = sorted(secrets, key=len, reverse=True)
        # A short secret is masked only as a whole word: a token such as `a` would make the log unreadable.
        patterns = [re.escape(form) if len(form) >= 8 else rf"(?<!\w){re.escape(form)}(?!\w)" for form in forms]
        self.secrets = re.compile("|".join(patterns))


def open_log() -> MaskedStream:
    """Replaces both output streams by a masked one. It has to run before anything keeps a reference to them."""
    stream = MaskedStream(LogWriter(2, "wb", closefd=False), "utf-8", "backslashreplace", write_through=True)
    sys.stdout = sys.__stdout__ = sys.stderr = sys.__stderr__ = stream
    return stream

"""Checks the certificates that JupyterLab is configured with, before it binds its port."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Callable
from typing import Any


def check(app: Any, refuse: Callable[[str, str], None]) -> None:
    """Calls `refuse` with the setting that can't work, and why. Then ends the program as Jupyter does."""
    problem = find_problem(app.ssl_options or {})
    if problem:
        refuse(*problem)
        app.log.fatal("Bad config encountered during initialization: ServerApp.%s %s", *problem)
        app.exit(1)


def find_problem(options: dict[str, Any]) -> tuple[str, str] | None:
    """Returns the setting of ServerApp that can't work, and why."""
    for option, name in (("certfile", "certfile"), ("keyfile", "keyfile"), ("ca_certs", "client_ca")):
        reason = explain_unreadable(options.get(option))
        if reason:
            return name, f"must be a readable file; {options[option]} is not ({reason})"
    if options.get("cert_reqs") == ssl.CERT_REQUIRED:
        return "client_ca", "demands a certificate of each client, and the control API has none"
    if not options:
        return None
    if not options.get("certfile"):
        return "keyfile" if options.get("keyfile") else "ssl_options", "must not be set without a certfile"
    from tornado.netutil import ssl_options_to_context

    try:
        ssl_options_to_context(options, server_side=True)
    except (ssl.SSLError, OSError, TypeError, ValueError, AssertionError) as error:
        return "certfile", f"must be a PEM certificate that fits its key: {error or type(error).__name__}"
    return None


def explain_unreadable(path: str | None) -> str | None:
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, os.strerror(error.errno or 0))
    return None

"""Lets the control API's own requests in, whatever identity provider and token JupyterLab has."""

from __future__ import annotations

import hmac
from dataclasses import asdict
from typing import Any

# Its value is a secret that only the control API and this process know. Each start has another one.
HEADER = "X-Jupyter-Server-Supervisor"


def install(app: Any, secret: str) -> None:
    """Wraps the identity provider and the authorizer of an initialised ServerApp. Other requests are theirs as before."""
    expected = secret.encode()
    from jupyter_server.auth import User

    user = User("control-api", display_name="Control API")
    settings = app.web_app.settings
    provider, authorizer = settings["identity_provider"], settings["authorizer"]
    get_user, is_token_authenticated = provider.get_user, provider.is_token_authenticated
    identity_model, is_authorized = provider.identity_model, authorizer.is_authorized

    def is_own(handler: Any) -> bool:
        return hmac.compare_digest(handler.request.headers.get(HEADER, "").encode(), expected)

    # A provider may expect users of a class of its own.
    provider.identity_model = lambda given: asdict(user) if given is user else identity_model(given)
    # The others may be asynchronous, and their results are handed on. Without token authentication Jupyter asks a DELETE for
    # an XSRF cookie.
    provider.get_user = lambda handler: user if is_own(handler) else get_user(handler)
    provider.is_token_authenticated = lambda handler: is_own(handler) or is_token_authenticated(handler)
    authorizer.is_authorized = lambda handler, *args, **kwargs: is_own(handler) or is_authorized(
        handler, *args, **kwargs
    )

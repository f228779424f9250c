"""What JupyterLab needs inside an iframe of another origin's page: a frame policy, cookies, a token on its websockets."""

from __future__ import annotations

from typing import Any

POLICY = "Content-Security-Policy"
CROSS_SITE_COOKIE = {"samesite": "None", "secure": True}


def attend(app: Any, embed: dict) -> None:
    """Adds it to a ServerApp whose parts are configured. What its configuration files set beside it stays."""
    app.tornado_settings = extend_settings(app.tornado_settings, embed)
    if embed["secure"]:
        provider = app.identity_provider
        provider.cookie_options = {**lower_names(provider.cookie_options), **CROSS_SITE_COOKIE}


def list_settings(embed: dict) -> list[tuple[str, str, str]]:
    """The same by the names of settings, for a JupyterLab that can't be attended: they replace those of its files."""
    settings = [("ServerApp", "tornado_settings", repr(extend_settings({}, embed)))]
    if embed["secure"]:
        settings.append(("IdentityProvider", "cookie_options", repr(CROSS_SITE_COOKIE)))
    return settings


def extend_settings(settings: dict, embed: dict) -> dict:
    """The web application's settings, with what `embed` asks for above them."""
    headers = settings.get("headers", {})
    # Jupyter's own default, which it leaves out as soon as there is a policy.
    report = f"report-uri {embed['base_url']}api/security/csp-report"
    extended = {
        **settings,
        "headers": {**headers, POLICY: allow_frames(headers.get(POLICY, report), embed["origins"])},
        # A browser may keep cookies from a frame, and a websocket has no header of ours: its address carries the token.
        "page_config_data": {**settings.get("page_config_data", {}), "appendToken": True},
    }
    if embed["secure"]:
        cookie = {"path": embed["base_url"], **lower_names(settings.get("xsrf_cookie_kwargs", {}))}
        extended["xsrf_cookie_kwargs"] = {**cookie, **CROSS_SITE_COOKIE}
    return extended


def allow_frames(policy: str, origins: list[str]) -> str:
    """A policy by which the pages of these origins, and of no other, may show JupyterLab."""
    directives = [directive.strip() for directive in policy.split(";")]
    kept = [directive for directive in directives if directive.partition(" ")[0].lower() != "frame-ancestors"]
    return "; ".join([f"frame-ancestors 'self' {' '.join(origins)}", *filter(None, kept)])


def lower_names(options: dict) -> dict:
    """Attributes of a cookie in the spelling that they have here, so that none stands there twice."""
    return {name.lower(): value for name, value in options.items()}

"""Lets pages of other origins show JupyterLab in an iframe: sets frame policy, cookies and websocket tokens."""

from __future__ import annotations

from typing import Any

POLICY = "Content-Security-Policy"
CROSS_SITE_COOKIE = {"samesite": "None", "secure": True}


def install(app: Any, options: dict) -> None:
    """Applies this to a configured ServerApp. Other settings of its configuration files stay in force."""
    app.tornado_settings = extend_settings(app.tornado_settings, options)
    if options["secure"]:
        provider = app.identity_provider
        provider.cookie_options = {**lower_names(provider.cookie_options), **CROSS_SITE_COOKIE}


def extend_settings(settings: dict, options: dict) -> dict:
    """Returns the settings of the web application, extended by what an iframe needs."""
    headers = settings.get("headers", {})
    # Jupyter's default. Jupyter leaves it out as soon as a policy is set.
    report = f"report-uri {options['base_url']}api/security/csp-report"
    extended = {
        **settings,
        "headers": {**headers, POLICY: allow_frames(headers.get(POLICY, report), options["origins"])},
        # Browsers may block a frame's cookies, and a websocket has no custom header: its URL has to carry the token.
        "page_config_data": {**settings.get("page_config_data", {}), "appendToken": True},
    }
    if options["secure"]:
        cookie = {"path": options["base_url"], **lower_names(settings.get("xsrf_cookie_kwargs", {}))}
        extended["xsrf_cookie_kwargs"] = {**cookie, **CROSS_SITE_COOKIE}
    return extended


def allow_frames(policy: str, origins: list[str]) -> str:
    """Returns the policy with `frame-ancestors` set to JupyterLab's own origin and these."""
    directives = [directive.strip() for directive in policy.split(";")]
    kept = [directive for directive in directives if directive.partition(" ")[0].lower() != "frame-ancestors"]
    return "; ".join([f"frame-ancestors 'self' {' '.join(origins)}", *filter(None, kept)])


def lower_names(options: dict) -> dict:
    """Returns cookie attributes with lower-case names: `SameSite` and `samesite` must not both be set."""
    return {name.lower(): value for name, value in options.items()}

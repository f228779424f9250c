"""A page of JupyterLab, for the tests, that tells what it is made of: /probe."""

import json
import os
import resource
import signal
import sys
import threading

from jupyter_server.base.handlers import JupyterHandler
from tornado import web

LIMITS = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))


def describe(value):
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else repr(type(value))


def name_handler(handler):
    return getattr(handler, "__name__", str(handler))


def list_rules(router):
    for rule in router.rules:
        regex = getattr(rule.matcher, "regex", None)
        if hasattr(rule.target, "rules"):
            yield from list_rules(rule.target)
        else:
            yield [regex.pattern if regex else describe(rule.matcher), describe(rule.target)]


class ProbeHandler(JupyterHandler):
    @web.authenticated
    def get(self):
        app = self.serverapp
        self.finish(
            json.dumps(
                {
                    "extensions": {name: point.enabled for name, point in app.extension_manager.extensions.items()},
                    "handlers": list(list_rules(app.web_app.default_router)),
                    "settings": sorted(name for name in self.settings if isinstance(name, str)),
                    "page_config": self.settings["page_config_data"],
                    "environment": dict(os.environ),
                    "argv": sys.argv[:1],
                    "path": sys.path,
                    "flags": list(sys.flags),
                    "umask": self.umask(),
                    "limits": [resource.getrlimit(getattr(resource, name)) for name in LIMITS],
                    "signals": [name_handler(signal.getsignal(number)) for number in (1, 2, 13, 15)],
                    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
                    "nice": os.nice(0),
                    "session": os.getsid(0) == os.getpid(),
                    "native_id": threading.main_thread().native_id == os.getpid(),
                    "input": os.readlink("/proc/self/fd/0"),
                }
            )
        )

    @staticmethod
    def umask():
        mask = os.umask(0)
        os.umask(mask)
        return mask


default_handlers = [(r"/probe", ProbeHandler)]

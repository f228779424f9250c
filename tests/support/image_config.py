"""A configuration as in an image that makes its own certificate and asks for a password, with what its docs offer."""

import os
import stat
import subprocess

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

c = get_config()
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.open_browser = False
c.FileContentsManager.delete_to_trash = False
if "GEN_CERT" in os.environ:
    os.makedirs(jupyter_data_dir(), exist_ok=True)
    pem_file = os.path.join(jupyter_data_dir(), "notebook.pem")
    subprocess.check_call(
        [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "365"),
            *("-nodes", "-x509", "-subj", "/C=XX/ST=XX/L=XX/O=generated/CN=generated", "-keyout", pem_file),
            *("-out", pem_file),
        ]
    )
    os.chmod(pem_file, stat.S_IRUSR | stat.S_IWUSR)
    c.ServerApp.certfile = pem_file
c.PasswordIdentityProvider.hashed_password = "sha1:74ba40f8a388:c913541b7ee99d15d5ed31d4226bf7838f83a50e"


class Manager(AsyncLargeFileManager):
    pass


def before(model, path, **kwargs):
    if model["type"] == "notebook":
        for cell in model["content"]["cells"]:
            cell["outputs"] = []


def after(model, os_path, contents_manager, **kwargs):
    print("SAVED", os.path.basename(os_path), type(contents_manager).__name__)


c.ServerApp.contents_manager_class = Manager
c.ContentsManager.pre_save_hook = before
c.FileContentsManager.post_save_hook = after
c.MappingKernelManager.cull_idle_timeout = 600
c.MappingKernelManager.cull_interval = 60
c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": "frame-ancestors https://portal.example.org"}}

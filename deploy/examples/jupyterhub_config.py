# JupyterHub 5 or later, whose users each get a jupyter-server by KubeSpawner. The hub keeps the path, and gives it to the
# container (JUPYTERHUB_SERVICE_PREFIX). The hub's own login (OAuth) is not checked here, so each server has a token, and the
# hub's home page tells it to its user. The hub's environment has JUPYTER_SERVER_SECRET, which nobody else may know.
import hashlib
import hmac
import os

c = get_config()  # noqa


def make_token(user):
    """The token of a user's server: made of the secret anew each time, so that it is stored nowhere."""
    secret = os.environ["JUPYTER_SERVER_SECRET"].encode()
    return hmac.new(secret, user.name.encode(), hashlib.sha256).hexdigest()


c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.template_vars = {"announcement_home": lambda user: f"The token of your server: {make_token(user)}"}

c.KubeSpawner.image = "registry.example.org/jupyter-server:0.1.0"
# The image's own command, with its tini.
c.KubeSpawner.cmd = None
c.KubeSpawner.port = 8888
c.KubeSpawner.environment = {
    "PROXY": "true",
    "PORT": "8888",
    "JUPYTER_PORT": "8889",
    "JUPYTER_HOST": "127.0.0.1",
    "API_TOKEN": lambda spawner: make_token(spawner.user),
}

# The hub waits until JupyterLab answers at its path, so it is started with the container. With DockerSpawner this is
# `post_start_cmd`.
START = """
import os, time
from http.client import HTTPConnection
for attempt in range(300):
    try:
        connection = HTTPConnection("127.0.0.1", int(os.environ["PORT"]), timeout=60)
        connection.request("POST", "/api/servers/", headers={"Authorization": "Bearer " + os.environ["API_TOKEN"]})
        raise SystemExit(connection.getresponse().status != 201)
    except ConnectionError:
        time.sleep(0.1)
raise SystemExit("the control API does not answer")
"""
c.KubeSpawner.lifecycle_hooks = {"postStart": {"exec": {"command": ["python3", "-c", START]}}}

c.KubeSpawner.uid = 1000
c.KubeSpawner.gid = 1000
c.KubeSpawner.fs_gid = 1000
c.KubeSpawner.container_security_context = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
c.KubeSpawner.mem_guarantee = "512M"
c.KubeSpawner.mem_limit = "4G"
c.KubeSpawner.cpu_limit = 2.0
# STOP_TIMEOUT_S is 8. The default of 1 s would end kernels in the middle of a line.
c.KubeSpawner.delete_grace_period = 30
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = "5Gi"
c.KubeSpawner.volumes = [
    {"name": "notebooks", "persistentVolumeClaim": {"claimName": "{pvc_name}"}},
    {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
]
c.KubeSpawner.volume_mounts = [
    {"name": "notebooks", "mountPath": "/notebooks"},
    {"name": "run", "mountPath": "/run"},
    {"name": "tmp", "mountPath": "/tmp"},
]

"""JupyterLab's settings in this container. They win over those of every file that `jupyter lab` reads by itself.

A setting that the control API owns (address, port, folder, base URL, token) and a setting that a start asks for by name
win over this file. If the file does not load, the start fails: JupyterLab never runs without its settings.
"""

c = get_config()  # noqa: F821 - Jupyter defines it when it runs this file.

# Terminals stay on, as in any JupyterLab: whoever may run a kernel may run a shell.
c.ServerApp.terminals_enabled = True

# Large notebooks and uploads are common (JupyterLab sends files above 512 MiB in pieces).
c.ServerApp.max_body_size = 512 * 1024 * 1024
c.ServerApp.max_buffer_size = 512 * 1024 * 1024

# Deleting a file deletes it: a trash folder inside a mounted volume would only fill the volume.
c.FileContentsManager.delete_to_trash = False

# A kernel that does not end when asked is killed after this many seconds: a container has ten seconds for its whole stop.
c.KernelManager.shutdown_wait_time = 2.0

# Kernels run until somebody stops them: a long computation is not idle because its tab is closed.
c.MappingKernelManager.cull_idle_timeout = 0

# The image decides the version: nobody in the container can act on a question about updates. Without these three settings
# JupyterLab asks hosts outside.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"

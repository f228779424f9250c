"""JupyterLab's settings in this container. They win over those of every file that `jupyter lab` reads by itself.

A setting that the control API owns (address, port, folder, base URL, token) and a setting that a start asks for by name
win over this file. If the file does not load, the start fails: JupyterLab never runs without its settings.
"""

c = get_config()  # noqa: F821 - Jupyter defines it when it runs this file.

# Deleting a file deletes it: a trash folder inside a mounted volume would only fill the volume.
c.FileContentsManager.delete_to_trash = False

# A kernel that does not end when asked is killed after this many seconds: a container has ten seconds for its whole stop.
c.KernelManager.shutdown_wait_time = 2.0

# The image decides the version: nobody in the container can act on a question about updates. Without these three settings
# JupyterLab asks hosts outside.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"

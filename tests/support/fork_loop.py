"""A process that forks and ends in a loop: never the same pid twice. It ends by itself, and when its stop file exists.

Arguments: `same` (one process group) or `new` (each one in a session of its own), and the stop file. Its output ends with
its last process, and with `stopped` where nothing else has ended it.
"""

import os
import sys
import time

LIMIT_S = 30
deadline = time.monotonic() + LIMIT_S
print("ready", flush=True)
while time.monotonic() < deadline and not os.path.exists(sys.argv[2]):
    if os.fork():
        os._exit(0)
    if sys.argv[1] == "new":
        os.setsid()
print("stopped", flush=True)

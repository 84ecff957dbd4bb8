"""Appends moments to the file that the environment variable RAYFT_STAMPS names."""

import json
import os
import time


def stamp(event: str) -> None:
    """Note that this process has come to ``event``."""
    line = json.dumps({"event": event, "pid": os.getpid(), "time": time.time()}) + "\n"
    # One write of a short line to a file opened for appending does not mix with another's.
    with open(os.environ["RAYFT_STAMPS"], "a") as file:
        file.write(line)

"""A hook of one's own that writes events to a file, and one that breaks down."""

import json
from pathlib import Path

EVENTS = Path("events.jsonl")


def note(event):
    with EVENTS.open("a") as file:
        file.write(json.dumps(event) + "\n")


def broken(event):
    if event["event"] != "begin":
        raise OSError("no such board")

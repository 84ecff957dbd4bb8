"""Start the endpoint, ask it what one picture shows, and stop it."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq


def main(run: Path) -> int:
    """Serve the package of a run for one request; returns the exit code."""
    table = pq.read_table("examples/data/pictures.parquet", filters=[("split", "=", "test")])
    picture = table.slice(0, 1).to_pylist()[0]
    command = [sys.executable, "-m", "rayft", "serve", str(run / "package"), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            # One line, once it is ready; none where it cannot be.
            line = server.stdout.readline()
            if not line:
                return server.wait()
            ready = json.loads(line)
            url = f"{ready['url']}/v1/models/{ready['models'][0]['name']}:predict"
            request = urllib.request.Request(url, picture["image"], {"Content-Type": "application/octet-stream"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                (prediction,) = json.load(answer)["predictions"]
            print(f"POST {url}\n{json.dumps(prediction)}\nit shows: {picture['label_name']}")
        finally:
            server.send_signal(signal.SIGTERM)
        return server.wait()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/pictures")))

"""Notes when modules are first imported; Python runs it at the start of every process that finds it."""

import os
import sys

MODULES = {"rayft.distributed.run", "tensorflow", "rayft.learn.session", "first_step"}


class _Watch:
    """A finder that finds nothing, and so only sees what is looked for."""

    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            from stamp import stamp

            stamp(name)
        return None


if "RAYFT_STAMPS" in os.environ:
    sys.meta_path.insert(0, _Watch())

"""A wire between two networks that takes its time; not every kernel has netem.

    slow_wire.py PID DEVICE PID DEVICE

makes a device in the network of each process and carries frames from either to the other, each as many milliseconds
later as the latest line of its input says.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_CLONE_NEWNET = 0x40000000
_FRAME = 65_600
_QUEUED_FRAMES = 4096


def enter_network(pid: int) -> None:
    """Bring this thread into the network of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as space:
        if libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def make_device(pid: int, name: str) -> int:
    """Return the open end of a new device in the network of a process."""
    enter_network(pid)
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return handle


def carry(one: int, other: int, orders: int) -> None:
    """Carry frames until the process ends; what no queue holds is lost, as on any wire."""
    delay_s = 0.0
    towards = {one: other, other: one}
    under_way: dict[int, collections.deque] = {one: collections.deque(), other: collections.deque()}
    while True:
        now = time.monotonic()
        for target, frames in under_way.items():
            while frames and frames[0][0] <= now:
                # It may be down, or full.
                with contextlib.suppress(OSError):
                    os.write(target, frames.popleft()[1])
        due = [frames[0][0] for frames in under_way.values() if frames]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        for source in select.select([one, other, orders], [], [], wait_s)[0]:
            if source == orders:
                delay_s = float(os.read(orders, 100).split()[-1]) / 1e3
                continue
            queue = under_way[towards[source]]
            with contextlib.suppress(BlockingIOError):
                while len(queue) < _QUEUED_FRAMES:
                    queue.append((time.monotonic() + delay_s, os.read(source, _FRAME)))


if __name__ == "__main__":
    ends = make_device(int(sys.argv[1]), sys.argv[2]), make_device(int(sys.argv[3]), sys.argv[4])
    print("ready", flush=True)
    carry(*ends, sys.stdin.fileno())

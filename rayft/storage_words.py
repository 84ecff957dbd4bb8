"""What an error of a storage means, in words."""

from __future__ import annotations

import errno

from rayft.busy import is_busy

_KNOWN = {
    errno.ENOENT: ("it does not exist", "Check the path."),
    errno.EROFS: ("the filesystem is read-only", "Choose a place that can be written."),
    errno.EACCES: ("no permission", "Change its permissions, or choose another place."),
    errno.EPERM: ("no permission", "Change its permissions, or choose another place."),
    errno.ENOSPC: ("the disk is full", "Free some space, or choose another place."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Choose a folder."),
    errno.EEXIST: ("a file of that name is in the way", "Remove it, or choose another place."),
    errno.EISDIR: ("it is a folder, not a file", "Name a file."),
}


def reason(error: Exception) -> str:
    """Say what went wrong."""
    known = _KNOWN.get(_number(error))
    return known[0] if known else first_line(error)


def remedy(error: Exception) -> str:
    """Say what to do about it."""
    if is_busy(error):
        return "The store was busy all the while. Try again once it is well; nothing that was written is lost."
    known = _KNOWN.get(_number(error))
    return known[1] if known else "Check the path, the credentials and the network."


def _number(error: Exception) -> int:
    """The errno; object stores report theirs in the text alone."""
    text = str(error)
    if "ACCESS_DENIED" in text or "AccessDenied" in text:
        return errno.EACCES
    if "Not a directory" in text:
        return errno.ENOTDIR
    return getattr(error, "errno", None) or (errno.ENOENT if isinstance(error, FileNotFoundError) else 0)


def first_line(error: Exception) -> str:
    """Return the first line of an error, without its full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")

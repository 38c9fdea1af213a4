"""Locks that vanish with the processes that hold them: flock(2) on files that are never removed."""

import fcntl
import os
from pathlib import Path

SHARED, EXCLUSIVE = fcntl.LOCK_SH, fcntl.LOCK_EX


def try_lock(path: Path, kind: int) -> int | None:
    """A descriptor that holds the lock until it and all inherited copies are closed; None if others hold the lock."""
    descriptor = open_private(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def try_become_the_only_one(descriptor: int) -> bool:
    """Turn a shared lock into the exclusive one; when others are there, False and the shared one is gone too.

    Unlocking first makes it safe for two that leave at once: the later one finds the lock free.
    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_free(path: Path) -> bool:
    descriptor = try_lock(path, EXCLUSIVE)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def open_private(path: Path, flags: int) -> int:
    """Open or create with mode 0600, not through a link; root leaves what it creates to the owner of the directory."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor

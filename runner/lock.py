"""One run at a time for what it writes to; the kernel frees the locks of a process that dies.

A run holds the lock of its own folder alone, and shares those of the folders above with other runs: partitions are
scored side by side, and neither beside a run of the whole nor beside another run of the same.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from filelock import FileLock, Timeout

from runner.errors import BusyError, OutputError, explain
from runner.storage import OutputFolder

LOCK_FILE = ".lock"
HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK})
"""How the system says that another process holds a lock."""


@contextlib.contextmanager
def locked(out: OutputFolder) -> Iterator[None]:
    """Hold the folder's lock, or give up at once; where it is a partition, its folder is made first.

    The locks are taken from the outermost folder inwards, so whoever gives up has touched nothing that is held.

    Raises:
        BusyError: another run holds it, or one that this run would disturb, or be disturbed by.
        OutputError: the lock file cannot be written, or the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        for folder in out.above():
            stack.enter_context(_shared(out, folder))
        if out.within.parts:
            out.make_home()
        stack.enter_context(_alone(out))
        yield


@contextlib.contextmanager
def undisturbed(out: OutputFolder) -> Iterator[None]:
    """Keep runs away from the folder while somebody reads it, without writing anything.

    Raises:
        BusyError: a run, or another reader, holds the lock.
        OutputError: the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        for folder in (*out.above(), out.within):
            file = stack.enter_context(out.opened(str(folder / LOCK_FILE)))
            if file is not None:  # else no run has ever been here
                alone = folder == out.within
                _take(file.fileno(), fcntl.LOCK_EX if alone else fcntl.LOCK_SH, out, folder)
        yield


@contextlib.contextmanager
def _alone(out: OutputFolder) -> Iterator[None]:
    lock = FileLock(out.home / LOCK_FILE, timeout=0, fallback_to_soft=False)  # a soft lock outlives a killed run
    try:
        lock.acquire()
    except Timeout as error:
        raise _busy(out, out.within) from error
    except OSError as error:
        raise _no_lock(out, out.within, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _shared(out: OutputFolder, folder: PurePosixPath) -> Iterator[None]:
    """Hold a lock together with others; nobody has it alone meanwhile."""
    while True:
        with out.lock_file(str(folder / LOCK_FILE)) as descriptor:
            _take(descriptor, fcntl.LOCK_SH, out, folder)
            if os.fstat(descriptor).st_nlink:  # else a run that was refused took the file away between the two lines
                yield
                return


def _take(descriptor: int, kind: int, out: OutputFolder, folder: PurePosixPath) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if kind == fcntl.LOCK_EX and error.errno == errno.EBADF:  # NFS: alone only what is open for writing
            return _take(descriptor, fcntl.LOCK_SH, out, folder)
        raise (_busy(out, folder) if error.errno in HELD else _no_lock(out, folder, error)) from error


def _busy(out: OutputFolder, folder: PurePosixPath) -> BusyError:
    what = f"another run is writing to {out.root / folder}, or a verify-output reads it"
    return BusyError(explain(what, remedy="wait for it; the same command then works"))


def _no_lock(out: OutputFolder, folder: PurePosixPath, error: OSError) -> OutputError:
    remedy = "give a writable --out, on a file system that has locks"
    return OutputError(explain(f"cannot lock {out.root / folder}", got=error.strerror or error, remedy=remedy))

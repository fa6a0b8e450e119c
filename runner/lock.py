"""One run at a time for an output folder; the kernel frees the lock of a process that dies."""

import contextlib
import fcntl
from collections.abc import Iterator

from filelock import FileLock, Timeout

from runner.errors import BusyError, OutputError, explain
from runner.storage import OutputFolder

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(out: OutputFolder) -> Iterator[None]:
    """Hold the folder's lock, or give up at once.

    Raises:
        BusyError: another run holds it.
        OutputError: the lock file cannot be written, or the file system has no locks.
    """
    lock = FileLock(out.root / LOCK_FILE, timeout=0, fallback_to_soft=False)  # a soft lock outlives a killed run
    try:
        lock.acquire()
    except Timeout as error:
        what = f"another run is writing to {out.root}"
        raise BusyError(explain(what, remedy="wait for it; the same command then works")) from error
    except OSError as error:
        remedy = "give a writable --out, on a file system that has locks"
        raise OutputError(explain(f"cannot lock {out.root}", got=error.strerror or error, remedy=remedy)) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def undisturbed(out: OutputFolder) -> Iterator[None]:
    """Keep runs away from the folder while somebody reads it, without writing anything.

    Raises:
        BusyError: a run holds the lock.
    """
    with out.opened(LOCK_FILE) as file:
        try:
            if file is not None:  # else no run has ever been here
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            what = f"a run is writing to {out.root}"
            raise BusyError(explain(what, remedy="wait for it; the same command then works")) from error
        yield

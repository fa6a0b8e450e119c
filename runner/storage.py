"""The one seam through which everything is written: a temporary name, sync, rename, sync of the folder."""

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from runner.disk import Disk, NewFile
from runner.errors import OutputError, explain, listing
from runner.partition import WHOLE, is_partition

TEMPORARY = ".freerun-tmp"
"""How the name of an unfinished file ends; it begins with a dot, and never ends in `.parquet`."""
BUFFER = 1 << 20
NO_PLAIN_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})
"""How the system says that there is nothing of that name, a link, a folder, or a pipe."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """A local folder that only ever shows whole files. Names are paths relative to its root, with forward slashes.

    Folders below the root are entered one by one, and none of them through a link, so whoever exchanges one for a link
    at the wrong moment gets a refusal.

    Attributes:
        root: the folder; it alone may lead through links.
        within: the partition that a run is limited to: nothing outside is listed or reclaimed; the run's own files are
            there.
    """

    root: Path
    disk: Disk = field(default_factory=Disk)
    within: PurePosixPath = WHOLE

    @property
    def home(self) -> Path:
        """Where the run's own files lie."""
        return self.root / self.within

    def own(self, name: str) -> str:
        """Return the path of one of the run's own files: report, ledger, marker."""
        return str(self.within / name)

    def above(self) -> list[PurePosixPath]:
        """Return the folders that hold the partition, outermost first; none where the run is of the whole."""
        return list(reversed(self.within.parents))

    def below(self, *names: str) -> list[str]:
        """Return the files of these names that runs of partitions further down have left.

        Raises:
            OutputError: the folder cannot be listed.
        """
        with _refusing(self.home, "list"):
            named = [path for path, _, _ in self._walk() if path.name in names]
        return [str(path) for path in named if is_partition(path.parent.relative_to(self.within))]

    def prepare(self) -> None:
        """Make the folder if it is not there.

        Raises:
            OutputError: it cannot be made, or is no folder.
        """
        if os.path.lexists(self.root) and not self.root.is_dir():
            remedy = "give --out a folder, or a name for a new one"
            raise OutputError(explain(f"cannot write {self.root}", got="no folder", remedy=remedy))
        with _refusing(self.root):
            missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            for path in missing:
                with self._opened(self.disk.open_root(str(path.parent))) as folder:
                    self.disk.sync(folder)

    def require_writable(self, folders: Iterable[str], files: Iterable[str]) -> None:
        """Find out before any work what would stand in its way at the end.

        Args:
            folders: where files will be put; those that are not there yet can be made.
            files: what will be replaced.

        Raises:
            OutputError: a folder may not be written to, or is none; or one stands in a file's place; all are listed.
        """
        problems = [f"{name} is a folder" for name in files if (self.root / name).is_dir()]
        for folder in sorted({self._nearest(PurePosixPath(folder)) for folder in folders}):
            try:
                self._try_out(folder)
            except OSError as error:
                problems.append(f"{self.root / folder}: {error.strerror}")
        if problems:
            what = f"the parts and the report cannot be written into {self.root}:" + listing(problems)
            raise OutputError(explain(what, remedy="mend these, or give another --out; the same command then resumes"))

    def _nearest(self, folder: PurePosixPath) -> PurePosixPath:
        """Return the folder itself, or the first above it that is there."""
        return next(place for place in (folder, *folder.parents) if os.path.lexists(self.root / place))

    def _try_out(self, folder: PurePosixPath) -> None:
        """Make a file there, and take it away: what permissions say is not always what happens."""
        name = f".{secrets.token_hex(8)}{TEMPORARY}"
        with self._folder(folder / "*") as descriptor:
            with self._opened(self.disk.create(name, descriptor)):
                pass
            self.disk.unlink(name, descriptor)

    @contextlib.contextmanager
    def replacing(self, name: str, seal: Callable[[NewFile], None] = lambda _: None) -> Iterator[BinaryIO]:
        """Open a new file under a temporary name; on a clean exit it appears under its own name, whole and synced.

        The temporary name is drawn, so two runs at once cannot write into one file, lock or no lock.

        Args:
            name: the file's own name.
            seal: gets the file when all has been written, for what can only be written last.

        Raises:
            OutputError: any step of it failed; the temporary file is gone then, and whatever had the name is untouched
                (but for the last step: where only the folder cannot be synced, the new file stands there, whole).
        """
        path, temporary = PurePosixPath(name), f".{secrets.token_hex(8)}{TEMPORARY}"
        with _refusing(self.root / name), self._folder(path, make=True) as folder:
            descriptor = self.disk.create(temporary, folder)
            try:
                file = NewFile(self.disk, descriptor)
                with self._opened(descriptor), contextlib.closing(file), _telling_need(file, self.root):
                    stream = io.BufferedWriter(file, BUFFER)
                    yield stream
                    stream.flush()
                    seal(file)
                    self.disk.sync(descriptor)
                self.disk.rename(temporary, path.name, folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.disk.unlink(temporary, folder)
                raise
            self.disk.sync(folder)

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file as a whole.

        Raises:
            OutputError: it cannot be written; what was there before is untouched.
        """
        with self.replacing(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file if it is there, durably.

        Raises:
            OutputError: it cannot be removed.
        """
        path = PurePosixPath(name)
        with _refusing(self.root / name), contextlib.suppress(FileNotFoundError), self._folder(path) as folder:
            self.disk.unlink(path.name, folder)
            self.disk.sync(folder)

    def settle(self, names: list[str]) -> None:
        """Make sure that files which an earlier run renamed, and perhaps did not live to sync, survive a power loss.

        Raises:
            OutputError: a folder cannot be synced.
        """
        for name in sorted({str(PurePosixPath(name).parent / "*") for name in names}):
            with _refusing(self.root / name), self._folder(PurePosixPath(name)) as folder:
                self.disk.sync(folder)

    def discard(self, name: str) -> None:
        """Take back a folder that holds this one file and was made for nothing."""
        with contextlib.suppress(OSError):
            (self.home / name).unlink()
            self.home.rmdir()

    def make_home(self) -> None:
        """Make the partition's folder, durably, if it is not there.

        Raises:
            OutputError: it cannot be made, or a link stands on the way.
        """
        with _refusing(self.home), self._folder(self.within / "*", make=True):
            pass

    @contextlib.contextmanager
    def lock_file(self, name: str) -> Iterator[int]:
        """Open a file for its lock; it and the folders on the way are made where they are not there.

        Raises:
            OutputError: it cannot be opened, or is a link.
        """
        path = PurePosixPath(name)
        with _refusing(self.root / name, "lock"), self._folder(path, make=True) as folder:
            descriptor = self.disk.open_lock(path.name, folder)
        try:
            yield descriptor
        finally:
            with contextlib.suppress(OSError):  # nothing was written to it that could be lost
                self.disk.close(descriptor)

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO | None]:
        """Open a file for reading; None where there is no plain file of that name.

        Raises:
            OutputError: there is one, and it cannot be opened.
        """
        path, file = PurePosixPath(name), None
        try:
            with _refusing(self.root / name, "read"), self._folder(path) as folder:
                file = os.fdopen(self.disk.open_file(path.name, folder), "rb")
        except OutputError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in NO_PLAIN_FILE:
                raise
        if file is None:
            yield None
            return
        with file:
            yield file

    def read(self, name: str, limit: int = -1) -> bytes | None:
        """Return a small file's content (its first `limit` bytes); None where there is no plain file of that name."""
        with self.opened(name) as file:
            return file.read(limit) if file else None

    def names(self) -> list[str]:
        """Return the relative paths of all Parquet files that readers see, sorted.

        Raises:
            OutputError: links stand among them; nothing is read or written through a link.
        """
        found, links = [], []
        with _refusing(self.home, "list"):
            for path, is_link, leads in self._walk():
                if path.name[0] in "._":
                    continue
                if is_link and (leads or path.suffix == ".parquet"):
                    links.append(str(path))
                elif path.suffix == ".parquet":
                    found.append(str(path))
        if links:
            raise OutputError(
                explain(f"links stand in {self.home}", got=", ".join(links), remedy="put the files themselves there")
            )
        return sorted(found)

    def unfinished(self) -> list[str]:
        """Return the relative paths of what a dead run left under temporary names.

        Raises:
            OutputError: the folder cannot be listed.
        """
        with _refusing(self.home, "list"):
            return [str(path) for path, _, _ in self._walk() if path.name[0] == "." and path.name.endswith(TEMPORARY)]

    def reclaim(self) -> None:
        """Remove what a dead run left unfinished; only to be called under the lock.

        Raises:
            OutputError: it cannot be removed.
        """
        for path in map(PurePosixPath, self.unfinished()):
            with _refusing(self.root / path), self._folder(path) as folder:
                self._clear(path.name, folder)
                self.disk.sync(folder)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """Make a folder for files that are needed only for a while, under a temporary name; in the end it is gone.

        Yields:
            Its path by way of a descriptor: whoever exchanges a folder above it for a link leads nobody astray.

        Raises:
            OutputError: it cannot be made.
        """
        name = f".{secrets.token_hex(8)}{TEMPORARY}"
        with contextlib.ExitStack() as stack:
            with _refusing(self.home / name):
                folder = stack.enter_context(self._folder(self.within / name, make=True))
                self.disk.make_folder(name, folder, 0o700)
                stack.callback(self._forget, name, folder)
                own = stack.enter_context(self._opened(self.disk.open_folder(name, folder)))
            yield f"/proc/self/fd/{own}"

    def _forget(self, name: str, folder: int) -> None:
        """Remove what is temporary, if that can be done now: the next run clears what is left."""
        with contextlib.suppress(OSError):
            self._clear(name, folder)

    def _clear(self, name: str, folder: int) -> None:
        """Remove a file, or a folder of files, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            try:
                self.disk.unlink(name, folder)
            except IsADirectoryError:
                with self._opened(self.disk.open_folder(name, folder)) as own:
                    for entry in self.disk.entries(own):
                        self._clear(entry.name, own)
                self.disk.remove_folder(name, folder)

    def _walk(self) -> Iterator[tuple[PurePosixPath, bool, bool]]:
        """Yield each path in the partition, whether it is a link, and whether it is or leads to a folder."""
        pending = [self.within]
        while pending:
            here = pending.pop()
            with contextlib.suppress(FileNotFoundError), self._folder(here / "*") as folder:
                for entry in self.disk.entries(folder):
                    path = here / entry.name
                    leads = entry.is_folder or (entry.is_link and (self.root / path).is_dir())
                    yield path, entry.is_link, leads
                    if entry.is_folder and entry.name[0] not in "._":
                        pending.append(path)

    @contextlib.contextmanager
    def _folder(self, path: PurePosixPath, *, make: bool = False) -> Iterator[int]:
        """Open the folder that holds a path; with `make`, the folders on the way that are not there are made."""
        with contextlib.ExitStack() as stack:
            if make and not self.root.exists():
                self.prepare()
            folder = stack.enter_context(self._opened(self.disk.open_root(str(self.root))))
            for name in path.parts[:-1]:
                folder = stack.enter_context(self._opened(self._enter(name, folder, make=make)))
            yield folder

    def _enter(self, name: str, folder: int, *, make: bool) -> int:
        try:
            return self.disk.open_folder(name, folder)
        except FileNotFoundError:
            if not make:
                raise
        with contextlib.suppress(FileExistsError):  # another thread was quicker
            self.disk.make_folder(name, folder)
            self.disk.sync(folder)
        return self.disk.open_folder(name, folder)

    @contextlib.contextmanager
    def _opened(self, descriptor: int) -> Iterator[int]:
        try:
            yield descriptor
        finally:
            self.disk.close(descriptor)


@contextlib.contextmanager
def _telling_need(file: NewFile, root: Path) -> Iterator[None]:
    """Add to a refusal for want of space how far the file came, and how much is left."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        free = os.statvfs(root)
        what = f"{error.strerror} after {file.size:,} bytes of it; {free.f_bavail * free.f_frsize:,} bytes are free"
        raise OSError(error.errno, what) from error


@contextlib.contextmanager
def _refusing(path: Path, what: str = "write") -> Iterator[None]:
    """Tell an operating system's refusal in our own words."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        remedy = "see to the path, its permissions and the free space; the same command then resumes"
        raise OutputError(explain(f"cannot {what} {path}", got=error.strerror or error, remedy=remedy)) from error

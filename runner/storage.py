"""The one seam through which everything is written: a temporary name, sync, rename, sync of the folder."""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import OutputError, explain

TEMPORARY = ".freerun-tmp"
"""How the name of an unfinished file ends; it begins with a dot, and never ends in `.parquet`."""


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """A local folder that only ever shows whole files. Paths are relative to its root."""

    root: Path

    def prepare(self) -> None:
        """Make the folder if it is not there.

        Raises:
            OutputError: it cannot be made, or is no folder.
        """
        with _refusing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file under a temporary name; on a clean exit it appears under its own name, whole and synced.

        Raises:
            OutputError: any step of it failed; nothing is visible then, and the temporary file is gone.
        """
        target = self.root / name
        temporary = target.with_name(f".{target.name}{TEMPORARY}")
        with _refusing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            self._sync_folder(target.parent)

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file as a whole."""
        with self.replacing(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a file if it is there, durably."""
        target = self.root / name
        with _refusing(target):
            if os.path.lexists(target):
                target.unlink()
                self._sync_folder(target.parent)

    def discard(self, name: str) -> None:
        """Take back a folder that holds this one file and was made for nothing."""
        with contextlib.suppress(OSError):
            (self.root / name).unlink()
            self.root.rmdir()

    def read(self, name: str, limit: int = -1) -> bytes | None:
        """Return a small file's content (its first `limit` bytes); None where there is no plain file of that name."""
        try:
            descriptor = os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        with os.fdopen(descriptor, "rb") as file:
            return file.read(limit)

    def names(self) -> list[str]:
        """Return the relative paths of all Parquet files that readers see, sorted.

        Raises:
            OutputError: links stand among them; nothing is read or written through a link.
        """
        found, links = [], []
        for folder, folders, files in os.walk(self.root):
            here = Path(folder)
            folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
            parts = [name for name in [*folders, *files] if name.endswith(".parquet") and name[0] not in "._"]
            links += [here / name for name in [*folders, *parts] if (here / name).is_symlink()]
            found += [str((here / name).relative_to(self.root)) for name in parts]
        if links:
            names = ", ".join(str(path) for path in sorted(links))
            raise OutputError(
                explain(f"links stand in {self.root}", got=names, remedy="put the files themselves there")
            )
        return sorted(found)

    def reclaim(self) -> None:
        """Remove what a dead run left unfinished; only to be called under the lock."""
        with _refusing(self.root):
            for path in self.root.rglob(f".*{TEMPORARY}"):
                path.unlink(missing_ok=True)

    def _sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Tell an operating system's refusal in our own words."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        remedy = "see to the path, its permissions and the free space; the same command then resumes"
        raise OutputError(explain(f"cannot write {path}", got=error.strerror or error, remedy=remedy)) from error

"""The system calls through which everything is written: the one place where a disk can fail.

Each is a single call, so a test that puts another `Disk` in its place can fail the n-th of them, for every n. Names are
looked up inside folders that are open already, and never through a link.
"""

import errno
import hashlib
import io
import os
import stat
from typing import Any, NamedTuple

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Without waiting: somebody may have put a pipe there."""
LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """A name in a folder, and what it is itself, links not followed."""

    name: str
    is_folder: bool
    is_link: bool


class Disk:
    """The operating system's calls; descriptors in, descriptors out. All of them raise OSError."""

    def open_root(self, path: str) -> int:
        """Open a folder by its whole path; this path alone may lead through links, for the user has given it."""
        return os.open(path, FOLDER)

    def open_folder(self, name: str, folder: int) -> int:
        return os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)

    def make_folder(self, name: str, folder: int, mode: int = 0o777) -> None:
        os.mkdir(name, mode, dir_fd=folder)

    def remove_folder(self, name: str, folder: int) -> None:
        """Remove an empty folder."""
        os.rmdir(name, dir_fd=folder)

    def create(self, name: str, folder: int) -> int:
        """Open a new file for writing; FileExistsError if anything has that name, a link included."""
        return os.open(name, NEW_FILE, 0o644, dir_fd=folder)

    def open_file(self, name: str, folder: int) -> int:
        """Open a plain file for reading; OSError if it is anything else."""
        descriptor = os.open(name, FILE, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "no plain file", name)
        return descriptor

    def open_lock(self, name: str, folder: int) -> int:
        """Open a file to lock it, an empty new one if there is none; OSError if a link or a folder has that name."""
        return os.open(name, LOCK, 0o644, dir_fd=folder)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        return os.write(descriptor, data)

    def write_at(self, descriptor: int, data: bytes, offset: int) -> int:
        return os.pwrite(descriptor, data, offset)

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        return os.pread(descriptor, size, offset)

    def sync(self, descriptor: int) -> None:
        """Wait until a file's content, or a folder's names, would survive a power loss."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: str, new: str, folder: int) -> None:
        """Give a file another name in the same folder, in place of whatever has that name."""
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def unlink(self, name: str, folder: int) -> None:
        os.unlink(name, dir_fd=folder)

    def entries(self, folder: int) -> list[Entry]:
        """Return what is in a folder, sorted by name."""
        with os.scandir(folder) as found:
            return sorted(Entry(one.name, one.is_dir(follow_symlinks=False), one.is_symlink()) for one in found)


class NewFile(io.RawIOBase):
    """A file in the making: writes in order, hashed on the way.

    Closing it only ends the writing: whoever opened the descriptor closes that. (A buffer that is let go of after an
    error would otherwise write into whatever file has got the number since.)
    """

    def __init__(self, disk: Disk, descriptor: int) -> None:
        self.disk = disk
        self.descriptor = descriptor
        self.size = 0
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        """Append what the disk takes of it; return how many bytes that were."""
        view = memoryview(data).cast("B")
        done = self.disk.write(self.descriptor, view)
        self.sha256.update(view[:done])
        self.size += done
        return done

    def tail(self, size: int) -> bytes:
        """Return the last bytes (at most `size` of them) of what was written."""
        start = max(0, self.size - size)
        return self.disk.read_at(self.descriptor, self.size - start, start)

    def patch(self, data: bytes, offset: int) -> None:
        """Write over what is there; the hash stays that of the file before."""
        while data:
            done = self.disk.write_at(self.descriptor, data, offset)
            data, offset = data[done:], offset + done

"""Disks that fail: at their n-th call, from their n-th call on, or when the power goes."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.disk import Disk

CALLS = tuple(name for name in vars(Disk) if not name.startswith("_"))
"""Every system call of the commit path."""


class DeathError(BaseException):
    """A stand-in for SIGKILL: nothing in the product catches it."""


@dataclass(slots=True)
class Calls:
    """What was called, in order; the n-th of them failed."""

    made: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, name: str) -> int:
        with self.lock:
            self.made.append(name)
            return len(self.made)


@contextlib.contextmanager
def failing(number: int, error: BaseException, before: Callable[[], None] = lambda: None) -> Iterator[Calls]:
    """Let the n-th call of every disk raise `error`, `before` that; after a death no call succeeds. 0 breaks none."""
    calls, dead = Calls(), isinstance(error, DeathError)

    def breaking(name: str, call: Any) -> Any:
        def run(*args: Any) -> Any:
            at = calls.note(name)
            if at == number or (dead and 0 < number < at):
                before()
                if name == "close":
                    call(*args)  # a descriptor is gone even where closing it fails
                raise type(error)(*error.args)
            return call(*args)

        return run

    real = {name: getattr(Disk, name) for name in CALLS}
    for name, call in real.items():
        setattr(Disk, name, breaking(name, call))
    try:
        yield calls
    finally:
        for name, call in real.items():
            setattr(Disk, name, call)


@dataclass(slots=True)
class Power:
    """A record of what has been synced, from which the disk after a power loss is made.

    Attributes:
        contents: what was synced of each file, by inode.
        listings: the names that were synced of each folder, by its inode: name -> inode, and whether it is a folder.
        kept: a file behind each inode, so that none is used again.
    """

    contents: dict[int, bytes] = field(default_factory=dict)
    listings: dict[int, dict[str, tuple[int, bool]]] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)

    def sync(self, descriptor: int) -> None:
        """Note what would now survive."""
        inode = os.fstat(descriptor).st_ino
        self.kept.setdefault(inode, os.dup(descriptor))
        path = Path(f"/proc/self/fd/{descriptor}")
        if path.is_dir():
            self.listings[inode] = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}
        else:
            self.contents[inode] = path.read_bytes()

    def settle(self, folder: Path) -> None:
        """Take all that is below a folder for synced long ago."""
        for path in [folder, *folder.rglob("*")] if folder.exists() else []:
            descriptor = os.open(path, os.O_RDONLY)
            self.sync(descriptor)
            os.close(descriptor)

    def after_loss(self, root: Path, target: Path, *, names_survive: bool) -> Path:
        """Make the folder as it would be found when the power is back.

        What was synced is there. A disk may also have kept names that were not synced, but nobody can rely on the
        contents: with `names_survive` all names are there, those of files that were never synced on empty files.
        """
        if names_survive:
            self._restore_all(root, target)
        elif root.exists():
            self._restore(root.stat().st_ino, target)
        return target

    def _restore(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, (below, is_folder) in self.listings.get(inode, {}).items():
            if is_folder:
                self._restore(below, target / name)
            else:
                (target / name).write_bytes(self.contents.get(below, b""))

    def _restore_all(self, folder: Path, target: Path) -> None:
        for path in [folder, *folder.rglob("*")] if folder.exists() else []:
            found = target / path.relative_to(folder)
            if path.is_dir():
                found.mkdir()
            else:
                found.write_bytes(self.contents.get(path.stat().st_ino, b""))

    def close(self) -> None:
        for descriptor in self.kept.values():
            os.close(descriptor)


@contextlib.contextmanager
def losing_power(number: int, out: Path) -> Iterator[tuple[Calls, Power]]:
    """Let the power go at the n-th call: no call succeeds from there on, and `Power` knows what is left of `out`."""
    power, sync = Power(), Disk.sync
    power.settle(out)

    def noted(self: Disk, descriptor: int) -> None:
        sync(self, descriptor)
        power.sync(descriptor)

    Disk.sync = noted  # type: ignore[method-assign]
    try:
        with failing(number, DeathError()) as calls:
            yield calls, power
    finally:
        Disk.sync = sync  # type: ignore[method-assign]
        power.close()


def clone(folder: Path, target: Path) -> None:
    """Copy a folder of files."""
    shutil.copytree(folder, target, dirs_exist_ok=True)

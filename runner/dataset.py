"""A Parquet dataset as it lies on disk or in an object store: which files it has, and who they are."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from runner.errors import InputError, UsageError, explain
from runner.partition import WHOLE
from runner.stop import Stop

CHUNK = 1 << 22
BUFFER = 1 << 20
SHOWN = 5
"""How many partitions are named where the one that is wanted is not there."""
READ_AT_ONCE = 8 << 20
"""A file of up to so many bytes is read by whole column chunks, and only a larger one through a buffer: a buffer takes
whatever memory a damaged page claims to need, up to 2 GiB; a chunk that is in memory has only what it has."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What changes when a file is rewritten or replaced; cheap to ask for, and no proof of equal content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A file, or a folder of Parquet files with whatever hive partitions it has.

    Attributes:
        filesystem: of pyarrow.
        root: the folder inside the file system.
        single: the one file's name, where the dataset is a file.
        within: the partition whose files count; paths stay relative to the root.
    """

    filesystem: fs.FileSystem
    root: str
    single: str | None
    within: PurePosixPath = WHOLE

    def paths(self) -> list[str]:
        """Return the files relative to the root, sorted; names that begin with `_` or `.` are not data.

        Raises:
            InputError: the folder cannot be listed, or a name is no UTF-8.
        """
        if self.single is not None:
            return [self.single]
        selector = fs.FileSelector(
            self.location(str(self.within)) if self.within.parts else self.root, recursive=True, allow_not_found=True
        )
        try:
            found = [info.path for info in self.filesystem.get_file_info(selector) if info.type == fs.FileType.File]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(explain(f"cannot list {self.root}", got=error, remedy="check its files' names")) from error
        relative = [PurePosixPath(path).relative_to(self.root) for path in found]
        return sorted(
            str(path)
            for path in relative
            if path.suffix == ".parquet" and not any(piece.startswith((".", "_")) for piece in path.parts)
        )

    def location(self, path: str) -> str:
        return f"{self.root}/{path}"

    def identity(self, path: str) -> Identity:
        """Ask who the file is now.

        Raises:
            InputError: it is gone.
        """
        try:
            if isinstance(self.filesystem, fs.LocalFileSystem):
                found = Path(self.location(path)).stat()
                return Identity(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            info = self.filesystem.get_file_info(self.location(path))
        except OSError as error:
            raise InputError(explain(f"{path} is gone", got=first_line(error), remedy="run again")) from error
        if info.type != fs.FileType.File:
            raise InputError(explain(f"{path} is gone", got=info.type, remedy="run again"))
        return Identity(info.size, info.mtime_ns or 0, 0, 0)

    def sha256(self, path: str, stop: Stop) -> str:
        """Hash the file's content, read from beginning to end."""
        digest = hashlib.sha256()
        try:
            with self.filesystem.open_input_stream(self.location(path)) as stream:
                while chunk := stream.read(CHUNK):
                    stop.check()
                    digest.update(chunk)
        except FileNotFoundError as error:
            raise InputError(explain(f"{path} is gone", got=first_line(error), remedy="run again")) from error
        except OSError as error:
            raise InputError(explain(f"cannot read {path}", got=error)) from error
        return digest.hexdigest()

    @contextmanager
    def open(self, path: str, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file so that reading it takes bounded memory, with its page checksums verified.

        Raises:
            InputError: it is not a readable Parquet file.
        """
        with ExitStack() as stack:
            try:
                handle = stack.enter_context(self.filesystem.open_input_file(self.location(path)))
                buffer = BUFFER if handle.size() > READ_AT_ONCE else 0
                file = pq.ParquetFile(
                    handle,
                    pre_buffer=False,
                    buffer_size=buffer,
                    page_checksum_verification=True,
                    read_dictionary=list(dictionaries) or None,
                )
                _refuse_contradiction(file.metadata)
            except FileNotFoundError as error:
                raise InputError(explain(f"{path} is gone", got=first_line(error), remedy="run again")) from error
            except READ_ERRORS as error:
                raise InputError(explain(f"{path} is not a readable Parquet file", got=first_line(error))) from error
            yield file


READ_ERRORS = (OSError, pa.ArrowException, UnicodeDecodeError, ValueError, KeyError, TypeError, MemoryError)
"""What pyarrow was seen to raise on damaged files."""


def first_line(error: BaseException) -> str:
    """Return the first line of a foreign error, shortened: some of them quote the whole schema."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _refuse_contradiction(metadata: pq.FileMetaData) -> None:
    """Refuse a footer whose row groups do not add up: units are cut by what it says of them."""
    groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
    if sum(groups) != metadata.num_rows or min(groups, default=0) < 0:
        raise pa.ArrowInvalid(f"its footer tells of {metadata.num_rows} rows, and of row groups of {groups[:8]}")


def open_dataset(text: str, *, allow_missing: bool = False, within: PurePosixPath = WHOLE) -> Dataset:
    """Find a dataset by its path or URI.

    Args:
        text: where it is.
        allow_missing: take a folder that is not there for an empty one.
        within: the partition that is wanted of it.

    Raises:
        InputError: there is no such file, folder or partition, or the URI cannot be opened.
        UsageError: a partition of a single file was asked for.
    """
    if not text:
        raise InputError(
            explain("the input is empty", expected="a path or URI", remedy="check the variable it came from")
        )
    filesystem, path = _resolve(text)
    try:
        info = filesystem.get_file_info(path)
    except OSError as error:
        raise InputError(explain(f"cannot open the input {text}", got=first_line(error))) from error
    if info.type == fs.FileType.Directory or (allow_missing and info.type == fs.FileType.NotFound):
        found = Dataset(filesystem, path.rstrip("/") or "/", None, within)
        if not allow_missing:
            _require_partition(found)
        return found
    if info.type != fs.FileType.File:
        raise InputError(explain(f"the input {text} does not exist", expected="a Parquet file, or a folder of them"))
    if within.parts:
        remedy = "give the folder that holds the partitions, or leave --only out"
        raise UsageError(explain(f"--only {within} of a single file", got=text, remedy=remedy))
    folder, _, name = path.rpartition("/")
    if not name.endswith(".parquet") or name.startswith((".", "_")):
        expected = "a name that ends in .parquet and does not begin with _ or ."
        raise InputError(explain("the input's name is not one that readers take for data", got=name, expected=expected))
    return Dataset(filesystem, folder, name)


def _require_partition(dataset: Dataset) -> None:
    """Refuse a partition whose folder is not there, and name those beside it that are most like it."""
    from difflib import get_close_matches

    above = dataset.root
    for name in dataset.within.parts:
        beside = _folders(dataset.filesystem, above)
        if name not in beside:
            nearest = get_close_matches(name, beside, SHOWN, 0) or ["no folder"]
            remedy = "name the folders as they stand there, outermost first; --allow-empty if that is fine"
            got = f"{above} has {', '.join(sorted(nearest))}{', ...' if len(beside) > SHOWN else ''}"
            raise InputError(explain(f"the input has no partition {dataset.within}", got=got, remedy=remedy))
        above = f"{above}/{name}"


def _folders(filesystem: fs.FileSystem, folder: str) -> list[str]:
    try:
        found = filesystem.get_file_info(fs.FileSelector(folder))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(explain(f"cannot list {folder}", got=first_line(error))) from error
    return sorted(info.base_name for info in found if info.type == fs.FileType.Directory)


def local_path(text: str) -> Path | None:
    """Return where a dataset lies on this machine, links resolved; None where it lies elsewhere."""
    filesystem, path = _resolve(text)
    return Path(path).resolve() if isinstance(filesystem, fs.LocalFileSystem) else None


def _resolve(text: str) -> tuple[Any, str]:
    if "://" not in text:
        return fs.LocalFileSystem(), str(Path(text).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(explain(f"cannot open the input {text}", got=first_line(error))) from error
    return filesystem, path

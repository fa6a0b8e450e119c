"""Look through an output folder: is every part whole, and does the report say what the parts say?"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from runner.config import NUMBERS, Job
from runner.dataset import READ_ERRORS, first_line
from runner.manifest import problems as validation_problems
from runner.parts import BLANK, FOOTER_END, PART_DIGEST_KEY, Part, decode_footer, digest_offset, footer_size
from runner.plan import LEDGER_FILE, remembered, units_of
from runner.report import REPORT_FILE, SUCCESS_FILE, Report, Rows, rows_of, summarize
from runner.stop import Stop
from runner.storage import OutputFolder

CHUNK = 1 << 22
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in an output folder.

    Attributes:
        parts: how many whole parts there are.
        rows: what they hold together, history and orphans included.
        complete: `_SUCCESS` is there, or in a folder that holds this one.
        problems: one line for each thing that is wrong; none in a good folder.
        notes: what is no fault, but worth knowing.
    """

    parts: int
    rows: Rows
    complete: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify_output(out: OutputFolder, stop: Stop) -> Findings:
    """Read every byte of every part, and hold parts, ledger and report against one another.

    The folder should be locked meanwhile, or a run may change it.

    Raises:
        OutputError: the folder cannot be listed, or links stand in it.
    """
    parts: dict[str, Part] = {}
    problems: list[str] = []
    for name in out.names():
        stop.check()
        part, wrong = _check_part(out, name, stop)
        problems += [f"{name}: {line}" for line in wrong]
        if part:
            parts[name] = part
    wrong, notes = _check_reports(out, parts)
    problems += [*_doubled(parts), *wrong]
    dead = len(out.unfinished())
    notes += [f"{dead} unfinished files of a run that died; the next run removes them"] if dead else []
    complete = any(out.read(str(folder / SUCCESS_FILE)) is not None for folder in (*out.above(), out.within))
    return Findings(len(parts), rows_of(parts.values()), complete, tuple(problems), tuple(notes))


def _check_part(out: OutputFolder, name: str, stop: Stop) -> tuple[Part | None, list[str]]:
    """Return the part that a file is, if it is one, and what is wrong with it."""
    with out.opened(name) as file:
        if file is None:
            return None, []  # a folder whose name ends like a file's
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            footer = parquet.metadata.metadata or {}
            part = decode_footer(footer)
            if part is None:
                return None, ["freerun did not write it, or its footer is damaged"]
            told = footer.get(PART_DIGEST_KEY, b"").decode()
            found = _digest(file, stop)
            if found != told:
                return part, [f"was altered: sha256 {found}, expected {told} (both with the digest's own place blank)"]
            return part, list(_miscounts(parquet, name, part))
        except READ_ERRORS as error:
            return None, [f"is damaged: {first_line(error)}"]


def _digest(file: BinaryIO, stop: Stop) -> str:
    """Return the sha256 of a part with the digest in its footer blank."""
    size = file.seek(0, 2)
    file.seek(size - FOOTER_END)
    start = max(0, size - footer_size(file.read(FOOTER_END)))
    file.seek(start)
    offset = digest_offset(file.read())
    if offset is None:
        return "nowhere"
    place, digest = start + offset, hashlib.sha256()
    file.seek(0)
    for left, blank in ((place, False), (len(BLANK), True), (size - place - len(BLANK), False)):
        for chunk in _chunks(file, left):
            stop.check()
            digest.update(BLANK if blank else chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, CHUNK))):
        size -= len(chunk)
        yield chunk


def _miscounts(parquet: pq.ParquetFile, name: str, part: Part) -> Iterator[str]:
    """Yield where a part's rows are not what its footer says of them."""
    if part.unit.part_path != name:
        yield f"belongs at {part.unit.part_path}"
    rows, nulls, reasons = parquet.metadata.num_rows, 0, Counter[str]()
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=["prediction", "reject_reason"], use_threads=False):
        nulls += batch.column("prediction").null_count
        counted = pc.value_counts(batch.column("reject_reason").drop_null())
        reasons.update({entry["values"]: entry["counts"] for entry in counted.to_pylist()})
    rejected, each = sum(part.rejects.values()), part.rows_a_window
    windows = part.scored + rejected
    if rows != windows * each or (part.layout == "windows" and windows != part.unit.rows):
        yield f"has {rows} rows, its input {part.unit.rows}; {part.scored} scored and rejects {part.rejects} are told"
    told = {reason: count * each for reason, count in part.rejects.items()}
    if dict(reasons) != told or nulls != (rejected - part.filled) * each:
        filled = f", {part.filled} of them filled" if part.filled else ""
        yield f"has rejects {dict(reasons)} and {nulls} rows without a forecast, but tells of {part.rejects}{filled}"


def _doubled(parts: dict[str, Part]) -> Iterator[str]:
    """Yield input files of which two parts hold the same rows."""
    by_source: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for part in parts.values():
        first, last = part.unit.row_groups or (0, float("inf"))
        by_source[part.unit.path].append((first, last))
    for path, ranges in sorted(by_source.items()):
        ranges.sort()
        if any(after[0] <= before[1] for before, after in pairwise(ranges)):
            yield f"{path}: {len(ranges)} parts hold some of its rows twice"


def _check_reports(out: OutputFolder, parts: dict[str, Part]) -> tuple[list[str], list[str]]:
    """Hold each report, that of the folder and those of partitions below it, against the parts that it tells of."""
    below = [PurePosixPath(name).parent for name in out.below(REPORT_FILE)]
    homes = [out.within, *below] if out.read(out.own(REPORT_FILE)) is not None else below
    problems, notes = [], []
    for home in homes:
        mine = {name: part for name, part in parts.items() if home in PurePosixPath(name).parents}
        overtaken = any(home in other.parents for other in below)
        wrong, unchecked = _check_report(replace(out, within=home), mine, overtaken=overtaken)
        problems += wrong
        notes += unchecked
    if any(out.read(str(folder / REPORT_FILE)) is not None for folder in out.above()) and not homes:
        notes.append(f"{out.within} has no {REPORT_FILE} of its own: a run of what holds it was the last one here")
    elif not homes or any(not _told_of(name, homes) for name in parts):
        problems.append(f"{out.own(REPORT_FILE)} is missing: no run has ended here")
    return problems, notes


def _told_of(name: str, homes: list[PurePosixPath]) -> bool:
    return any(home in PurePosixPath(name).parents for home in homes)


def _check_report(out: OutputFolder, parts: dict[str, Part], *, overtaken: bool) -> tuple[list[str], list[str]]:
    """Return what is wrong with the report, and what of it could not be checked.

    It is `overtaken` where there are reports of partitions below it: without `_SUCCESS`, these may be the later ones.
    """
    told, ledger, success = (out.own(name) for name in (REPORT_FILE, LEDGER_FILE, SUCCESS_FILE))
    try:
        report = Report.model_validate_json(out.read(told) or b"")
    except ValidationError as error:
        return [f"{told}: {line}" for line in validation_problems(error)], []
    if report.status != "done":
        return [], [f"{told}: the last run ended as {report.status} ({report.exit_code}); the next one makes up for it"]
    complete = out.read(success) is not None
    if overtaken and not complete:
        return [], [f"{told} may be older than those of partitions below it; the next run like it writes it anew"]
    if parts and not remembered(out):
        return [], [f"{ledger} is lost, so {told} cannot be held against the parts; the next run writes it"]
    found = _problems_of_total(out, report, parts)
    if report.exit_code == 0 and not complete:
        found += [f"{success} is missing, though the report tells of a run without a fault"]
    return found, []


def _problems_of_total(out: OutputFolder, report: Report, parts: dict[str, Part]) -> list[str]:
    names = (*NUMBERS, "rows_per_part")
    if missing := [name for name in names if name not in report.options]:
        return [f"{out.own(REPORT_FILE)}: options without {', '.join(missing)}"]
    job = Job(Path(), report.input, out.root, **{name: report.options[name] for name in names})
    units = [unit for source in remembered(out).values() for unit in units_of(source, job)]
    maker = report.bundle_id, job.numbers_digest()
    mine = {name: part for name, part in parts.items() if (part.bundle_id, part.options) == maker}
    matching = [mine[unit.part_path] for unit in units if unit.part_path in mine and mine[unit.part_path].unit == unit]
    wrong, total = [], summarize(matching, tuple(report.total.per_target) or ("",))
    if not report.history and len(matching) != len(units):
        wrong.append(f"{len(units) - len(matching)} of {len(units)} parts are missing, or made of another input")
    for name in type(total).model_fields:
        told, summed = getattr(report.total, name), getattr(total, name)
        wrong += (
            [f"{out.own(REPORT_FILE)}: total.{name} is {told}, its parts add up to {summed}"] if told != summed else []
        )
    return wrong

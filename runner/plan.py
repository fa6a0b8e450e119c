"""Compare what is to be scored with what was scored, and leave the difference."""

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePosixPath

import pyarrow.parquet as pq

from runner.config import NUMBERS, Job
from runner.dataset import READ_ERRORS, Dataset, Identity
from runner.errors import InputError, OutputError, UsageError, explain, listing
from runner.parts import Part, Unit, decode_footer
from runner.stop import Stop
from runner.storage import OutputFolder

LEDGER_FILE = "_ledger.json"


@dataclass(frozen=True, slots=True)
class Source:
    """An input file whose content is known: its identity when it was hashed, and the rows of its row groups."""

    path: str
    identity: Identity
    sha256: str
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run has to do.

    Attributes:
        sources: input files by path.
        units: all units that this bundle answers for, in order.
        todo: those of them that have to be scored.
        done: parts that are there and match, by part path.
        history: parts of another bundle or other options that `--rescore none` keeps.
        stale: part paths to remove before scoring, because their input is cut differently now.
        orphans: part paths whose input is gone.
    """

    sources: dict[str, Source]
    units: tuple[Unit, ...]
    todo: tuple[Unit, ...]
    done: dict[str, Part]
    history: tuple[str, ...]
    stale: tuple[str, ...]
    orphans: tuple[str, ...]


def make_plan(dataset: Dataset, out: OutputFolder, bundle_id: str, job: Job, stop: Stop) -> Plan:
    """Decide for each unit whether its part is there and still true.

    Raises:
        InputError: no input files (unless allowed), or unreadable ones; all are listed.
        UsageError: parts of another bundle or other options are in the way, or orphans are refused.
        OutputError: a file that freerun did not write stands where a part must go.
    """
    sources = take_stock(dataset, out, recheck=job.recheck, stop=stop)
    if not sources and not job.allow_empty:
        expected = "*.parquet; names that begin with _ or . do not count"
        raise InputError(
            explain(
                f"no Parquet files in {'/'.join((job.input, *job.only))}",
                expected=expected,
                remedy="--allow-empty if that is fine",
            )
        )
    parts = read_parts(out)
    orphans = tuple(sorted(name for name, part in parts.items() if part and part.unit.path not in sources))
    if orphans and job.orphans == "refuse":
        what = f"{len(orphans)} parts have no input any more:" + listing(list(orphans))
        raise UsageError(explain(what, remedy="--orphans keep leaves them, --orphans prune removes them"))
    return _compare(sources, parts, orphans, bundle_id, job)


def take_stock(dataset: Dataset, out: OutputFolder, *, recheck: bool, stop: Stop) -> dict[str, Source]:
    """Identify every input file by its content; what a ledger remembers unchanged is not read again."""
    known = {} if recheck else _known(out)
    sources, broken = {}, []
    for path in dataset.paths():
        stop.check()
        try:
            identity = dataset.identity(path)
            source = known.get(path)
            sources[path] = (
                source if source and source.identity == identity else _identify(dataset, path, identity, stop)
            )
        except InputError as error:
            broken.append(str(error))
    if broken:
        raise InputError(f"{len(broken)} input files cannot be read:" + listing(broken))
    return sources


def remember(out: OutputFolder, sources: dict[str, Source]) -> None:
    """Write the ledger: losing it costs the time to hash the input once more, never truth."""
    files = {path: asdict(source) for path, source in sources.items()}
    content = json.dumps({"version": 1, "files": files}, sort_keys=True).encode()
    if out.read(out.own(LEDGER_FILE)) != content:
        out.write(out.own(LEDGER_FILE), content)


def remembered(out: OutputFolder) -> dict[str, Source]:
    """Return what the ledger says of the input, by path; nothing where it is lost or not readable."""
    try:
        files = json.loads(out.read(out.own(LEDGER_FILE)) or b"{}").get("files", {})
        return {
            path: Source(path, Identity(**raw["identity"]), str(raw["sha256"]), tuple(map(int, raw["groups"])))
            for path, raw in files.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _known(out: OutputFolder) -> dict[str, Source]:
    """Return what all ledgers say, that of the run itself before those of folders above and of partitions below."""
    below = (PurePosixPath(name).parent for name in out.below(LEDGER_FILE))
    homes = (*out.above(), *below, out.within)
    return {path: source for home in homes for path, source in remembered(replace(out, within=home)).items()}


def read_parts(out: OutputFolder) -> dict[str, Part | None]:
    """Return every Parquet file of the output folder with its footer; None where it is not one of ours."""
    return {name: _read_part(out, name) for name in out.names()}


def units_of(source: Source, job: Job) -> list[Unit]:
    """Return the units of a file; one of time steps is a single unit, as a series may cross its row groups."""
    return cut(source, job.rows_per_part if job.layout == "windows" else sum(source.groups))


def cut(source: Source, rows_per_part: int) -> list[Unit]:
    """Cut a file into ranges of row groups of at most `rows_per_part` rows (a larger row group stays whole)."""
    if sum(source.groups) <= rows_per_part or len(source.groups) < 2:
        return [Unit(source.path, None, sum(source.groups), source.identity.size, source.sha256)]
    ranges: list[tuple[int, int, int]] = []
    for group, rows in enumerate(source.groups):
        if ranges and ranges[-1][2] + rows <= rows_per_part:
            first, _, before = ranges.pop()
            ranges.append((first, group, before + rows))
        else:
            ranges.append((group, group, rows))
    return [Unit(source.path, (a, b), rows, source.identity.size, source.sha256) for a, b, rows in ranges]


def _compare(
    sources: dict[str, Source], parts: dict[str, Part | None], orphans: tuple[str, ...], bundle_id: str, job: Job
) -> Plan:
    options = job.numbers_digest()
    by_source: dict[str, dict[str, Part]] = defaultdict(dict)
    for name, part in parts.items():
        if part:
            by_source[part.unit.path][name] = part
    units, todo, done, stale, history = [], [], {}, [], []
    for source in sources.values():
        found = by_source[source.path]
        cuts = {unit.part_path: unit for unit in units_of(source, job)}
        made = {name: part.bundle_id == bundle_id and part.options == options for name, part in found.items()}
        recut = [name for name in found if made[name] and name not in cuts and found[name].unit.sha256 == source.sha256]
        old = [name for name in found if not made[name]] + recut
        history += old
        if job.rescore == "none" and any(name not in cuts for name in old):
            continue  # cut differently then: the file as a whole stays as it was issued
        stale += [name for name in found if name not in cuts]
        for name, unit in cuts.items():
            if name in old and job.rescore == "none":
                continue
            units.append(unit)
            part = found.get(name)
            if part and made[name] and part.unit == unit:
                done[name] = part
            else:
                todo.append(unit)
    _refuse_collisions(units)
    _refuse_foreign([unit.part_path for unit in todo], parts)
    if history and job.rescore == "changed":
        raise UsageError(_history_message(history, parts, bundle_id, job))
    kept = tuple(history) if job.rescore == "none" else ()
    return Plan(sources, tuple(units), tuple(todo), done, kept, tuple(sorted(stale)), orphans)


def _refuse_collisions(units: list[Unit]) -> None:
    makers = defaultdict(set)
    for unit in units:
        makers[unit.part_path].add(unit.path)
    twice = [f"{name}: {', '.join(sorted(paths))}" for name, paths in makers.items() if len(paths) > 1]
    if twice:
        remedy = "rename the files, or raise --rows-per-part"
        raise InputError(explain("several input files would make the same part" + listing(twice), remedy=remedy))


def _refuse_foreign(names: list[str], parts: dict[str, Part | None]) -> None:
    foreign = [name for name in names if name in parts and parts[name] is None]
    if foreign:
        remedy = "give another --out, or move them away"
        raise OutputError(
            explain("files that freerun did not write stand where parts must go", got=foreign, remedy=remedy)
        )


def _history_message(history: list[str], parts: dict[str, Part | None], bundle_id: str, job: Job) -> str:
    makers = Counter(part.bundle_id for name in history if (part := parts[name]))
    others = [f"{count} by bundle {maker[:12]}" for maker, count in makers.items() if maker != bundle_id]
    renamed = ", ".join(f"{role}={name}" for role, name in sorted(job.columns.items())) or "no columns renamed"
    same = makers.get(bundle_id, 0)
    others += [f"{same} by this bundle with other options, or cut with another --rows-per-part"] if same else []
    return explain(
        f"{len(history)} parts in {job.out / job.partition} were made by another bundle or with other options",
        got=", ".join(others),
        expected=", ".join([f"bundle {bundle_id[:12]}", job.mode, job.precision, renamed, *_further(job)]),
        remedy="--rescore none keeps them and scores only what is new; --rescore all replaces them",
    )


def _further(job: Job) -> list[str]:
    """Name the options that change numbers, where they are set, beside those that every job has."""
    named = {field.name: field.default for field in fields(job) if field.name in NUMBERS[3:]}
    return [f"{name} {getattr(job, name)}" for name, default in named.items() if getattr(job, name) != default]


def _identify(dataset: Dataset, path: str, identity: Identity, stop: Stop) -> Source:
    sha256 = dataset.sha256(path, stop)
    with dataset.open(path) as file:
        metadata = file.metadata
        groups = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    return Source(path, identity, sha256, groups)


def _read_part(out: OutputFolder, name: str) -> Part | None:
    with out.opened(name) as file:
        if file is None:
            return None
        try:
            return decode_footer(pq.read_metadata(file).metadata or {})
        except READ_ERRORS:
            return None

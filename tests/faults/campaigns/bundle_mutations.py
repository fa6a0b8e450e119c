"""Hostile bundles by the thousand: each is refused as a bundle, or is one whose golden windows come out.

A mutation either spoils bytes, which the digests find, or takes the manifest or a graph apart, changes it, and closes
all digests over the result, as somebody would who writes bundles to harm. Those reach the audit, and what passes the
audit reaches onnxruntime and the replay of the golden windows.
"""

import importlib.util
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from campaigns.bundle_mutators import Files, mutate
from campaigns.result import Result
from campaigns.watch import peak_mib, watch_folder, watch_opens
from runner.bundle import audit_bundle, open_bundle
from runner.device import Device
from runner.errors import BundleError
from runner.forecaster import Decoding, open_forecaster
from runner.stop import Stop

WORKERS = 2
ADDRESS_SPACE = 4 << 30
"""Bytes that a worker may map beside what it was forked with, which the tests before it decide."""
LARGEST_MIB = 1024
"""Resident set of a worker that has tried many; a good bundle takes it to some 250."""
SECONDS = 2.0
"""Processor time of one try: on a busy machine it waits, and that is no fault of the bundle's."""
PATIENCE = 60.0
"""Seconds without a word after which a worker is taken for hung."""
MADE_WAY = 77
"""What a worker ends with whose peak of memory stays too high to see others': another one goes on."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one mutation: `fault` is None where every promise held."""

    number: int
    what: str
    fault: str | None
    accepted: bool
    seconds: float
    peak_mib: float


def run(count: int, seed: int, folder: Path) -> Result:
    """Try `count` mutations of a bundle that holds all there can be, in two processes.

    Args:
        count: how many.
        seed: mutation number n is drawn from it and n alone.
        folder: an empty one to work in.
    """
    started = time.perf_counter()
    files = whole_bundle(folder / "good")
    found = list(_all_tried(files, count, seed, folder))
    faults = [f"seed {seed}, mutation {tried.number} ({tried.what}): {tried.fault}" for tried in found if tried.fault]
    accepted = sum(tried.accepted for tried in found)
    return Result(
        fault="F15",
        what=f"mutated bundles, digests closed over most of them ({accepted} still fit their golden windows)",
        seed=seed,
        tried=len(found),
        survived=len(found) - len(faults),
        failures=tuple(faults),
        peak_mib=max((tried.peak_mib for tried in found), default=None),
        seconds=time.perf_counter() - started,
    )


def whole_bundle(folder: Path) -> Files:
    """Make the bundle that the tests make by hand, with fused graphs and int8; return its files."""
    place = Path(__file__).parents[2] / "conftest.py"
    spec = importlib.util.spec_from_file_location("hand_made_bundle", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.make_bundle(folder, fused=True, int8=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _all_tried(files: Files, count: int, seed: int, folder: Path) -> Iterator[Tried]:
    """Keep the workers going; one that dies or hangs has found a fault, and another goes on behind it."""
    shares = [range(lane, count, WORKERS) for lane in range(WORKERS)]
    lanes = [_Lane(files, share, seed, folder / f"worker-{share.start}") for share in shares if share]
    while lanes:
        ready = wait([lane.told for lane in lanes], 1)
        for lane in list(lanes):
            if lane.told in ready or lane.is_hung():
                yield from lane.hear()
            if not lane.left:
                lane.end()
                lanes.remove(lane)


class _Lane:
    """A worker process, and the mutations that are left to it."""

    def __init__(self, files: Files, numbers: range, seed: int, folder: Path) -> None:
        self.left = numbers
        self.given = files, seed, folder
        self.start()

    def start(self) -> None:
        """Begin with the first mutation that is left."""
        context = multiprocessing.get_context("fork")
        files, seed, folder = self.given
        self.told, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, files, self.left, seed, folder), daemon=True)
        self.process.start()
        theirs.close()
        self.since = time.monotonic()

    def is_hung(self) -> bool:
        return time.monotonic() - self.since > PATIENCE

    def hear(self) -> Iterator[Tried]:
        """Take what the worker tells of one mutation, or what its end tells; another one takes its place then."""
        try:
            tried = None if self.is_hung() else self.told.recv()
        except EOFError:
            tried = None
        if tried is None:
            fault = "it hung" if self.is_hung() else None
            code = self.end()
            fault = fault or (None if code == MADE_WAY else _ended(code))
            tried = fault and Tried(self.left[0], "as drawn", fault, accepted=False, seconds=0, peak_mib=0)
        if tried:
            self.left, self.since = self.left[1:], time.monotonic()
            yield tried
        if self.left and self.told.closed:
            self.start()

    def end(self) -> int:
        """Put an end to the worker; return what it had ended with by itself, if it had."""
        self.process.join(1)
        code = self.process.exitcode or 0
        self.process.kill()
        self.process.join()
        self.told.close()
        return code


def _ended(code: int) -> str:
    return f"the process ended by {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"


def _work(told: Connection, files: Files, numbers: range, seed: int, folder: Path) -> None:
    """Try one mutation after the other, and tell of each."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bundle, canary = folder / "bundle", folder / "canary" / "secret"
    canary.parent.mkdir(parents=True, exist_ok=True)
    canary.write_bytes(bytes(1024))
    lay(files, bundle)
    try_bundle(bundle)  # imports what there is to import
    opened = watch_opens(bundle)
    touched = watch_folder(canary.parent)
    for number in numbers:
        what, spoilt = mutate(files, random.Random(f"{seed} {number}"), canary)
        lay(spoilt, bundle)
        opened.clear()
        started = time.process_time()
        fault, accepted = try_bundle(bundle)
        seconds, peak = time.process_time() - started, peak_mib()
        if opened or touched():
            fault = f"files outside were opened: {opened[:3] or canary}"
        elif seconds > SECONDS or peak > LARGEST_MIB:
            fault = fault or f"it took {seconds:.1f} s and {peak:.0f} MiB"
        told.send(Tried(number, what, fault, accepted, seconds, peak))
        if peak > LARGEST_MIB:
            os._exit(MADE_WAY)
    told.close()
    os._exit(0)


def lay(files: Files, bundle: Path) -> None:
    shutil.rmtree(bundle, ignore_errors=True)
    for name, content in files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(content)


def try_bundle(bundle: Path) -> tuple[str | None, bool]:
    """Open a bundle as `freerun verify` does; return what was wrong about how it went, and whether it was accepted."""
    try:
        audited = audit_bundle(open_bundle(bundle))
        for precision in audited.manifest.held():
            how = Decoding(Device("cpu"), precision, min(8, audited.largest_batch(precision, Device("cpu"))), workers=1)
            with open_forecaster(audited, how, Stop()):
                pass
    except BundleError:
        return None, False
    except BaseException as error:  # noqa: BLE001  (that is the fault looked for)
        return f"{type(error).__name__}: {error}"[:500], False
    return None, True

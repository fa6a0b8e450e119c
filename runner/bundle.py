"""Open a bundle: a plain folder whose every byte is pinned by its manifest."""

import hashlib
import os
import stat
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from runner.device import Device
from runner.errors import BundleError, explain, listing
from runner.manifest import MANIFEST_FILE, BundleFile, Manifest, parse_manifest
from runner.precision import Precision

if TYPE_CHECKING:
    from runner.audit import GraphFacts
    from runner.golden import Golden

MANIFEST_LIMIT = 1 << 20
MOST_FILES = 100
LARGEST_CALL = {"cpu": 1 << 29, "cuda": 1 << 32}
"""Elements that the graphs may keep alive at once in one call; 2 GiB of float32 a thread on a CPU."""
FOLDERS = ("int8",)
"""The only folders that may stand in a bundle: one for each further precision."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were each read once and checked; the graphs run from these very bytes."""

    path: Path
    manifest: Manifest
    contents: dict[str, bytes]

    def content(self, file: BundleFile) -> bytes:
        """Return the bytes of a file that the manifest lists."""
        return self.contents[file.file]

    def graphs(self, precision: Precision) -> dict[str, bytes]:
        """Return the graphs of a precision by their manifest key.

        Raises:
            BundleError: the bundle does not hold that one.
        """
        return {name: self.content(graph) for name, graph in self.manifest.form(precision).graphs().items()}


def open_bundle(path: Path, expect_bundle_id: str | None = None) -> Bundle:
    """Read a bundle and check that it is what its manifest says; `audit_bundle` then looks into the graphs.

    Args:
        path: the bundle's folder.
        expect_bundle_id: refuse any other bundle.

    Raises:
        BundleError: the folder is missing or holds links or unlisted files; the manifest does not fit; a file differs
            from its size or sha256; or the id is another.
    """
    names = _plain_files(path)
    if MANIFEST_FILE not in names:
        raise BundleError(
            explain(f"{path} is not a bundle", got=f"no {MANIFEST_FILE}", remedy="give a folder that export wrote")
        )
    try:
        manifest = parse_manifest(_read(path / MANIFEST_FILE, MANIFEST_LIMIT))
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    if expect_bundle_id is not None and manifest.bundle_id != expect_bundle_id:
        raise BundleError(explain("this is another bundle", got=manifest.bundle_id, expected=expect_bundle_id))
    _check_listing(path, names, manifest)
    return Bundle(path, manifest, {file.file: _read_pinned(path, file) for file in manifest.files()})


@dataclass(frozen=True, slots=True)
class AuditedBundle:
    """A bundle whose graphs and golden windows were looked into: what sessions are opened for, and nothing else.

    Attributes:
        bundle: an opened bundle.
        facts: what was found in each graph, by its file's name.
        golden: the golden windows of each precision that was looked at.
    """

    bundle: Bundle
    facts: dict[str, "GraphFacts"]
    golden: dict[Precision, "Golden"]

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def path(self) -> Path:
        return self.bundle.path

    def graphs(self, precision: Precision) -> dict[str, bytes]:
        """Return the graphs of a precision by their manifest key.

        Raises:
            BundleError: the bundle does not hold that one, or it was not looked at.
        """
        graphs = self.bundle.graphs(precision)
        if precision not in self.golden:
            raise BundleError(explain(f"the {precision} graphs were not audited", got=", ".join(self.golden)))
        return graphs

    def largest_batch(self, precision: Precision, device: Device) -> int:
        """Return how many windows one call may take, so that a thread stays within its memory."""
        graphs = self.manifest.form(precision).graphs().values()
        return LARGEST_CALL[device.kind] // max(1, *(self.facts[graph.file].cost.elements for graph in graphs))


def audit_bundle(bundle: Bundle, *precisions: Precision) -> AuditedBundle:
    """Check graphs and golden windows without running anything: the last thing before onnxruntime sees them.

    Args:
        bundle: an opened bundle.
        precisions: whose graphs to look at; all that the bundle holds, where none is given.

    Raises:
        BundleError: the bundle has not this precision; a graph was refused, or they are not of one export and opset; or
            the golden windows do not fit.
    """
    from runner.audit import audit_graph, signature
    from runner.golden import read_golden

    manifest = bundle.manifest
    facts, golden = {}, {}
    for precision in precisions or manifest.held():
        form = manifest.form(precision)
        for name, graph in form.graphs().items():
            expected = signature(manifest, name, graph)
            turns = manifest.horizon if name == "decoder_step" else 1
            facts[graph.file] = audit_graph(bundle.content(graph), graph.file, expected, turns)
        golden[precision] = read_golden(bundle.content(form.golden), form.golden.file, manifest)
    _check_same_export(facts, manifest)
    return AuditedBundle(bundle, facts, golden)


def _plain_files(path: Path) -> set[str]:
    """Return the names in the folder, and in the folders of second precisions: plain files, no links among them."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise BundleError(
                explain(f"{path} is not a bundle", got="no plain folder", remedy="give the folder itself, no link")
            )
        kinds = _kinds(path, "")
        for folder in FOLDERS:
            if stat.S_ISDIR(kinds.get(folder, 0)):
                del kinds[folder]
                kinds |= _kinds(path, f"{folder}/") or {f"{folder}/": stat.S_IFREG}
    except OSError as error:
        raise BundleError(
            explain(f"cannot open the bundle {path}", got=error.strerror, remedy="check the path")
        ) from error
    odd = sorted(name for name, mode in kinds.items() if not stat.S_ISREG(mode))
    if odd:
        raise BundleError(f"the bundle {path} holds links or folders; only plain files may be in it:" + listing(odd))
    return set(kinds)


def _kinds(path: Path, prefix: str) -> dict[str, int]:
    with os.scandir(path / prefix) as entries:
        first = list(islice(entries, MOST_FILES + 1))
    if len(first) > MOST_FILES:
        raise BundleError(explain(f"{path / prefix} is not a bundle", got=f"more than {MOST_FILES} files in it"))
    return {f"{prefix}{entry.name}": entry.stat(follow_symlinks=False).st_mode for entry in first}


def _check_listing(path: Path, names: set[str], manifest: Manifest) -> None:
    listed = {MANIFEST_FILE, *(file.file for file in manifest.files())}
    problems = [f"{name} is missing" for name in sorted(listed - names)]
    problems += [f"{name} is not in the manifest" for name in sorted(names - listed)]
    if problems:
        raise BundleError(f"the bundle {path} does not hold what its manifest lists:" + listing(problems))


def _read(path: Path, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):  # it was when the folder was listed
                raise BundleError(explain(f"{path} is not a plain file", remedy="keep the bundle at rest"))
            if found.st_size > limit:
                what, got = f"{path} is too large", f"{found.st_size} bytes"
                raise BundleError(explain(what, got=got, expected=f"at most {limit}"))
            return file.read(found.st_size)
    except OSError as error:
        raise BundleError(explain(f"cannot read {path}", got=error.strerror)) from error


def _read_pinned(path: Path, pinned: BundleFile) -> bytes:
    content = _read(path / pinned.file, pinned.bytes)
    found = hashlib.sha256(content).hexdigest()
    if len(content) != pinned.bytes or found != pinned.sha256:
        raise BundleError(
            explain(
                f"{path / pinned.file} was altered",
                got=f"{len(content)} bytes, sha256 {found}",
                expected=f"{pinned.bytes} bytes, sha256 {pinned.sha256}",
                remedy="copy the bundle again from where it was certified",
            )
        )
    return content


def _check_same_export(audit: dict[str, "GraphFacts"], manifest: Manifest) -> None:
    stamps = {label: facts.export_id for label, facts in audit.items()}
    if set(stamps.values()) != {manifest.export_id}:
        raise BundleError(explain("the graphs are not of one export", got=stamps, expected=manifest.export_id))
    opsets = {label: facts.opset for label, facts in audit.items()}
    if set(opsets.values()) != {manifest.opset}:
        raise BundleError(explain("the graphs are of another opset", got=opsets, expected=manifest.opset))

"""Parity of every kind of model that `freerun-export convert` takes, read off the certificates.

    python benchmarks/converted.py

Builds each kind with drawn weights (the wiring matters, not the weights), converts it, and writes the table into
docs/convert.md. The kinds are those of tests/export/teams.py, which the tests convert too.
"""

import json
import sys
import tempfile
from pathlib import Path

from export.config import load_bundle_config
from export.convert import Source, convert_model
from export.pipeline import start_tensorflow

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "convert.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- end -->\n"
SEED = 3
MODES = ("teacher_forced", "free_running")


def row(name: str, bundle: Path) -> str:
    """Return a bundle's row: what crosses from the encoder to the decoder, and the largest difference in each mode."""
    manifest, certificate = (json.loads((bundle / file).read_text()) for file in ("manifest.json", "certificate.json"))
    crossing = [entry["step_input"] for key in ("states", "memory") for entry in manifest[key]]
    worst = [max(max(*entry[mode], *entry[f"fused_{mode}"]) for entry in certificate["parity"]) for mode in MODES]
    return f"| {name} | {', '.join(crossing)} | {' | '.join(f'{value:.1e}' for value in worst)} |\n"


def main() -> None:
    """Convert each kind and rewrite the table."""
    sys.path.insert(0, str(ROOT / "tests" / "export"))
    import teams  # noqa: PLC0415  (the models that the tests convert too)

    work = Path(tempfile.mkdtemp(prefix="converted-"))
    kinds = [(name, build, teams.draw, 1) for name, build in teams.MODELS.items()]
    for name, (targets, _) in teams.SEVERAL.items():
        build, windows = (lambda name=name, part=part: teams.build_several(name)[part] for part in (0, 1))
        kinds.append((name, build, windows, targets))
    table = "| model | crosses to the decoder | teacher-forced | free-running |\n|---|---|---|---|\n"
    for index, (name, build, windows, targets) in enumerate(kinds):
        start_tensorflow(SEED)
        valid = teams.write(work / f"{index}.parquet", windows())
        config = load_bundle_config(None, ("target_feature=" + ",".join(map(str, range(targets))),))
        model, out = work / f"{index}.keras", work / f"{index}"
        build().save(model)
        convert_model(Source(model, str(valid)), out, config, lambda _line: None, trust=True)
        table += row(name, out)
        print(table.splitlines()[-1], flush=True)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()

"""Run `freerun` once inside this process, and print its seconds and the peak of its memory as JSON.

    python benchmarks/one_run.py MODULES [WORD ...]

MODULES names a file. Where it exists, the modules it lists are imported first, so that neither the seconds nor the
difference of two peaks contains an import; where it does not, the run's own imports are written there. Without words,
nothing is run: what such a process takes is the price of the imports.
"""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path

from runner.cli import cli


def peak_bytes() -> int:
    """Return the largest resident set of this process; unlike ru_maxrss, it holds nothing of the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main(modules: Path, words: list[str]) -> int:
    """Import, run, and print."""
    for name in modules.read_text().split() if modules.exists() else ():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    started = time.perf_counter()
    code = cli.main(words, standalone_mode=False) if words else 0
    seconds = time.perf_counter() - started
    if words and not modules.exists():
        modules.write_text("\n".join(name for name in sys.modules if name != "__main__"))
    print(json.dumps({"seconds": seconds, "peak": peak_bytes()}))
    return code or 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))

"""Write the JSON Schemas of the manifest and the reports, so that docs/ cannot drift from the code."""

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from runner.comparison.report import ComparisonReport
from runner.evaluation.report import EvaluationReport
from runner.gap.report import GapReport
from runner.manifest import Manifest
from runner.report import Report

SCHEMAS: dict[str, type[BaseModel]] = {
    "comparison.schema.json": ComparisonReport,
    "evaluation.schema.json": EvaluationReport,
    "gap.schema.json": GapReport,
    "manifest.schema.json": Manifest,
    "report.schema.json": Report,
}


def schema_text(name: str) -> str:
    """Return the text of one of the SCHEMAS, as it stands in docs/."""
    return json.dumps(SCHEMAS[name].model_json_schema(), indent=2, sort_keys=True) + "\n"


def write_schemas(folder: Path) -> None:
    """Write all SCHEMAS into a folder."""
    for name in SCHEMAS:
        (folder / name).write_text(schema_text(name), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))

"""Promises of the repository as a whole: old bundles open, docs follow the code."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from export.config import TrainConfig
from export.schemas import SCHEMAS, schema_text
from runner.errors import ExitCode

ROOT = Path(__file__).parent.parent


def test_a_bundle_of_format_version_1_opens_and_forecasts_as_certified_for_ever(freerun):
    done = freerun("verify", ROOT / "tests" / "data" / "bundle-v1")
    assert done.code == 0, done.err


def test_a_bundle_of_format_version_1_scores_as_the_same_graphs_do_today(freerun, tiny_bundle, dataset, tmp_path):
    bundles = {"old": ROOT / "tests" / "data" / "bundle-v1", "new": tiny_bundle}
    for name, bundle in bundles.items():
        done = freerun("score", bundle, dataset, "--out", tmp_path / name)
        assert done.code == 0, done.err
    for part in (tmp_path / "old").rglob("*.parquet"):
        old, new = (pq.ParquetFile(tmp_path / name / part.relative_to(tmp_path / "old")).read() for name in bundles)
        assert old.drop_columns(["bundle_id"]) == new.drop_columns(["bundle_id"])
        assert old["bundle_id"] != new["bundle_id"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_json_schemas_in_docs_are_those_of_the_code(name):
    assert (ROOT / "docs" / name).read_text() == schema_text(name), "run make schema"


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Exit codes"), ("docs/operations.md", "What each exit code means")]
)
def test_both_pages_tell_every_exit_code(page, heading):
    table = (ROOT / page).read_text().split(f"## {heading}")[1].split("\n## ")[0]
    cells = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    told = {int(code) for cell in cells for code in cell.split(",")}
    assert told == {int(code) for code in ExitCode}


def test_the_readme_names_every_key_of_the_training_config():
    text = (ROOT / "README.md").read_text()
    assert all(f"`{key}`" in text for key in TrainConfig.model_fields)


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"], ids=lambda page: page.name
)
def test_links_inside_the_repository_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("fault", range(1, 29))
def test_every_fault_that_is_promised_to_be_survived_has_a_test_that_carries_its_number(fault):
    names = [
        name
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    ]
    assert any(re.match(rf"test_(f\d\d_)*f{fault:02d}_", name) for name in names)

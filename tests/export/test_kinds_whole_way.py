"""Other kinds of models go the whole way: trained by the command, in int8, explained, and audited."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.cli import cli
from runner.cli import cli as freerun

KINDS = {
    "gru": ("cell=gru", "encoder=bidirectional", "attention=bahdanau", "base=seasonal", "season_length=24",
            "units=4,3", "strategy=curriculum"),
    "lstm": ("encoder=bidirectional", "attention=luong", "base=linear", "units=5", "strategy=scheduled-sampling",
             "scaling=window", "start=last"),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def trained(request, demo, within, tmp_path):
    words = (*KINDS[request.param], "epochs=2", "batch_size=64", "precision=fp32,int8")
    settings = [word for setting in words for word in ("--set", setting)]
    bundle = tmp_path / "bundle"
    done = within(cli, "train", demo / "train", "--valid", demo / "valid", "--out", bundle, *settings)
    assert done.code == 0, done.err
    return request.param, bundle


def test_a_kind_is_trained_scored_explained_and_audited(trained, demo, within, tmp_path):
    name, bundle = trained
    asked = json.loads((bundle / "certificate.json").read_text())["config"]
    assert asked["cell"] == name
    model = tmp_path / "bundle.work" / "model.keras"
    assert within(freerun, "verify", bundle).code == 0
    assert (bundle / "int8" / "fused.onnx").exists()
    words = ("--model", model, "--train", demo / "train", "--epochs", "1", "--json")
    told = within(cli, "explain-gap", bundle, demo / "valid", *words)
    assert told.code == 0, told.err
    assert [suspect for suspect in told.json()["suspects"] if suspect["matches"]] == []
    assert "nothing is wrong with the wiring" in told.json()["verdict"]
    done = within(freerun, "score", bundle, demo / "valid", "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    data = tmp_path / "predicted.parquet"
    pq.write_table(with_predictions(demo / "valid", tmp_path / "out"), data)
    start = asked["start"]
    audited = within(cli, "doctor", model, data, "--predictions", "own", "--start", start, "--trust-model")
    assert audited.code == 0, audited.out + audited.err


def with_predictions(valid, scored):
    """Join inputs and predictions; without `decoder_input`, whose first value would be taken for the start."""
    tables = [
        pq.read_table(part).append_column("own", pq.read_table(scored / part.name)["prediction"])
        for part in sorted(valid.glob("*.parquet"))
    ]
    return pa.concat_tables(tables).drop_columns(["decoder_input"])

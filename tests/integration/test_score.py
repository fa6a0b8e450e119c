"""`freerun score` on the hand-made bundle, from Parquet to Parquet, against forecasts made without our code."""

import numpy as np
import pyarrow.parquet as pq


def arrays(table, *names):
    return [np.array(table.column(name).to_pylist(), np.float64) for name in names]


def test_forecasts_equal_an_independent_lstm_and_rows_keep_their_order(tiny, tiny_bundle, dataset, tmp_path, freerun):
    done = freerun("score", tiny_bundle, dataset, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    weights = tiny.draw_weights(0)
    for name in ("a.parquet", "b.parquet", "date=2026-11-23/c.parquet"):
        given, made = pq.ParquetFile(dataset / name).read(), pq.ParquetFile(tmp_path / "out" / name).read()
        past, there, future = arrays(given, "past", "past_observed", "future_known")
        expected = tiny.reference_forecast(weights, np.nan_to_num(past), there, future)
        assert made.column("id").to_pylist() == given.column("id").to_pylist()
        np.testing.assert_allclose(arrays(made, "prediction")[0], expected, atol=2e-6)
        assert made.column("reject_reason").null_count == len(made)
        assert set(made.column_names) == {
            "id",
            "target",
            "mask",
            "note",
            "prediction",
            "reject_reason",
            "bundle_id",
        }

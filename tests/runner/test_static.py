"""Features of a series that do not change: how they are read, what they change, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.batch import join
from runner.bundle import audit_bundle, open_bundle
from runner.device import Device
from runner.errors import BundleError, ExitCode
from runner.features import Category, Static
from runner.forecaster import open_loop
from runner.gap.machine import machine_of, unroll
from runner.golden import read_golden
from runner.resident import ResidentLoop
from runner.schema import Sizes, expected_shapes, match, sizes_of
from runner.session import open_session
from runner.static import as_numbers, category_indices, category_problem, joined
from runner.stop import Stop

CPU = Device("cpu")
WORDS = Category(name="shop", values=("north", "south", "east"))
ROWS = 40


@pytest.fixture(scope="module")
def bundle(static_bundle):
    return open_bundle(static_bundle)


@pytest.fixture
def windows(tiny):
    """Return what draws good windows with static features."""
    context, past, horizon, future, _ = tiny.sizes

    def draw(rows, seed=0):
        rng = np.random.default_rng(seed)
        golden = tiny.golden_windows(static=True).take(np.zeros(rows, np.intp))
        drawn = rng.normal(size=(rows, context, past)), rng.normal(size=(rows, horizon, future))
        words = rng.normal(size=rows), rng.integers(1, 3, rows), rng.integers(0, 2, rows)
        known = {"past": drawn[0], "future_known": drawn[1], "static": np.stack(words, axis=1)}
        return replace(golden, **{role: values.astype(np.float32) for role, values in known.items()})

    return draw


@pytest.fixture
def data(tiny, tmp_path):
    """Return a dataset, and its table."""
    table = tiny.make_table(ROWS, static=True)
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    return tmp_path / "in", table


def forecast(tiny, table):
    """Forecast a table by the definition."""
    past, there, future = (
        np.array(table[name].to_pylist(), float) for name in ("past", "past_observed", "future_known")
    )
    shop = [{"north": 1, "south": 2}[word] for word in table["shop"].to_pylist()]
    kind = [float(word == "open") for word in table["kind"].to_pylist()]
    static = np.stack([np.array(table["static"].to_pylist())[:, 0], shop, kind], axis=1)
    past = np.where(there[:, :, None] == 1, past, 0)
    return tiny.reference_forecast(tiny.draw_weights(0), past, there, future, static=static)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_a_word_is_its_place_in_the_vocabulary_from_1_on_whatever_the_column_is_made_of(kind):
    column = pa.array(["zzz", "east", "north", None, "west", "north"]).cast(kind)[1:]
    indices, unknown = category_indices(column, WORDS)
    assert indices.tolist() == [3, 1, 0, 0, 1]
    assert indices.dtype == np.float32
    assert unknown.tolist() == [False, False, True, True, False]
    indices, unknown = category_indices(column, WORDS.model_copy(update={"unknown": "reserved"}))
    assert indices.tolist() == [3, 1, 0, 0, 1]
    assert not unknown.any()


def test_a_null_among_the_words_of_a_dictionary_is_no_word():
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, None]), pa.array(["south", None]))
    assert category_indices(column, WORDS)[0].tolist() == [0, 2, 0]


def test_no_rows_have_no_words():
    assert [len(found) for found in category_indices(pa.array([], pa.string()), WORDS)] == [0, 0]


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.list_(pa.string()), pa.binary(), pa.null(), pa.dictionary(pa.int8(), pa.int64())], ids=str
)
def test_a_category_is_text(kind):
    assert str(kind) in category_problem(kind)


def test_numbers_come_before_the_indices():
    found = joined(np.float32([[0.5], [1.5]]), [np.float32([1, 2]), np.float32([3, 4])])
    assert found.tolist() == [[0.5, 1, 3], [1.5, 2, 4]]
    assert joined(None, [np.float32([1, 2])]).tolist() == [[1], [2]]


def test_rows_are_taken_and_joined_with_their_static_features(windows):
    batch = windows(5)
    assert batch.take(np.array([4, 0])).static.tolist() == batch.static[[4, 0]].tolist()
    assert join([batch, windows(2, seed=1)]).static.tolist() == [
        *batch.static.tolist(),
        *windows(2, seed=1).static.tolist(),
    ]
    assert "static" in batch.columns()
    assert batch.for_graphs(teacher=False).static is batch.static
    assert list(batch.context()) == ["past", "past_observed", "static"]


def test_forecasts_are_those_of_the_definition_and_only_the_list_stays_behind(
    tiny, static_bundle, data, freerun, tmp_path
):
    folder, table = data
    assert freerun("score", static_bundle, folder, "--out", tmp_path / "out").code == ExitCode.OK
    part = pq.read_table(tmp_path / "out" / "a.parquet")
    assert np.abs(np.array(part["prediction"].to_pylist()) - forecast(tiny, table)).max() < 1e-5
    assert "static" not in part.schema.names
    for name in ("shop", "kind"):
        assert part[name].to_pylist() == table[name].to_pylist()


def test_rows_without_usable_features_are_rejects_and_an_unknown_word_may_have_a_place(
    tiny, static_bundle, data, freerun, tmp_path
):
    folder, table = data
    static, shop, kind = (table[name].to_pylist() for name in ("static", "shop", "kind"))
    static[:3], shop[3:5], kind[5:7] = [None, [1.0, 2.0], [float("nan")]], ["east", None], ["never seen", None]
    changed = {"static": pa.array(static, pa.list_(pa.float32())), "shop": pa.array(shop), "kind": pa.array(kind)}
    for name, column in changed.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, folder / "a.parquet")
    done = freerun("score", static_bundle, folder, "--out", tmp_path / "out", "--max-reject-rate", "1")
    assert done.code == ExitCode.OK
    part = pq.read_table(tmp_path / "out" / "a.parquet")
    told = ["static_missing", "static_shape", "static_not_finite", "category_unknown", "category_unknown"]
    assert part["reject_reason"].to_pylist() == [*told, *[None] * (ROWS - 5)]
    expected = forecast(tiny, table.slice(5))
    assert np.abs(np.array(part["prediction"].to_pylist()[5:]) - expected).max() < 1e-5


def test_every_column_that_is_missing_or_of_another_type_is_told(static_bundle, data, freerun, tmp_path):
    folder, table = data
    pq.write_table(table.drop_columns(["static", "shop"]), folder / "a.parquet")
    numbers = pa.array(np.arange(ROWS))
    table = table.set_column(table.schema.get_field_index("kind"), "kind", numbers)
    pq.write_table(table.set_column(table.schema.get_field_index("static"), "static", numbers), folder / "b.parquet")
    done = freerun("score", static_bundle, folder, "--out", tmp_path / "out")
    assert done.code == ExitCode.INPUT
    for line in (
        "a.parquet: column 'static' is missing",
        "a.parquet: column 'shop' is missing (a category)",
        "b.parquet: column 'kind' (a category): int64",
        "b.parquet: column 'static' (static): int64",
    ):
        assert line in done.err


def test_the_list_may_have_another_name_and_the_words_may_not(static_bundle, data, freerun, tmp_path):
    folder, table = data
    names = ["sizes" if name == "static" else name for name in table.schema.names]
    pq.write_table(table.rename_columns(names), folder / "a.parquet")
    assert (
        freerun("score", static_bundle, folder, "--out", tmp_path / "a", "--column", "static=sizes").code == ExitCode.OK
    )
    assert "sizes" not in pq.read_schema(tmp_path / "a" / "a.parquet").names
    done = freerun("score", static_bundle, folder, "--out", tmp_path / "b", "--column", "shop=note")
    assert done.code == ExitCode.USAGE


def test_a_bundle_without_static_features_overlooks_such_a_column_whatever_its_type():
    schema = pa.schema({"past": pa.list_(pa.float32()), "static": pa.string()})
    layout, problems = match(schema, "a.parquet", Sizes(6, 4, 2, 0), {}, teacher=False)
    assert not problems
    assert layout.copied == ("static",)
    assert "static" not in layout.roles


def test_a_category_is_read_even_where_it_is_not_copied():
    sizes = Sizes(6, 4, 2, 0, static=Static(categories=(WORDS,)))
    schema = pa.schema({"past": pa.list_(pa.float32()), "shop": pa.string()})
    layout, problems = match(schema, "shop=north/a.parquet", sizes, {}, teacher=False)
    assert not problems
    assert layout.copied == ()
    assert layout.columns == ["past", "shop"]


@pytest.mark.parametrize("teacher", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_every_loop_hands_them_to_the_encoder(bundle, windows, size, teacher):
    batch, graphs, manifest = windows(size), bundle.graphs("fp32"), bundle.manifest
    horizon = manifest.horizon
    batch = replace(batch, target=np.ones((size, horizon)), observed=np.ones((size, horizon), bool))
    pair = {name: graphs[name] for name in ("encoder", "decoder_step")}
    encoder, step = (open_session(pair[name], name, CPU, threads=1, stop=Stop(), batch_size=size) for name in pair)
    plain = open_loop(manifest, pair, CPU, Stop())
    found = plain(batch, teacher)
    moved = plain(replace(batch, static=batch.static + 1), teacher)
    assert (np.abs(found - moved).max(axis=1) > 1e-3).all()
    assert np.abs(open_loop(manifest, graphs, CPU, Stop())(batch, teacher) - found).max() < 1e-5
    assert ResidentLoop(manifest, encoder, step, None, size)(batch, teacher).tobytes() == found.tobytes()
    if not teacher:
        machine = machine_of(encoder, step, manifest)
        assert unroll(machine, machine.encode(batch), batch.future_known).tobytes() == found.tobytes()


def test_golden_windows_carry_them_as_the_encoder_takes_them(tiny, bundle):
    golden = audit_bundle(bundle).golden
    assert golden["fp32"].windows.static.tolist() == tiny.golden_windows(static=True).static.tolist()
    assert golden["int8"].windows.static.tolist() == golden["fp32"].windows.static.tolist()


@pytest.mark.parametrize("static", [None, [[0.5, 1]] * 3, [[0.5, 1, float("inf")]] * 3, ["north"] * 3])
def test_golden_windows_without_them_are_refused(bundle, static):
    table = pq.read_table(pa.BufferReader(bundle.content(bundle.manifest.golden))).drop_columns(["static"])
    sink = pa.BufferOutputStream()
    pq.write_table(table if static is None else table.append_column("static", pa.array(static)), sink)
    with pytest.raises(BundleError, match="golden windows of golden do not fit the manifest"):
        read_golden(sink.getvalue().to_pybytes(), "golden", bundle.manifest)


def test_as_numbers_every_index_is_one_more_number(bundle):
    assert as_numbers(bundle.manifest.static) == Static(numbers=("size", "shop", "kind"))
    assert as_numbers(None) is None


def test_a_graph_that_takes_none_is_refused_where_the_manifest_has_some(tiny, static_bundle, tiny_bundle, tmp_path):
    values = tiny.read_manifest(static_bundle)
    plain = tiny.read_manifest(tiny_bundle)
    encoder = {**plain["encoder"], "tensors": {**plain["encoder"]["tensors"], "static": "static"}}
    bundle = tiny.make_bundle(tmp_path / "b", static=False)
    tiny.write_manifest(bundle, {**plain, "static": values["static"], "encoder": encoder})
    with pytest.raises(BundleError, match="input 'static' is missing"):
        audit_bundle(open_bundle(bundle))


def test_inspect_tells_them_and_a_misfit_is_told_what_is_expected(static_bundle, bundle, freerun):
    done = freerun("inspect", static_bundle)
    assert "size, shop (2 words, others: reject), kind (1 words, others: reserved)" in done.out
    assert "static [1]" in expected_shapes(bundle.manifest)
    assert sizes_of(bundle.manifest).shape("static") == (1,)


def test_the_gap_of_such_a_bundle_is_explained(static_bundle, data, freerun):
    folder, _ = data
    done = freerun("explain-gap", static_bundle, folder, "--train", folder, "--json")
    assert done.code == ExitCode.OK
    assert json.loads(done.out)["windows"]["used"] == ROWS


def test_two_such_bundles_are_compared_and_one_without_them_too(tiny, static_bundle, tiny_bundle, data, freerun):
    folder, table = data
    truth = table.set_column(table.schema.get_field_index("target"), "target", tiny.nested(forecast(tiny, table)))
    pq.write_table(truth, folder / "a.parquet")
    found = freerun("compare", tiny_bundle, static_bundle, folder, "--json").json()
    assert found["new"]["masked_mse"] < 1e-9 < found["old"]["masked_mse"]
    assert any(line.startswith("static: OLD None, NEW {") for line in found["differs"])

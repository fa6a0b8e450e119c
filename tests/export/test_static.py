"""Features of a series that do not change: what is learned from them, and what comes of words that nobody saw."""

import json
import shutil

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from static_data import CONTEXT, LEVELS, NOISE, SLOPE, drawn, written

from export.bundle_writer import draft_manifest, provisional
from export.certify import BATCH_SIZES, Candidate, audit_pair, certify
from export.checkpoints import WorkFolder
from export.cli import cli
from export.config import TrainConfig
from export.examples import batches, context_inputs
from export.explain import open_keras_model
from export.forms import make_form
from export.graphs import convert
from export.mixed import mixed_model
from export.model import build
from export.model_static import default_width
from export.pipeline import Data, start_tensorflow, train_bundle
from export.quantize import certified_int8
from export.static import UNKNOWN_SHARE, some_unknown, vocabularies, with_static
from export.training import evaluate, free_running, train
from export.windows import measure, open_windows, trainable
from runner.bundle import audit_bundle, open_bundle
from runner.errors import ExitCode, InputError, UsageError
from runner.features import MOST_WORDS
from runner.gap.windows import read_windows
from runner.schema import sizes_of
from runner.stop import Stop

SETTINGS = {"units": 8, "epochs": 12, "batch_size": 64, "learning_rate": 0.03}
BOTH = TrainConfig(**SETTINGS, categories=["shop"], unknown_category="reserved", static_names=["size"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("static"))


@pytest.fixture(scope="module")
def bundle(folder):
    """Return a bundle that was trained on a number and a category."""
    data = Data(str(folder / "train.parquet"), str(folder / "valid.parquet"))
    said = []
    train_bundle(data, folder / "bundle", BOTH, said.append, lambda _: [])
    assert "1 past and 0 future features; static size, shop (3 words);" in said[0]
    return folder / "bundle"


def opened(folder, config=BOTH):
    windows = (open_windows(str(folder / f"{name}.parquet")) for name in ("train", "valid"))
    return with_static(*windows, config, {})


def built(folder, config):
    """Return training and validation windows, their statistics, and fresh models."""
    windows, valid = opened(folder, config)
    statistics = measure(windows)
    start_tensorflow(config.seed)
    return windows, valid, statistics, build(config, windows.sizes, statistics, 0, flagged=False)


def changed(table, **columns):
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(column))
    return table


@pytest.fixture
def score(bundle, freerun, tmp_path):
    """Return what scores a table by the command line: the process, the part, and the report."""

    def run(table, *args, by=bundle):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        pq.write_table(table, tmp_path / "in.parquet")
        done = freerun("score", by, tmp_path / "in.parquet", "--out", tmp_path / "out", "--json", *args)
        return done, pq.read_table(tmp_path / "out" / "in.parquet"), done.json()

    return run


def test_forecasts_depend_on_the_number_and_on_the_word_and_an_unknown_one_is_like_the_average(score):
    table = drawn(60, seed=9)
    larger = [[size + 3] for (size,) in table["static"].to_pylist()]
    asked = {word: changed(table, shop=pa.array([word] * 60, pa.string())) for word in (*LEVELS, "west", None)}
    asked["larger"] = changed(asked["north"], static=pa.array(larger, pa.list_(pa.float32())))
    done, part, report = score(pa.concat_tables(asked.values()))
    assert done.code == ExitCode.OK
    assert report["total"]["rows"] == {"read": 360, "scored": 360, "rejected": 0}
    pieces = np.split(np.array(part["prediction"].to_pylist()), len(asked))
    level = {asked_for: piece.mean() for asked_for, piece in zip(asked, pieces, strict=True)}
    for word, expected in LEVELS.items():
        assert level[word] - level["north"] == pytest.approx(expected - LEVELS["north"], abs=0.4)
    assert level["larger"] - level["north"] == pytest.approx(SLOPE, abs=0.4)
    assert level["west"] == level[None]
    assert level["north"] + 0.5 < level["west"] < level["east"] - 0.5


def test_with_the_category_a_bundle_is_far_better_than_without(score, folder, tmp_path):
    done, part, report = score(drawn(200, seed=9))
    assert done.code == ExitCode.OK
    assert "shop" in part.schema.names
    assert report["total"]["masked_mse"] < 2 * NOISE**2
    windows, valid, statistics, models = built(folder, without := TrainConfig(**SETTINGS))
    found = train(models, (windows, valid), statistics, without, 0, WorkFolder(tmp_path / "w", ""), [])
    assert windows.sizes.static.names == ("s0",)
    assert found.best.teacher_forced > 4 * report["total"]["masked_mse"]


def test_a_word_that_nobody_saw_makes_the_row_a_reject_where_the_bundle_says_so(tiny, score, bundle, tmp_path):
    strict = shutil.copytree(bundle, tmp_path / "strict")
    values = tiny.read_manifest(strict)
    values["static"]["categories"][0]["unknown"] = "reject"
    tiny.write_manifest(strict, values)
    table = changed(drawn(10, seed=9), shop=["north", "west", None, *["south"] * 7])
    done, part, report = score(table, by=strict)
    assert done.code == ExitCode.TOO_MANY_REJECTS
    assert part["reject_reason"].to_pylist() == [None, "category_unknown", "category_unknown", *[None] * 7]
    assert report["total"]["rejects"] == {"category_unknown": 2}


def test_the_manifest_says_what_they_are_and_the_golden_windows_carry_them(bundle):
    audited = audit_bundle(open_bundle(bundle))
    static = audited.manifest.static
    assert static.numbers == ("size",)
    (shop,) = static.categories
    assert (shop.name, shop.values, shop.unknown) == ("shop", ("east", "north", "south"), "reserved")
    assert set(audited.golden["fp32"].windows.static[:, 1]) <= {1, 2, 3}
    assert json.loads((bundle / "certificate.json").read_text())["config"]["categories"] == ["shop"]


def test_every_loop_does_what_keras_does_with_attention_stacked_both_ways_and_in_int8(folder):
    kind = {"units": [5, 4], "cell": "gru", "encoder": "bidirectional", "attention": "luong", "base": "linear"}
    config = TrainConfig(**kind, categories=["shop"], embedding=CONTEXT - 1)  # C features in all: a trap of Keras'
    windows, valid, statistics, models = built(folder, config)
    rng = np.random.default_rng(2)
    for weight in models.training.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    batch = trainable(next(valid.blocks()))
    alone, beside = (models.encoder.predict_on_batch(context_inputs(batch.take(slice(0, rows)))) for rows in (1, 2))
    for one, two in zip(
        alone, beside, strict=True
    ):  # the first call sees that there is one window, and no other number
        np.testing.assert_allclose(one, two[:1], atol=1e-6)
    pair = convert(models)
    draft = draft_manifest(config, windows.sizes, statistics, 0, models, pair, scaling=config.scaling)
    manifest = provisional(draft)
    graphs = make_form(pair, manifest, "fp32")
    losses = evaluate(models, valid, config, 0)
    fed = np.zeros((len(batch), windows.sizes.horizon, 1), np.float32)  # and nothing of it is used
    mixed = mixed_model(models).predict_on_batch([*context_inputs(batch), fed, fed[:, :, 0]])
    np.testing.assert_allclose(mixed[:, :, 0], free_running(models, batch), rtol=1e-4, atol=1e-5)
    found = certify(Candidate(models, graphs, manifest, config), valid, audit_pair(models, pair), losses)
    assert tuple(entry.batch_size for entry in found.parity) == BATCH_SIZES
    assert 0 < found.largest < 1e-5
    assert all(len(entry.fused_free_running) == windows.sizes.horizon for entry in found.parity)
    certified_int8(pair, graphs, manifest, valid)


@pytest.mark.parametrize("index", [-1, 4, 1e9, -1e9, float("nan"), float("inf")])
def test_no_index_leads_out_of_the_table(bundle, index):
    session = ort.InferenceSession(bundle / "encoder.onnx", providers=["CPUExecutionProvider"])
    past = np.zeros((1, CONTEXT, 1), np.float32)
    known = [session.run(["hidden"], {"past": past, "static": np.float32([[10, word]])})[0] for word in range(4)]
    (found,) = session.run(["hidden"], {"past": past, "static": np.float32([[10, index]])})
    assert any((found == other).all() for other in known)


def test_a_training_that_was_killed_goes_on_with_the_words_that_it_would_have_seen(folder):
    windows, _ = opened(folder)
    statistics = measure(windows)

    def seen(stream):
        return np.concatenate([inputs[1].numpy() for inputs, _, _ in stream])

    straight, resumed = (batches(windows, statistics, BOTH, 0, first_epoch=done) for done in (0, 1))
    first, second = seen(straight), seen(straight)
    assert (seen(resumed) == second).all()
    assert (first != second).any()
    assert 0 in second[:, 1]


def test_a_few_words_are_taken_for_unknown_ones_where_there_is_a_place_for_these(folder):
    windows, _ = opened(folder)
    batch = trainable(next(windows.blocks()))
    categories = windows.sizes.categories
    shown = some_unknown(batch, categories, np.random.default_rng(0)).static
    hidden = shown[:, 1] == 0
    assert 0.5 * UNKNOWN_SHARE < hidden.mean() < 2 * UNKNOWN_SHARE
    assert (shown[~hidden] == batch.static[~hidden]).all()
    assert (shown[:, 0] == batch.static[:, 0]).all()
    strict = [category.model_copy(update={"unknown": "reject"}) for category in categories]
    assert (some_unknown(batch, strict, np.random.default_rng(0)).static == batch.static).all()


def test_the_training_model_explains_the_gap_of_its_bundle(bundle, folder):
    manifest = open_bundle(bundle).manifest
    model = open_keras_model(folder / "bundle.work" / "model.keras", manifest, None, lambda _: None, trust=False)
    windows = read_windows(str(folder / "valid.parquet"), sizes_of(manifest), {}, Stop(), flagged=False)
    loss = np.mean((model.teacher_forced(windows) - windows.batch.target) ** 2)
    assert loss == pytest.approx(manifest.certified.teacher_forced.masked_mse, rel=1e-5)


@pytest.mark.parametrize("words", [["convert", "--out", "b", "--valid"], ["doctor", "--predictions", "target"]])
def test_a_model_of_ones_own_that_takes_them_is_refused(bundle, folder, within, tmp_path, words):
    words = [str(tmp_path / word) if word == "b" else word for word in words]
    model = bundle.with_name("bundle.work") / "model.keras"
    done = within(cli, words[0], model, *words[1:], folder / "valid.parquet", "--trust-model")
    assert done.code == ExitCode.CERTIFY
    assert "a model that takes static features is not taken" in done.err


def test_the_vocabulary_is_of_the_windows_that_can_be_learned_from(tmp_path):
    table = changed(drawn(6, seed=0), shop=["b", "B", None, "bad", "bare", "a"])
    past, target = table["past"].to_pylist(), table["target"].to_pylist()
    past[3], target[4] = None, None
    pq.write_table(changed(table, past=past, target=target), tmp_path / "a.parquet")
    assert vocabularies(open_windows(str(tmp_path / "a.parquet")), ["shop"]) == {"shop": ("B", "a", "b")}


def test_numbers_are_scaled_by_the_windows_that_can_be_learned_from(folder):
    windows, _ = opened(folder)
    sizes = np.concatenate([trainable(block).static[:, 0] for block in windows.blocks()])
    found = measure(windows)
    assert found.static_location == pytest.approx([sizes.mean(dtype=float)])
    assert found.static_scale == pytest.approx([sizes.std(dtype=float)])


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"categories": ["town"]}, InputError, "column 'town' is missing"),
        ({"categories": ["past"]}, InputError, "column 'past' (a category): list"),
        ({"categories": ["shop", "shop"]}, UsageError, "static features have the same name"),
        ({"categories": ["shop"], "static_names": ["shop"]}, UsageError, "static features have the same name"),
        ({"static_names": ["a", "b"]}, UsageError, "1 names, one for each number in the list column 'static'"),
    ],
)
def test_names_that_do_not_fit_are_refused(folder, settings, error, named):
    with pytest.raises(error) as caught:
        opened(folder, TrainConfig(**settings))
    assert named in str(caught.value)


def test_too_many_words_or_none_are_refused(tmp_path):
    rows = MOST_WORDS + 1
    table = pa.table({"past": [[0.0]] * rows, "target": [[0.0]] * rows, "shop": [f"{row}" for row in range(rows)]})
    pq.write_table(table, tmp_path / "many.parquet")
    with pytest.raises(UsageError, match="the categories have too many words"):
        vocabularies(open_windows(str(tmp_path / "many.parquet")), ["shop"])
    pq.write_table(
        changed(table.slice(0, 9), shop=["x" * 100_000 + str(row) for row in range(9)]), tmp_path / "l.parquet"
    )
    with pytest.raises(UsageError, match="the words of the categories are too long"):
        vocabularies(open_windows(str(tmp_path / "l.parquet")), ["shop"])
    pq.write_table(changed(table.slice(0, 9), shop=pa.nulls(9, pa.string())), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="has a word"):
        vocabularies(open_windows(str(tmp_path / "none.parquet")), ["shop"])


def test_validation_windows_without_the_columns_are_refused(folder, tmp_path):
    shutil.copy(folder / "train.parquet", tmp_path)
    pq.write_table(pq.read_table(folder / "valid.parquet").drop_columns(["static", "shop"]), tmp_path / "valid.parquet")
    with pytest.raises(InputError) as caught:
        opened(tmp_path)
    assert "column 'static' is missing" in str(caught.value)
    assert "column 'shop' is missing" in str(caught.value)


def test_without_them_a_config_says_nothing_of_them():
    assert not {"categories", "embedding", "unknown_category", "static_names"} & TrainConfig().record().keys()
    assert BOTH.record()["categories"] == ["shop"]
    assert TrainConfig(**BOTH.record()) == BOTH


def test_vectors_grow_slowly_with_the_vocabulary():
    assert [default_width(words) for words in (1, 2, 3, 100, MOST_WORDS)] == [1, 2, 3, 8, 15]

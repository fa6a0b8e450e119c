"""The golden windows are replayed before the first row, so that no machine changes the numbers unseen."""

import hashlib
import shutil
import signal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import runner.forecaster
from runner.bundle import audit_bundle, open_bundle
from runner.device import Device
from runner.errors import BundleError, InterruptedRunError
from runner.forecaster import Decoding, open_forecaster, replay_golden
from runner.stop import Stop


@pytest.fixture
def bundle(tiny, tmp_path):
    return tiny.make_bundle(tmp_path / "bundle")


@pytest.fixture
def regild(tiny, bundle):
    """Return what replaces the golden windows and closes the manifest over them."""

    def replace(change, **changes):
        path = bundle / "golden.parquet"
        pq.write_table(change(pq.read_table(path)), path)
        content = path.read_bytes()
        pinned = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        tiny.write_manifest(bundle, {**tiny.read_manifest(bundle), "golden": pinned, **changes})

    return replace


def shifted(table, by):
    lists = table.column("prediction").combine_chunks()
    values = pc.add(lists.values, pa.scalar(by, pa.float32()))
    return table.set_column(3, "prediction", pa.ListArray.from_arrays(lists.offsets, values))


def replay(path, precision="fp32"):
    opened = audit_bundle(open_bundle(path), precision)
    with open_forecaster(opened, Decoding(Device("cpu"), precision, batch_size=8, workers=1), Stop()) as forecaster:
        return replay_golden(forecaster, opened, precision)


def test_the_golden_windows_of_a_good_bundle_come_out_within_rounding(bundle):
    assert replay(bundle) < 1e-6


def test_golden_windows_that_come_out_differently_are_refused_with_the_difference(bundle, regild):
    regild(lambda table: shifted(table, 0.25))
    with pytest.raises(BundleError, match=r"0\.25 deviations of the target"):
        replay(bundle)


def test_the_tolerance_is_in_deviations_of_the_target(bundle, regild):
    regild(lambda table: shifted(table, 0.25), target={"name": "y", "feature": 0, "scale": 1e6})
    assert replay(bundle) == pytest.approx(0.25e-6, rel=1e-3)


def test_a_golden_forecast_that_is_not_a_number_agrees_with_nothing(bundle, regild):
    regild(lambda table: shifted(table, float("nan")))
    with pytest.raises(BundleError, match="golden"):
        replay(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.slice(0, 0),
        lambda table: table.drop_columns(["prediction"]),
        lambda table: table.drop_columns(["past"]),
        lambda table: table.drop_columns(["future_known"]),
        lambda table: table.set_column(0, "past", pa.array(["a", "b", "c"])),
        lambda table: table.set_column(3, "prediction", pa.array([[1.0], [2.0, 3.0], [4.0]])),
        lambda table: table.set_column(3, "prediction", pa.array([[1.0]] * 3)),
        lambda table: table.set_column(3, "prediction", pa.array(["a", "b", "c"])),
    ],
    ids=[
        "no rows", "no prediction", "no past", "no future", "past of words",
        "ragged prediction", "short prediction", "prediction of words",
    ],
)  # fmt: skip
def test_golden_windows_that_do_not_fit_are_a_bundle_error(bundle, regild, change):
    regild(change)
    with pytest.raises(BundleError, match="golden"):
        replay(bundle)


def test_a_golden_file_that_is_no_parquet_is_a_bundle_error(tiny, bundle):
    (bundle / "golden.parquet").write_bytes(b"PAR1 and no more")
    content = (bundle / "golden.parquet").read_bytes()
    pinned = {"file": "golden.parquet", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    tiny.write_manifest(bundle, {**tiny.read_manifest(bundle), "golden": pinned})
    with pytest.raises(BundleError, match="golden windows cannot be read"):
        replay(bundle)


def test_a_horizon_that_is_not_the_graphs_is_refused(tiny, tmp_path):
    with pytest.raises(BundleError, match="golden"):
        replay(tiny.make_bundle(tmp_path / "longer", horizon=5))


def test_a_bundle_that_fails_its_golden_windows_leaves_the_output_as_it_was(
    tiny_bundle, bundle, regild, dataset, tmp_path, score, contents
):
    regild(lambda table: shifted(table, 0.25))
    score(tiny_bundle, dataset, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(BundleError):
        score(bundle, dataset, tmp_path / "out", rescore="all")
    assert contents(tmp_path / "out") == before


def test_a_bundle_that_fails_its_golden_windows_makes_no_output_folder(bundle, regild, dataset, tmp_path, score):
    regild(lambda table: shifted(table, 0.25))
    with pytest.raises(BundleError):
        score(bundle, dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("fused", [False, True], ids=["step by step", "fused"])
def test_each_precision_replays_golden_windows_of_its_own(tiny, tmp_path, precision, fused):
    path = tiny.make_bundle(tmp_path / "both", fused=fused, int8=True)
    assert replay(path, precision) < 1e-6


def test_the_golden_windows_of_one_precision_do_not_pass_for_another(tiny, full_bundle, tmp_path):
    path = shutil.copytree(full_bundle, tmp_path / "full")
    shutil.copy(path / "golden.parquet", path / "int8" / "golden.parquet")
    values, content = tiny.read_manifest(path), (path / "golden.parquet").read_bytes()
    pinned = {"file": "int8/golden.parquet", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    values["precisions"]["int8"]["golden"] = pinned
    tiny.write_manifest(path, values)
    assert replay(path, "fp32") < 1e-6
    with pytest.raises(BundleError, match="golden windows do not come out"):
        replay(path, "int8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_fused_graph_is_the_one_that_runs_where_it_is_there(full_bundle, monkeypatch, precision):
    opened_sessions, open_session = [], runner.forecaster.open_session

    def watch(graph, label, *arguments, **settings):
        opened_sessions.append((label, graph))
        return open_session(graph, label, *arguments, **settings)

    monkeypatch.setattr("runner.forecaster.open_session", watch)
    replay(full_bundle, precision)
    assert opened_sessions == [("fused", open_bundle(full_bundle).graphs(precision)["fused"])]


def test_a_precision_that_the_bundle_has_not_is_refused_before_any_session(tiny_bundle, monkeypatch):
    monkeypatch.setattr("runner.forecaster.open_session", lambda *_, **__: pytest.fail("a session was opened"))
    with pytest.raises(BundleError, match="quantize"):
        replay(tiny_bundle, "int8")


def test_a_request_to_stop_during_the_replay_is_no_fault_of_the_bundle(bundle):
    stop = Stop()
    stop.request(signal.SIGTERM)
    with (
        pytest.raises(InterruptedRunError),
        open_forecaster(audit_bundle(open_bundle(bundle)), Decoding(Device("cpu"), "fp32", 64, 1), stop),
    ):
        pass

"""F1, F16, F22: killed at any moment, several at once, and read all the while: whole files, no row lost or doubled."""

import random

import pytest

from campaigns import kills, naive, rounds

SEED = random.SystemRandom().randrange(1 << 32)


@pytest.fixture(scope="module")
def data(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "in"
    return tiny.write_dataset(folder, {f"day={n % 3}/f{n:02d}.parquet": 300 + n for n in range(12)})


def test_f01_f22_a_run_killed_at_any_moment_leaves_whole_files_and_the_same_command_finishes(
    tiny_bundle, data, tmp_path
):
    print(f"seed {SEED}")
    result = kills.run(24, SEED, tmp_path, tiny_bundle, data)
    assert result.failures == ()
    assert (result.tried, result.rows_lost, result.rows_doubled, result.torn) == (24, 0, 0, 0)


@pytest.mark.parametrize("writer", naive.WRITERS)
def test_f01_the_harness_sees_what_a_naive_writer_leaves(data, tmp_path, writer):
    print(f"seed {SEED}")
    result = naive.run(writer, 20, SEED, tmp_path, data)
    assert result.torn > 0
    assert result.rows_doubled > 0 or writer == "ParquetWriter"


@pytest.mark.parametrize("lock", [True, False], ids=["with the lock", "without it"])
def test_f16_of_eight_runs_at_once_one_works_and_no_row_is_doubled(tiny_bundle, data, tmp_path, lock):
    print(f"seed {SEED}")
    result = rounds.run(2, SEED, tmp_path, tiny_bundle, data, lock=lock)
    assert result.failures == ()
    assert (result.rows_lost, result.rows_doubled, result.torn) == (0, 0, 0)

"""F15: hundreds of mutated bundles, digests closed over most of them. `make faults` tries 20,000."""

import os
import signal
import time
from pathlib import Path

import pytest

from campaigns import bundle_mutations
from campaigns.bundle_mutations import run

SEED = 20_261_123


def test_f15_mutated_bundles_are_refused_or_still_fit(tmp_path):
    result = run(300, SEED, tmp_path)
    print(f"seed {SEED}: {result}")
    assert result.tried == 300
    assert result.failures == ()
    assert result.survived == result.tried
    assert result.peak_mib < bundle_mutations.LARGEST_MIB


def crash(_):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_):
    os._exit(0)


def hang(_):
    time.sleep(60)


def spin(_):
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    return None, False


def fail(_):
    return "RuntimeError: something", False


def read_elsewhere(_):
    Path("/etc/hostname").read_bytes()
    return None, False


def read_canary(bundle):
    descriptor = os.open(bundle.parent / "canary" / "secret", os.O_RDONLY)
    os.close(descriptor)
    return None, False


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (crash, "ended by SIGKILL"),
        (leave, "ended with 0"),
        (hang, "it hung"),
        (spin, "it took 0."),
        (fail, "RuntimeError: something"),
        (read_elsewhere, "files outside were opened: ['/etc/hostname']"),
        (read_canary, "secret"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_f15_a_mutation_that_does_harm_is_told_and_the_others_are_tried_all_the_same(
    tmp_path, monkeypatch, fault, told
):
    harmless, tried = bundle_mutations.try_bundle, []

    def third_does_harm(bundle):
        tried.append(bundle)
        return fault(bundle) if len(tried) == 3 else harmless(bundle)  # the first is the good one

    monkeypatch.setattr(bundle_mutations, "try_bundle", third_does_harm)
    monkeypatch.setattr(bundle_mutations, "WORKERS", 1)
    monkeypatch.setattr(bundle_mutations, "PATIENCE", 1.0 if fault is hang else 30.0)
    monkeypatch.setattr(bundle_mutations, "SECONDS", 0.25 if fault is spin else 2.0)
    result = run(4, SEED, tmp_path)
    assert result.tried == 4
    assert result.failures
    assert f"seed {SEED}, mutation 1 (" in result.failures[0]
    assert told in result.failures[0]

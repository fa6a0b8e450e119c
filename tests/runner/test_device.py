"""What --device may say, and how many processors a run takes for itself."""

import pytest

from runner.device import Device, cpu_count, parse_device
from runner.errors import UsageError

V2 = "/sys/fs/cgroup/cpu.max"
V1 = "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
V1_PERIOD = "/sys/fs/cgroup/cpu/cpu.cfs_period_us"


@pytest.fixture
def machine(monkeypatch):
    """Return what fakes a machine: the processors that affinity leaves, and the files of its cgroup."""

    def fake(processors, files):
        class FakePath:
            def __init__(self, path):
                self.path = path

            def read_text(self):
                if self.path not in files:
                    raise FileNotFoundError(self.path)
                return files[self.path]

        monkeypatch.setattr("runner.device.Path", FakePath)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)))

    return fake


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("cpu", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:0", Device("cuda", 0)),
        ("cuda:1", Device("cuda", 1)),
        ("cuda:12", Device("cuda", 12)),
    ],
)
def test_a_device_is_read(text, device):
    assert parse_device(text) == device


@pytest.mark.parametrize(
    "text", ["", "CPU", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", " cuda", "cuda:1\n", "cuda:9999"]
)
def test_any_other_text_is_a_usage_error_that_repeats_it(text):
    with pytest.raises(UsageError, match="--device is not a device") as caught:
        parse_device(text)
    assert f"got: {text}" in str(caught.value)


def test_digits_of_another_script_are_no_device_number():
    with pytest.raises(UsageError):
        parse_device("cuda:\N{ARABIC-INDIC DIGIT THREE}")


@pytest.mark.parametrize("text", ["cpu", "cuda:0", "cuda:3"])
def test_a_device_writes_itself_as_it_is_read(text):
    assert str(parse_device(text)) == text


def test_a_bare_cuda_is_reported_with_its_index():
    assert str(parse_device("cuda")) == "cuda:0"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        ({V2: "max 100000\n"}, 8),
        ({V2: "200000 100000\n"}, 2),
        ({V2: "350000 100000\n"}, 3),
        ({V2: "50000 100000\n"}, 1),
        ({V2: "6400000 100000\n"}, 8),
        ({V1: "300000\n", V1_PERIOD: "100000\n"}, 3),
        ({V1: "-1\n", V1_PERIOD: "100000\n"}, 8),
        ({V1: "300000\n"}, 8),
        ({V2: "200000 100000\n", V1: "300000\n", V1_PERIOD: "100000\n"}, 2),
        ({V2: "not what it should be\n"}, 8),
        ({V2: ""}, 8),
    ],
    ids=str,
)
def test_the_smaller_of_affinity_and_quota_counts(machine, files, count):
    machine(8, files)
    assert cpu_count() == count


def test_a_run_takes_one_processor_at_least(machine):
    machine(1, {V2: "1000 100000\n"})
    assert cpu_count() == 1

"""Use of a machine by other processes, against counters that are made up, and against a process that keeps a core busy."""

import os
import platform
import subprocess
import sys
import time
from dataclasses import replace

import msgspec
import pytest

from bench import noise
from bench.noise import TICKS_PER_S, Sample, compare, own_cpu_s, read_cpu_times, read_pressure, take_sample
from bench.records import Accuracy, Disturbance, Speed
from bench.runner import measure_undisturbed
from tests.conftest import present

START = Sample(wall_s=100.0, cpus=2, others_s=30.0, steal_s=1.0, cpu_pressure_s=3.0, memory_pressure_s=0.0)


BLOCKS = """
import ctypes, resource
from bench.noise import fix_allocator
fix_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(3):
    before, block = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, libc.malloc(24 * 2**20)
    libc.memset(block, 1, 24 * 2**20)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="thresholds of glibc")
def test_memory_that_a_call_frees_serves_the_next() -> None:
    """A block of 24 MB has 6,144 pages of 4 kB. The first is new; glibc alone gives fresh pages to the second, too."""
    first, *later = map(int, subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, check=True).stdout.split())
    assert first > 100  # huge pages are fewer
    assert max(later) < first / 4


def test_shares_by_hand() -> None:
    """In 10 s on two CPUs others were busy for 5 s; the host took 1 s of 20, pressure stood for 4 s."""
    end = Sample(wall_s=110.0, cpus=2, others_s=35.0, steal_s=2.0, cpu_pressure_s=7.0, memory_pressure_s=0.0)
    shares = compare(START, end, (3, False))
    assert shares == Disturbance(
        others_cpu=0.25, steal=0.05, cpu_pressure=0.4, memory_pressure=0.0, gpu_others=3, throttled=False
    )
    assert shares.words == "others used 25% of the CPU, the host took 5%, 3 other processes on the GPU"


@pytest.mark.parametrize("name", ["others_cpu", "steal", "cpu_pressure", "memory_pressure"])
def test_what_cannot_be_read_is_unknown_and_not_quiet(name: str) -> None:
    end = replace(START, wall_s=110.0)
    counter = {"others_cpu": "others_s"}.get(name, f"{name}_s")
    disturbance = compare(replace(START, **{counter: None}), replace(end, **{counter: None}))  # type: ignore[arg-type]
    assert getattr(disturbance, name) is None
    assert (disturbance.gpu_others, disturbance.throttled) == (None, None)


def test_times_too_short_for_the_counters_are_unknown() -> None:
    disturbance = compare(START, replace(START, wall_s=100.01, others_s=30.01))
    assert (disturbance.others_cpu, disturbance.steal) == (None, None)


def test_the_counters_of_usable_cpus_are_added() -> None:
    t = TICKS_PER_S
    stat = f"cpu  9 9 9\ncpu0 {t} 0 {2 * t} 5 0 0 0 {t} 0 0\ncpu1 {t} 0 0 5 0 0 0 0 0 0\ncpu2 7 7 7 7 7 7 7 7 7 7\nctxt 5\n"
    times = present(read_cpu_times(stat, frozenset({0, 1})))
    assert (times["user"], times["system"], times["steal"]) == (2.0, 2.0, 1.0)
    assert read_cpu_times(stat, frozenset({0, 5})) is None


def test_pressure_is_the_total_of_some_tasks() -> None:
    text = "some avg10=0.12 avg60=0.05 avg300=0.01 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n"
    assert read_pressure(text) == 2.5
    assert read_pressure(None) is None
    assert read_pressure("") is None


@pytest.mark.skipif(take_sample().others_s is None, reason="needs /proc/stat")
def test_a_busy_process_of_others_is_seen_and_a_child_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same child: ours as long as this process leads, another's once a process without children does."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        monkeypatch.setenv(noise.ROOT_VARIABLE, str(os.getpid()))  # a command of another test may have set it
        samples, spent = [take_sample()], [present(own_cpu_s())]
        monkeypatch.setenv(noise.ROOT_VARIABLE, str(idle.pid))
        stranger = [take_sample()]
        time.sleep(1.0)
        stranger.append(take_sample())
        monkeypatch.setenv(noise.ROOT_VARIABLE, str(os.getpid()))
        samples.append(take_sample())
        spent.append(present(own_cpu_s()))
    finally:
        child.kill()
        idle.kill()
    own, foreign = (present(compare(pair[0], pair[1]).others_cpu) for pair in (samples, stranger))
    # The child gets what it can of the CPUs; other tests may run beside, and take from both alike.
    own_s = spent[1] - spent[0]
    assert foreign - own == pytest.approx(own_s / (samples[1].wall_s - samples[0].wall_s) / samples[0].cpus, abs=0.15)
    assert own_s > 0.1


def quiet(others_cpu: float | None) -> Disturbance:
    return Disturbance(others_cpu=others_cpu)


@pytest.mark.parametrize(
    ("disturbances", "rates", "kept"),
    [
        ([0.02], [7.0], 7.0),
        ([None], [7.0], 7.0),  # not known: nothing says that a repeat would help
        ([0.5, 0.02], [7.0, 9.0], 9.0),
        ([0.5, 0.7], [7.0, 9.0], 7.0),
    ],
)
def test_a_disturbed_round_is_measured_again_and_the_quieter_is_kept(
    disturbances: list[float | None], rates: list[float], kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that only the first measurement of a case knows stay."""
    case = Speed(status="not_run", subject="Invert", backend="fused", batch_size=8, image_size=32)
    shares, speeds = iter(disturbances), iter(rates)
    monkeypatch.setattr(noise.Watch, "disturbance", lambda watch: watch.share)
    monkeypatch.setattr(noise.Watch, "__init__", lambda watch: setattr(watch, "share", quiet(next(shares))))

    def measure(case: Speed) -> Speed:
        rate = next(speeds)
        return msgspec.structs.replace(case, status="ok", images_per_s=rate, compile_s=1.0 if rate == rates[0] else None)

    record = measure_undisturbed(case, measure)
    assert isinstance(record, Speed)
    assert (record.images_per_s, record.compile_s, record.status) == (kept, 1.0, "ok")
    assert next(shares, "none left") == "none left"


def test_a_training_is_marked_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise.Watch, "disturbance", lambda watch: quiet(0.9))
    calls: list[Accuracy] = []

    def measure(case: Accuracy) -> Accuracy:
        calls.append(case)
        raise RuntimeError("full")

    record = measure_undisturbed(Accuracy(status="not_run"), measure)
    assert (len(calls), record.status, record.disturbance) == (1, "failed", quiet(0.9))


def test_limits_of_a_quiet_machine() -> None:
    quiet_machine = Disturbance(others_cpu=0.05, steal=0.0)
    assert quiet_machine.is_strong is False
    assert Disturbance().is_strong is None
    strong = [{"others_cpu": 0.2}, {"steal": 0.1}, {"memory_pressure": 0.1}, {"gpu_others": 1}, {"throttled": True}]
    assert [Disturbance(**changes).is_strong for changes in strong] == [True] * 5  # type: ignore[arg-type]

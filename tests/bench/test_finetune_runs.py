"""``augmark finetune``: one run, comparisons that can be interrupted, and the split of the time."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import commands
from bench.jobs import finetune
from bench.jobs.finetune import FinetuneOptions
from bench.records import RECORDS, Finetune, Record, append, load_run
from tests.conftest import MakeFolder
from training import checkpoint, models
from training import finetune as training
from training.config import FinetuneConfig
from training.finetune import FineTuner

QUIET = Console(quiet=True)
ARMS = {("full", "device"), ("frozen", "device"), ("frozen", "none"), ("scratch", "device")}


def no_report(folder: Path) -> None:
    pass


@pytest.fixture
def config(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    make_folder(test="val", size=(24, 20))
    (tmp_path / "photos/train/ant/x.gif").write_bytes(b"GIF89a")
    checkpoint.save(tmp_path / "weights.pt", {"model": models.create("resnet8", 10, 2).state_dict()})
    return FinetuneConfig(
        data=str(tmp_path / "photos"), data_root=tmp_path / "root", model="resnet8", width=2, init=str(tmp_path / "weights.pt"),
        image_size=14, epochs=1, batch_size=3, num_workers=0, device="cpu",
    )  # fmt: skip


def options(config: FinetuneConfig, out: Path, **fields: Any) -> FinetuneOptions:
    return FinetuneOptions(config=config, results=out, **{"seeds": (0,), **fields})


def records(folder: Path) -> list[Any]:
    return list(load_run(folder).records)


def test_a_comparison_runs_every_arm_with_every_seed_and_resumes_where_it_stopped(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def stop_after_three(folder: Path, record: Record) -> None:
        append(folder, record)
        if len(records(folder)) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.runner.append", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            finetune.compare(options(config, out, seeds=(0, 1)), QUIET, no_report)
    before = (out / RECORDS).read_text()
    assert finetune.compare(options(config, out, seeds=(0, 1), resume=True), QUIET, no_report) == out
    assert (out / RECORDS).read_text().startswith(before), "what was done stays as it was"
    assert sorted((r.mode, r.augment_on, r.seed) for r in records(out)) == sorted((*arm, s) for arm in ARMS for s in (0, 1))
    for record in records(out):
        assert (record.status, record.num_epochs, record.skipped) == ("ok", 1, 1)
        assert record.skipped_files[0].startswith("train/ant/x.gif: ")
        assert record.implementation == (None if record.augment_on == "none" else "c")
    assert not (out / finetune.UNFINISHED).exists()


def test_without_augmentation_frozen_is_one_arm(config: FinetuneConfig) -> None:
    configs = finetune.comparison_configs(dataclasses.replace(config, augment_on="none"), (3, 4))
    assert sorted((arm.mode, arm.seed) for arm in configs) == [(m, s) for m in ("frozen", "full", "scratch") for s in (3, 4)]


def test_an_interrupted_run_of_a_comparison_resumes_from_its_last_epoch(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, epochs=3, mode="full")
    monkeypatch.setattr(finetune, "ARMS", ({"mode": "full"},))
    run_epoch = FineTuner.run_epoch

    def die(tuner: FineTuner, epoch: int, *arguments: Any, **options: Any) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(tuner, epoch, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "run_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            finetune.compare(options(config, tmp_path / "out"), QUIET, no_report)
    finetune.compare(options(config, tmp_path / "out", resume=True), QUIET, no_report)
    (record,) = records(tmp_path / "out")
    assert record.resumed_after == 2
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]


def test_runs_that_fail_are_records_and_tried_again_when_resumed(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = training.finetune, tmp_path / "out"
    command = commands.Finetune(config=config, compare=True, seeds=(0,), results=out)
    monkeypatch.setattr(commands, "reporter", lambda console: no_report)

    def broken(job: FinetuneConfig, *args: Any, **options: Any) -> Any:
        if job.mode == "scratch":
            raise RuntimeError("a library's\nfault")
        return whole(job, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "finetune", broken)
        with pytest.raises(SystemExit) as stopped:
            command.execute(QUIET)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.strip() == "augmark: 1 of 4 failed, the first: RuntimeError: a library's"
    assert sorted(record.status for record in records(out)) == ["failed", "ok", "ok", "ok"]
    with pytest.raises(SystemExit) as stopped:
        dataclasses.replace(command, resume=True).execute(QUIET)
    assert stopped.value.code == 0
    assert [record.status for record in records(out)].count("ok") == 4
    assert {record.device for record in records(out)} == {"cpu"}  # failures too


def test_one_run_keeps_its_weights_and_its_record_and_counts_once_when_resumed(config: FinetuneConfig, tmp_path: Path) -> None:
    out, reports = tmp_path / "out", list[Path]()
    assert finetune.run_one(options(config, out), QUIET, reports.append) == out
    assert (records(out)[0].mode, reports) == ("full", [out])
    assert checkpoint.load(out / "best.pt")["classes"] == ["ant", "bee"]
    with pytest.raises(ValueError, match=r"already holds a run: add --resume to resume it, or take another --results$"):
        finetune.run_one(options(config, out), QUIET, no_report)
    finetune.run_one(options(config, out, resume=True), QUIET, no_report)
    assert len(records(out)) == 1
    (out / RECORDS).unlink()  # killed between its last checkpoint and its record
    finetune.run_one(options(config, out, resume=True), QUIET, no_report)
    assert len(records(out)) == 1


def test_weights_that_do_not_fit_are_told_before_anything_runs(config: FinetuneConfig, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "wide.pt", {"model": models.create("resnet8", 10, 4).state_dict()})
    wide, out = dataclasses.replace(config, init=str(tmp_path / "wide.pt")), tmp_path / "out"
    for measure in (
        lambda: finetune.compare(options(wide, out), QUIET, no_report),
        lambda: finetune.run_one(options(wide, out), QUIET, no_report),
    ):
        with pytest.raises(ValueError, match=r"wide\.pt: layer stem\.0\.weight is \[4, 3, 3, 3\]"):
            measure()
    assert not out.exists()


def test_other_weights_of_the_same_name_are_another_run(config: FinetuneConfig, tmp_path: Path) -> None:
    """Most files of weights are called best.pt."""
    second_weights = tmp_path / "other/weights.pt"
    checkpoint.save(second_weights, {"model": models.create("resnet8", 10, 2).state_dict()})
    changed = dataclasses.replace(config, init=str(second_weights))
    finetune.run_one(options(config, tmp_path / "one"), QUIET, no_report)
    with pytest.raises(checkpoint.BadCheckpoint, match="another run: init_digest"):
        finetune.run_one(options(changed, tmp_path / "one", resume=True), QUIET, no_report)
    for chosen in (config, config, changed):
        finetune.compare(options(chosen, tmp_path / "all", resume=(tmp_path / "all").exists()), QUIET, no_report)
    run = load_run(tmp_path / "all")
    done = [(record.mode, record.augment_on, record.init_digest) for record in run.of(Finetune)]
    assert len(done) == len(set(done)) == 7, "scratch starts from neither"
    digests = {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in (config.init, second_weights)}
    assert {digest for *_, digest in done} == {None, *digests}

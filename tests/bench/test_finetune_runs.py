"""``augmark finetune``: comparisons that can be interrupted, the split of the time, and what the report says of both."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bench import cli
from bench.endtoend import finetune
from bench.records.runs import TRAINING, append_training, load_run
from bench.report import finetune as section
from bench.report.arms import Arm
from bench.report.blocks import Bullets, Figure, Heading, Paragraph, Table
from bench.report.context import Context
from bench.report.finetune_figures import parts
from bench.report.tail import missing
from training import checkpoint, models
from training.finetune_config import FinetuneConfig
from training.photofeed import MOST_SIDE

QUIET = Console(quiet=True)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinetuneConfig:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    (tmp_path / "photos/train/ant/x.gif").write_bytes(b"GIF89a")
    checkpoint.save(tmp_path / "weights.pt", {"model": models.create("resnet8", 10, 2).state_dict()})
    return FinetuneConfig(
        data=str(tmp_path / "photos"), data_root=tmp_path / "root", model="resnet8", width=2, init=str(tmp_path / "weights.pt"),
        image_size=14, epochs=1, batch_size=3, num_workers=0, device="cpu",
    )  # fmt: skip


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRAINING).read_text().splitlines()]


def test_a_comparison_runs_every_arm_with_every_seed_and_goes_on_where_it_stopped(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stop_after = 3
    appended = append_training

    def append(folder: Path, record: Any) -> None:
        appended(folder, record)
        if len(records(folder)) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "append_training", append)
    with pytest.raises(KeyboardInterrupt):
        finetune.compare(config, (0, 1), out, QUIET)
    before = (out / TRAINING).read_text()
    stop_after = 99
    assert finetune.compare(config, (0, 1), out, QUIET) == out
    assert (out / TRAINING).read_text().startswith(before), "what was done stays as it was"
    ways = [(one["mode"], one["augment_on"], one["seed"]) for one in records(out)]
    arms = {("full", "device"), ("frozen", "device"), ("frozen", "none"), ("scratch", "device")}
    assert sorted(ways) == sorted((*arm, seed) for arm in arms for seed in (0, 1))
    assert all(one["status"] == "ok" and one["num_epochs"] == 1 for one in records(out))
    assert not (out / finetune.UNFINISHED).exists()
    text = (out / "report/report.md").read_text()
    assert "Fine-tuning on photographs" in text
    assert "train/ant/x.gif: not a photograph's file type" in text
    short = text.partition("## In short")[2].partition("\n## ")[0]
    assert "Fine-tuning resnet8 on photos, validation accuracy after epoch 1: " in short
    assert all(f"{words}; fused on the device " in short for words in section.MODES.values())


def test_without_augmentation_frozen_is_one_arm(config: FinetuneConfig) -> None:
    jobs = list(finetune._jobs(dataclasses.replace(config, augment_on="none"), (3, 4)))
    assert sorted((job.mode, job.seed) for job in jobs) == [
        (mode, seed) for mode in ("frozen", "full", "scratch") for seed in (3, 4)
    ]


def test_an_interrupted_run_of_a_comparison_goes_on_from_its_last_epoch(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.finetune import Finetuner

    config = dataclasses.replace(config, epochs=3, mode="full")
    monkeypatch.setattr(finetune, "ARMS", ({"mode": "full"},))
    run_epoch = Finetuner.run_epoch

    def die(tuner: Finetuner, epoch: int, **options: Any) -> Any:
        if epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(tuner, epoch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuner, "run_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            finetune.compare(config, (0,), tmp_path / "out", QUIET)
    finetune.compare(config, (0,), tmp_path / "out", QUIET)
    (record,) = records(tmp_path / "out")
    assert record["resumed_after"] == 2
    assert [one["epoch"] for one in record["epochs"]] == [1, 2, 3]


def test_a_run_that_fails_is_recorded_and_costs_no_other(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import finetune as training

    whole = training.finetune

    def sometimes(job: FinetuneConfig, *args: Any, **options: Any) -> Any:
        if job.mode == "scratch":
            raise RuntimeError("a library's\nfault")
        return whole(job, *args, **options)

    monkeypatch.setattr(training, "finetune", sometimes)
    finetune.compare(config, (0,), tmp_path / "out", QUIET)
    status = {(one["mode"], one["augment_on"]): one for one in records(tmp_path / "out")}
    assert status["scratch", "device"]["status"] == "failed"
    assert "\n" not in status["scratch", "device"]["reason"]
    assert sum(one["status"] == "ok" for one in status.values()) == 3


def test_a_comparison_whose_runs_all_fail_ends_with_1(
    config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import finetune as training

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image")

    command = cli.Finetune(config=config, compare=True, seeds=(0,), out=tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(training, "finetune", broken)
        with pytest.raises(SystemExit) as stopped:
            command.execute(QUIET)
    assert stopped.value.code == 1
    told = capsys.readouterr().err.strip()  # progress may have left an empty line
    assert told == "augmark: 4 of 4 failed, the first: RuntimeError: no kernel image"
    with pytest.raises(SystemExit) as stopped:
        command.execute(QUIET)  # the same again: what failed is tried once more
    assert stopped.value.code == 0
    assert [one["status"] for one in records(tmp_path / "out")] == 4 * ["failed"] + 4 * ["ok"]
    # Failures are told apart by the device as results are, whether it was asked for by name or not.
    assert {one["device"] for one in records(tmp_path / "out")} == {"cpu"}


def test_the_split_measures_every_placement_in_every_round(config: FinetuneConfig, tmp_path: Path) -> None:
    finetune.split(dataclasses.replace(config, num_workers=1), 2, tmp_path / "out", QUIET)
    found = records(tmp_path / "out")
    ways = {(one["augment_on"], one["backend"], one["num_workers"]) for one in found}
    assert {("none", "torchvision", 0), ("device", "fused", 1), ("device", "fused", 0), ("workers", "pil", 1)} <= ways
    assert len(found) == 2 * len(ways)
    for one in found:
        assert sum(one["split_s"].values()) == pytest.approx(one["wall_s"])
        assert (one["decode_s"] > 0) == (one["augment_on"] != "none")
        assert (one["worker_augment_s"] > 0) == (one["augment_on"] != "none")
    text = (tmp_path / "out/report/report.md").read_text()
    assert "Photographs: where the time goes" in text
    assert f"longer than {MOST_SIDE} pixels" in section.BOUNDED


def test_one_run_keeps_its_weights_and_its_record(config: FinetuneConfig, tmp_path: Path) -> None:
    folder = finetune.run_one(config, tmp_path / "out", QUIET)
    (record,) = records(tmp_path / "out")
    assert record["mode"] == "full"
    assert checkpoint.load(tmp_path / "out/best.pt")["classes"] == ["ant", "bee"]
    assert (folder / "report/index.html").exists()


def test_weights_that_do_not_fit_are_told_before_anything_runs(config: FinetuneConfig, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "wide.pt", {"model": models.create("resnet8", 10, 4).state_dict()})
    wide = dataclasses.replace(config, init=str(tmp_path / "wide.pt"))
    for measure in (
        lambda: finetune.compare(wide, (0,), tmp_path / "out", QUIET),
        lambda: finetune.split(wide, 1, tmp_path / "out", QUIET),
        lambda: finetune.run_one(wide, tmp_path / "out", QUIET),
    ):
        with pytest.raises(ValueError, match=r"wide\.pt: layer stem\.0\.weight is \[4, 3, 3, 3\]"):
            measure()
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_over_counts_once_when_it_is_resumed(config: FinetuneConfig, tmp_path: Path) -> None:
    finetune.run_one(config, tmp_path / "out", QUIET)
    with pytest.raises(ValueError, match=r"already holds a run: add --resume to go on with it, or take another --out$"):
        finetune.run_one(config, tmp_path / "out", QUIET)
    finetune.run_one(config, tmp_path / "out", QUIET, resume=True)
    assert len(records(tmp_path / "out")) == 1
    (tmp_path / "out" / TRAINING).unlink()  # killed between its last checkpoint and its record
    finetune.run_one(config, tmp_path / "out", QUIET, resume=True)
    assert len(records(tmp_path / "out")) == 1


def test_other_weights_of_the_same_name_are_another_run(config: FinetuneConfig, tmp_path: Path) -> None:
    """Most files of weights are called best.pt."""
    other = tmp_path / "other/weights.pt"
    checkpoint.save(other, {"model": models.create("resnet8", 10, 2).state_dict()})
    changed = dataclasses.replace(config, init=str(other))
    finetune.run_one(config, tmp_path / "one", QUIET)
    with pytest.raises(checkpoint.BadCheckpoint, match="another run: init_digest"):
        finetune.run_one(changed, tmp_path / "one", QUIET, resume=True)
    for some in (config, config, changed):
        finetune.compare(some, (0,), tmp_path / "all", QUIET)
    done = [(one["mode"], one["augment_on"], one.get("init_digest")) for one in records(tmp_path / "all")]
    assert len(done) == len(set(done)) == 7, "scratch starts from neither"
    digests = {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in (config.init, other)}
    assert {digest for *_, digest in done} == {None, *digests}


def test_a_placement_that_fails_costs_no_other(config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.finetune import Finetuner

    run_epoch = Finetuner.run_epoch

    def sometimes(tuner: Finetuner, epoch: int, **options: Any) -> Any:
        if tuner.config.augment_on == "none" and epoch == 2:
            raise RuntimeError("out of memory")
        return run_epoch(tuner, epoch, **options)

    monkeypatch.setattr(Finetuner, "run_epoch", sometimes)
    folder = finetune.split(config, 2, tmp_path / "out", QUIET)
    (failed,) = [one for one in records(tmp_path / "out") if one["status"] != "ok"]
    assert (failed["augment_on"], failed["reason"]) == ("none", "RuntimeError: out of memory")
    assert "| failed | photographs | none, no augmentation |" in (folder / "report/report.md").read_text()


# ---- the report, from made records ------------------------------------------------------------------------------------


def made(mode: str, seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    epochs = [{"epoch": e, "train_loss": 1 / e, "test_accuracy": accuracy - 0.1 * (2 - e)} for e in (1, 2)]
    return {
        "kind": "finetune", "status": "ok", "mode": mode, "seed": seed, "model": "resnet18", "augment_on": "device",
        "backend": "fused", "init": "scratch" if mode == "scratch" else "imagenet", "recipe": "imagenet", "num_workers": 2,
        "test_accuracy": accuracy, "best_accuracy": accuracy + 0.05, "examples_per_s": 100.0 + seed, "total_s": 10.0,
        "features_s": 0.0, "peak_bytes": None, "resident_bytes": 3 * 2**20, "epochs": epochs, "num_epochs": 2,
        "skipped_files": [f"train/ant/{i}.jpg: cut" for i in range(25)], "dataset": "photos",
    } | more  # fmt: skip


def context_of(folder: Path, *made_records: dict[str, Any]) -> Context:
    folder.mkdir(exist_ok=True)
    for record in made_records:
        append_training(folder, record)
    return Context.of(load_run(folder))


def test_means_intervals_and_paired_differences_of_the_table(tmp_path: Path) -> None:
    full, scratch = (0.90, 0.92, 0.94), (0.80, 0.84, 0.82)
    both = [made("full", i, one) for i, one in enumerate(full)] + [made("scratch", i, one) for i, one in enumerate(scratch)]
    blocks = section.finetune_section(context_of(tmp_path / "run", *both))
    (table,) = [block for block in blocks if isinstance(block, Table)]
    rows = {row[0]: row for row in table.rows}
    # By hand: sd 0.02, t(2) = 4.303, 4.303 * 2 / sqrt(3) = 4.97 points; differences 10, 8, 12: mean 10, the same sd.
    assert rows["all layers"][3] == "92.0 % ±5.0 points"
    assert rows["all layers"][6] == "+10.00 ±4.97"
    assert rows["all layers, from random weights"][6] == ""
    assert rows["all layers"][7] == "97.0 % ±5.0 points", "the best epoch's, beside the last one's"
    assert rows["all layers"][10] == "3.00 MiB"
    (_, bullets) = [block for block in blocks if isinstance(block, Bullets)]
    assert len(bullets.items) == section.MOST_SKIPPED + 1
    assert bullets.items[-1] == "and 5 more"
    (figure,) = [block for block in blocks if isinstance(block, Figure)]
    assert "92.0 %" in figure.alternative


@pytest.mark.parametrize(
    ("full", "verdict"),
    [
        ((0.90, 0.92, 0.94), "ahead of training from scratch after the last epoch (+10.00 ±4.97 points, 3 pairs"),
        ((0.70, 0.72, 0.74), "behind training from scratch after the last epoch (-10.00 ±4.97 points, 3 pairs"),
        ((0.80, 0.82, 0.85), "not to be told from training from scratch (+0.33 ±6.25 points, 3 pairs"),
        ((0.90, 0.92), "too few seeds to tell it from training from scratch (+9.00 points, 2 pairs"),
    ],
)
def test_the_report_says_whether_fine_tuning_is_ahead_of_scratch(full: tuple[float, ...], verdict: str, tmp_path: Path) -> None:
    """Differences with scratch of 0.80, 0.84, 0.82 by hand; of (0, -2, 3) sd 2.517: 4.303 * 2.517 / sqrt(3) = 6.25 points."""
    both = [made("full", i, one) for i, one in enumerate(full)]
    both += [made("scratch", i, one) for i, one in enumerate((0.80, 0.84, 0.82))]
    blocks = section.finetune_section(context_of(tmp_path / "run", *both))
    ((item,), _) = [block.items for block in blocks if isinstance(block, Bullets)]
    assert isinstance(item, str)
    assert item.startswith(f"all layers; fused on the device: {verdict}")


def test_failed_runs_stand_among_what_is_missing_with_what_was_trained(tmp_path: Path) -> None:
    failed = {"status": "failed", "reason": "RuntimeError: x"}
    context = context_of(
        tmp_path / "run",
        made("frozen", 3, 0.9, augment_on="none", **failed),
        made("full", 0, 0.9, kind="photographs", **failed),
        {"kind": "decoding", "status": "unsupported", "decoder": "nvjpeg", "reason": "no CUDA"},
    )
    _, words, table = missing(context)
    assert isinstance(words, Paragraph)
    assert isinstance(table, Table)
    assert "3 training records, 2 of them failed and 1 unsupported." in str(words.text)
    assert [row[:3] for row in table.rows] == [
        ["failed", "finetune", "imagenet, the last layer; no augmentation, features computed once, seed 3"],
        ["failed", "photographs", "imagenet, fused on the device"],
        ["unsupported", "decoding", ""],
    ]


def test_other_settings_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    context = context_of(tmp_path / "run", made("full", 0, 0.9), made("full", 0, 0.8, image_size=64))
    assert sum(isinstance(block, Table) for block in section.finetune_section(context)) == 2


def test_milliseconds_are_medians_a_photograph(tmp_path: Path) -> None:
    rounds = [
        {"kind": "photographs", "examples": 100, "wall_s": wall, "split_s": {"wait": wait, "forward_backward": 1.0},
         "decode_s": 0.5, "worker_augment_s": 0.25, "examples_per_s": 100 / wall}
        for wall, wait in ((2.0, 0.2), (4.0, 0.6), (3.0, 0.1))
    ]  # fmt: skip
    arm = Arm(records=rounds)
    assert section.milliseconds(arm, "wait") == pytest.approx(2.0)
    assert section.milliseconds(arm, "wall_s") == pytest.approx(30.0)
    assert parts(arm) == pytest.approx({"wait": 2.0, "forward_backward": 10.0, "decode_s": 5.0, "worker_augment_s": 2.5})
    blocks = section.photographs_section(context_of(tmp_path / "run", *({**one, "status": "ok"} for one in rounds)))
    assert any(isinstance(block, Figure) for block in blocks)


def test_records_that_lack_everything_break_no_section(tmp_path: Path) -> None:
    bare = [{"kind": kind, "status": "ok"} for kind in ("finetune", "photographs", "decoding")]
    context = context_of(tmp_path / "run", *bare, {"kind": "finetune", "status": "failed", "reason": "x"})
    for make in (section.finetune_section, section.photographs_section, section.decoding_section):
        assert isinstance(make(context)[0], Heading)


def test_without_records_there_are_no_sections(tmp_path: Path) -> None:
    context = context_of(tmp_path / "run", {"kind": "accuracy", "status": "ok"})
    for make in (section.finetune_section, section.photographs_section, section.decoding_section):
        assert make(context) == []

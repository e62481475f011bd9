"""The report's section on what augmentation costs a training run, from records made by hand."""

from pathlib import Path
from typing import Any

import pytest

from bench.records.runs import Run
from bench.report.arms import Arm
from bench.report.blocks import Block, Code, Figure, Paragraph, Table, Text
from bench.report.context import Context
from bench.report.tax import ratios, tax_section, workers_needed
from bench.report.tax_figures import parts

SPLIT = {"wait": 0.5, "copy": 0.1, "augment": 0.4, "forward_backward": 2.0, "optimizer": 0.8, "other": 0.2}


def record(kind: str = "throughput", *, rate: float, number: int | None = 0, **fields: Any) -> dict[str, Any]:
    made = {"kind": kind, "status": "ok", "recipe": "flip", "backend": "fused", "augment_on": "device", "num_workers": 0}
    made |= {"resident": True, "decode": "ahead", "model": "resnet8", "width": 8, "batch_size": 200, "device": "cpu"}
    made |= {"dataset": "shapes", "fingerprint": "f", "draws": "per_image", "wait_share": 0.25, "examples_per_s": rate}
    return made | ({} if number is None else {"round": number}) | fields


BARE: dict[str, Any] = {"augment_on": "none", "recipe": "none", "backend": "torchvision", "draws": "fixed"}
CEILING = [record(rate=rate, number=n, split_s=SPLIT, **BARE) for n, rate in enumerate((1000.0, 1200.0, 1100.0))]
FUSED = [record(rate=rate, number=n, split_s=SPLIT) for n, rate in enumerate((990.0, 1182.0, 1100.0))]
IN_WORKERS: dict[str, Any] = {
    "backend": "pil",
    "augment_on": "workers",
    "num_workers": 1,
    "resident": False,
    "decode": "workers",
}
PIL = [record(rate=500.0, number=n, **IN_WORKERS) for n in range(3)]
ALONE = [record("feed", rate=rate, number=n, **IN_WORKERS) for n, rate in enumerate((100.0, 110.0, 100.0))]
FETCH = [record("feed", rate=4000.0, number=n, **{**IN_WORKERS, "augment_on": "none", "recipe": "none"}) for n in range(3)]


def plain(text: Text) -> str:
    return text if isinstance(text, str) else "".join(one if isinstance(one, str) else getattr(one, "text", "") for one in text)


def section(tmp_path: Path, training: list[dict[str, Any]], **environment: Any) -> list[Block]:
    run = Run(path=tmp_path, name="run", environment=environment, measurements=[], training=training, problems=[])
    return tax_section(Context.of(run))


def cell(blocks: list[Block], row: str, column: str) -> str:
    """The cell of the first table that has such a row and column."""
    for block in blocks:
        if isinstance(block, Table):
            header = [plain(name) for name in block.header]
            for cells in block.rows:
                if plain(cells[0]) == row and column in header:
                    return plain(cells[header.index(column)])
    raise AssertionError(f"no cell {row!r}, {column!r}")


def words(blocks: list[Block]) -> str:
    return " ".join(plain(block.text) for block in blocks if isinstance(block, Paragraph))


def test_shares_of_the_ceiling_are_of_medians_with_the_rounds_beside(tmp_path: Path) -> None:
    """Medians 1100 and 1100: 100 %; by rounds 990/1000, 1182/1200 and 1100/1100: 99.0, 98.5 and 100 %."""
    blocks = section(tmp_path, CEILING + FUSED + PIL)
    assert cell(blocks, "fused on the device", "share of the ceiling") == "100.0 % (98.5 to 100.0 %)"
    # 500 of 1100, by rounds of 1000 to 1200.
    assert cell(blocks, "pil in 1 worker, decoding too", "share of the ceiling") == "45 % (42 to 50 %)"
    assert cell(blocks, "no augmentation", "share of the ceiling") == "the ceiling"
    assert ratios(FUSED, CEILING) == pytest.approx([0.99, 0.985, 1.0])


def test_rounds_are_paired_by_their_number_and_not_by_their_place(tmp_path: Path) -> None:
    assert ratios(FUSED[::-1], CEILING) == pytest.approx([1.0, 0.985, 0.99])
    assert ratios(FUSED[:1], CEILING[1:]) == []
    assert ratios([record(rate=5.0, number=None)], CEILING) == []


def test_a_step_is_split_into_its_parts(tmp_path: Path) -> None:
    """The split is of 4 s; at 1000 examples/s a step of 200 takes 200 ms, of which 2/4 forward and backward, 0.5/4 waiting."""
    one = [record(rate=1000.0, split_s=SPLIT)]
    assert parts(Arm(records=one)) == pytest.approx(
        {"forward_backward": 100, "optimizer": 40, "augment": 20, "copy": 5, "wait": 25, "other": 10}
    )
    blocks = section(tmp_path, one)
    assert cell(blocks, "fused on the device", "forward and backward, ms") == "100"
    assert cell(blocks, "fused on the device", "waiting for data, ms") == "25.0"
    assert cell(blocks, "fused on the device", "a step, ms") == "200"


def test_records_of_before_know_the_wait_alone(tmp_path: Path) -> None:
    old = [record(rate=1000.0, number=None)]
    for name in ("resident", "decode"):
        del old[0][name]
    assert parts(Arm(records=old)) == pytest.approx({"step": 150, "wait": 50})
    blocks = section(tmp_path, old)
    assert cell(blocks, "fused on the device", "examples/s") == "1,000"
    assert "a step, ms" not in str(blocks)
    assert any(isinstance(block, Figure) and (tmp_path / "report" / block.path).exists() for block in blocks)


def test_workers_that_would_keep_up(tmp_path: Path) -> None:
    """By rounds 1000/100, 1200/110 and 1100/100: 10, 10.91 and 11, so 11 whole workers; of fetching alone 0.25 to 0.3."""
    assert workers_needed(ALONE, CEILING) == pytest.approx([10, 10.909, 11], rel=1e-4)
    blocks = section(tmp_path, CEILING + FUSED + PIL + ALONE + FETCH, cpu={"usable_cores": 2})
    row = "decode, and augment with pil"
    assert cell(blocks, row, "workers that would keep up") == "11 (10 to 11)"
    assert cell(blocks, row, "whole workers") == "11"
    assert cell(blocks, row, "n, rounds") == "3"
    assert cell(blocks, "decode only", "workers that would keep up") == "0.28 (0.25 to 0.30)"
    assert cell(blocks, "decode only", "whole workers") == "1"
    assert "This machine has 2 usable cores." in words(blocks)


def test_the_ceiling_is_the_prepared_batch_where_one_was_fed(tmp_path: Path) -> None:
    """1000, 1200 and 1100 of 2000 in all rounds: 55 %, 50 to 60 %. Workers keep up with it too: 2000 of 100 are 20."""
    frozen = [record(rate=2000.0, number=n, **{**BARE, "augment_on": "frozen", "resident": False}) for n in range(3)]
    blocks = section(tmp_path, CEILING + FUSED + frozen + ALONE)
    assert cell(blocks, "one prepared batch", "share of the ceiling") == "the ceiling"
    assert cell(blocks, "no augmentation", "share of the ceiling") == "55 % (50 to 60 %)"
    assert cell(blocks, "decode, and augment with pil", "whole workers") == "20"
    # Slower than without augmentation, by chance: the ceiling it is all the same.
    slow = [one | {"examples_per_s": 550.0} for one in frozen]
    assert cell(section(tmp_path, CEILING + slow), "no augmentation", "share of the ceiling") == "200.0 % (181.8 to 218.2 %)"


def test_a_worker_is_held_against_the_ceiling_of_its_own_setting(tmp_path: Path) -> None:
    other = [{**one, "batch_size": 64} for one in ALONE]
    assert "workers that would keep up" not in str(section(tmp_path, CEILING + FUSED + other))
    assert "workers that would keep up" not in str(section(tmp_path, FUSED + ALONE))  # no ceiling, nothing to keep up with


def test_what_the_driver_tells_is_shown_where_it_tells(tmp_path: Path) -> None:
    driven = {"gpu_utilisation": 0.975, "power_w": 412.3, "energy_j_per_1000_examples": 8.25, "peak_bytes": 2**30}
    blocks = section(tmp_path, CEILING + [{**one, **driven} for one in FUSED])
    assert cell(blocks, "fused on the device", "GPU busy, % of the time") == "97.5"
    assert cell(blocks, "fused on the device", "power, W") == "412"
    assert cell(blocks, "fused on the device", "energy a 1,000 examples, J") == "8.25"
    assert cell(blocks, "fused on the device", "peak memory, MiB") == "1,020"
    assert cell(blocks, "no augmentation", "power, W") == "not known"
    assert "GPU busy" not in str(section(tmp_path, CEILING + FUSED))


@pytest.mark.parametrize(
    "strange",
    [{"split_s": None}, {"split_s": "?"}, {"split_s": {"forward_backward": None}}, {"split_s": dict.fromkeys(SPLIT, 0.0)}],
    ids=str,
)
def test_a_split_that_cannot_be_read_leaves_the_wait(strange: dict[str, Any], tmp_path: Path) -> None:
    one = [record(rate=1000.0, **strange)]
    assert parts(Arm(records=one)) == pytest.approx({"step": 150, "wait": 50})
    section(tmp_path, one)


def test_the_overhead_is_a_ratio_with_its_passes(tmp_path: Path) -> None:
    passes = [record("overhead", rate=1.0, number=n, step_over_bare=ratio) for n, ratio in enumerate((1.012, 0.997, 1.02))]
    assert "takes 1.012 times as long as that of a bare loop" in words(section(tmp_path, CEILING + passes))
    assert "(0.997 to 1.020 in 3 passes" in words(section(tmp_path, CEILING + passes))


def test_arms_of_different_manner_have_different_labels() -> None:
    labels = [
        Arm(records=[record(rate=1.0, **fields)]).label
        for fields in (
            {}, {"resident": False}, {"resident": False, "num_workers": 2}, {"augment_stream": True},
            {"resident": False, "num_workers": 2, "decode": "workers"}, {"augment_on": "none"}, IN_WORKERS,
            {**IN_WORKERS, "decode": "ahead"}, {**IN_WORKERS, "num_workers": 0},
        )
    ]  # fmt: skip
    assert labels == [
        "fused on the device", "fused on the device, fetched in the training process",
        "fused on the device, fetched in 2 workers", "fused on the device on a second stream",
        "fused on the device, decoded in 2 workers", "no augmentation", "pil in 1 worker, decoding too", "pil in 1 worker",
        "pil in the training process, decoding too",
    ]  # fmt: skip


def test_backends_stand_as_code(tmp_path: Path) -> None:
    rows = [row for block in section(tmp_path, CEILING + FUSED) if isinstance(block, Table) for row in block.rows]
    assert [Code("fused"), " on the device"] in [row[0] for row in rows]

"""Reports say what the records say: numbers recomputed here by hand, lanes kept apart, everything escaped, nothing hidden."""

import csv
import html
import json
import math
import re
import statistics
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image
from scipy import stats

from bench.grid.cases import Case
from bench.records.measurements import Measurement
from bench.records.runs import GALLERY, Run
from bench.report import curves_figure, write_report
from bench.report.accuracy import interval
from bench.report.lanes import LaneTable, lane_tables, ratio
from bench.report.markdown import escape
from bench.report.quantities import rounded, spread
from bench.report.style import BACKEND_LOOKS

CASE = Case(
    suite="recipes", subject="crop_flip", backend="pil", device="cpu", batch_size=256, image_size=32, dtype="float32"
)  # fmt: skip
LANES = {"pil": "per_image", "torchvision_loop": "per_image", "kornia": "per_image"}
LANES |= {"torchvision": "per_batch", "kornia_shared": "per_batch"}
RATES = {
    "pil": [1000.0, 1100.0, 1050.0],
    "torchvision_loop": [500.0, 510.0, 490.0],
    "kornia": [4000.0, 4100.0, 4200.0],
    "torchvision": [90_000.0, 91_000.0, 95_000.0],
    "kornia_shared": [9000.0, 9100.0, 9050.0],
}


def measured(backend: str, rates: list[float], draws: str | None = None, **changes: Any) -> Measurement:
    case = replace(CASE, backend=backend, **changes)
    lane = draws or LANES[backend]
    median = statistics.median(rates)
    return Measurement(case=case, status="ok", draws=lane, images_per_s=median, images_per_s_passes=rates, rounds=30, threads=2)


def all_backends(**changes: Any) -> list[Measurement]:
    return [measured(backend, rates, **changes) for backend, rates in RATES.items()]


def a_run(
    path: Path,
    measurements: list[Measurement] | None = None,
    training: list[dict[str, Any]] | None = None,
    *,
    differs: dict[tuple[str, str], str] | None = None,
    **fields: Any,
) -> Run:
    """``differs`` is put into the plan; without it the plan does not know of differences."""
    measurements = measurements or []
    cases = [
        {"case": {"subject": m.case.subject, "backend": m.case.backend}}
        | ({} if differs is None else {"differs": differs.get((m.case.subject, m.case.backend))})
        for m in measurements
    ]
    values: dict[str, Any] = {"environment": {}, "problems": [], "plan": {"cases": cases}} | fields
    return Run(path=path, name=path.name, measurements=measurements, training=training or [], **values)


def markdown_of(run: Run) -> str:
    """The report's Markdown twin."""
    return (write_report(run).parent / "report.md").read_text()


def trained(kind: str, **fields: Any) -> dict[str, Any]:
    record = {
        "kind": kind,
        "status": "ok",
        "recipe": "crop_flip",
        "backend": "kornia",
        "augment_on": "device",
        "num_workers": 0,
    }
    record |= {"num_workers": 0, "model": "resnet8", "width": 16, "batch_size": 256, "device": "cpu"}
    record |= {"dataset": "shapes", "fingerprint": "f"}
    return record | {"draws": "per_image", "seed": 0, "wait_share": 0.25, "examples_per_s": 300.0} | fields


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown's tables as cells, without the line of dashes."""
    found: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not inside:
                found.append([])
            if not set(line) <= set("|-: "):
                found[-1].append(cells)
        inside = line.startswith("|")
    return found


def cell(text: str, row: str, column: str) -> str:
    """The cell of a row and column of the first table that has both."""
    for table in tables(text):
        names = [name.partition(" (")[0].strip("`") for name in table[0]]
        for cells in table[1:]:
            if cells[0].strip("`") == row and column in names:
                return cells[names.index(column)]
    raise AssertionError(f"no table with {row} and {column}")


# ---- numbers ----------------------------------------------------------------------------------------------------------


def test_cells_hold_median_spread_and_ratio_of_their_lane(tmp_path: Path) -> None:
    """By hand: the median of the passes, half their range over it, and the ratio of medians with its extreme pairs."""
    text = markdown_of(a_run(tmp_path, all_backends(), differs={}))
    assert cell(text, "crop_flip", "torchvision_loop") == "500 ±2.0 %"
    assert cell(text, "crop_flip", "pil") == "1,050 ±4.8 %<br>2.10x (1.96 to 2.24)"
    assert cell(text, "crop_flip", "kornia") == "**4,100** ±2.4 %<br>8.20x (7.84 to 8.57)"
    assert cell(text, "crop_flip", "torchvision") == "**91,000** ±2.7 %"
    assert cell(text, "crop_flip", "kornia_shared") == "9,050 ±0.6 %<br>0.0995x (0.0947 to 0.101)"


def test_no_ratio_crosses_lanes(tmp_path: Path) -> None:
    """Every ratio in the text is one that two backends of one lane give; those across lanes are not among them."""
    text = markdown_of(a_run(tmp_path, all_backends(), differs={}))
    medians = {backend: statistics.median(rates) for backend, rates in RATES.items()}
    within = {rounded(medians[a] / medians[b]) for a in medians for b in medians if LANES[a] == LANES[b]}
    across = {rounded(medians[a] / medians[b]) for a in medians for b in medians if LANES[a] != LANES[b]}
    shown = set(re.findall(r"([\d.,]+)x \(", text))
    assert shown
    assert shown <= within
    assert not shown & (across - within)
    for table in tables(text):
        named = {name.partition(" (")[0].strip("`") for name in table[0]} & set(LANES)
        assert len({LANES[name] for name in named}) <= 1, "a table mixes lanes"


def test_a_named_difference_takes_the_ratio_and_leaves_the_number(tmp_path: Path) -> None:
    differs = {("crop_flip", "kornia"): "no antialias"}
    text = markdown_of(a_run(tmp_path, all_backends(), differs=differs))
    assert cell(text, "crop_flip", "kornia") == "4,100 ±2.4 % ¹"
    assert "¹ no antialias" in text
    assert cell(text, "crop_flip", "pil").startswith("**1,050**"), "the fastest of those that do the op as defined"


def test_a_difference_of_the_baseline_takes_all_ratios_of_its_row(tmp_path: Path) -> None:
    text = markdown_of(a_run(tmp_path, all_backends(), differs={("crop_flip", "torchvision_loop"): "x"}))
    assert "x (" not in cell(text, "crop_flip", "pil")


def test_without_known_differences_there_is_no_ratio(tmp_path: Path) -> None:
    text = markdown_of(a_run(tmp_path, all_backends()))
    assert not re.search(r"[\d.]+x \(", text)
    assert "no ratios are shown" in text


def test_the_mixed_lane_has_no_baseline() -> None:
    cells = [measured(backend, rates, draws="mixed") for backend, rates in RATES.items()]
    (table,) = lane_tables(cells, "recipes")
    assert table.baseline is None
    assert all(ratio(table, "crop_flip", backend, {}) is None for backend in RATES)


def test_one_pass_has_a_ratio_but_no_interval_and_no_winner(tmp_path: Path) -> None:
    once = [measured(backend, rates[:1]) for backend, rates in RATES.items()]
    text = markdown_of(a_run(tmp_path, once, differs={}))
    assert cell(text, "crop_flip", "kornia") == "4,000<br>8.00x"
    assert "the spread between passes is not known" in text


def test_overlapping_passes_have_no_winner(tmp_path: Path) -> None:
    close = [measured("pil", [100.0, 130.0]), measured("kornia", [120.0, 140.0])]
    text = markdown_of(a_run(tmp_path, close, differs={}))
    assert "**" not in cell(text, "crop_flip", "pil") + cell(text, "crop_flip", "kornia")


def test_tables_show_the_usual_size_and_pictures_the_others(tmp_path: Path) -> None:
    """The plan names the usual size first; the others become a line, and never a second row."""
    sizes = [measured("kornia", [100.0 * batch], batch_size=batch) for batch in (256, 32, 1024)]
    text = markdown_of(a_run(tmp_path, sizes, differs={}))
    assert cell(text, "crop_flip", "kornia") == "25,600"
    assert "growth-recipes-cpu-float32-per-image-batch.svg" in text
    assert not (tmp_path / "report" / "figures" / "growth-recipes-cpu-float32-per-image-side.svg").exists()


def test_the_answer_names_the_fastest_of_each_lane(tmp_path: Path) -> None:
    gpu = measured("kornia", [50_000.0, 50_000.0], device="cuda")
    text = markdown_of(a_run(tmp_path, [*all_backends(), gpu], differs={}))
    short = text.partition("## In short")[2].partition("\n## ")[0]
    assert "fastest is `kornia` on cuda, 50,000 images/s (±0.0 %, 2 passes); on cpu `kornia` on cpu, 4,100 images/s" in short
    assert "fastest is `torchvision` on cpu, 91,000 images/s" in short
    assert "slowest `torchvision_loop` on cpu, 500 images/s" in short
    assert "ccuracy" not in short


@pytest.mark.parametrize(
    ("value", "words"),
    [(41_234.0, "41,200"), (0.012345, "0.0123"), (9.999, "10.0"), (999.9, "1,000"), (0.0, "0"), (5.0, "5.00")],
)
def test_numbers_keep_three_digits(value: float, words: str) -> None:
    assert rounded(value) == words


def test_spread_is_half_the_range_over_the_median() -> None:
    assert spread([90.0, 100.0, 120.0]) == "±15 %"
    assert spread([100.0]) == ""


# ---- training ---------------------------------------------------------------------------------------------------------


def test_placements_are_shares_of_the_ceiling(tmp_path: Path) -> None:
    """Medians over rounds by hand: 400 and 300 examples/s, so 75 %; the ceiling is the arm without augmentation."""
    training = [
        trained("throughput", augment_on="none", recipe="none", backend="torchvision", draws="fixed", examples_per_s=e)
        for e in (390.0, 400.0, 410.0)
    ]
    training += [trained("throughput", examples_per_s=e) for e in (290.0, 300.0, 320.0)]
    training += [trained("throughput", backend="pil", augment_on="workers", num_workers=2, examples_per_s=100.0)]
    text = markdown_of(a_run(tmp_path, training=training))
    assert cell(text, "no augmentation", "share of the ceiling") == "the ceiling"
    assert cell(text, "kornia` on the device", "share of the ceiling") == "75 %"
    assert cell(text, "kornia` on the device", "examples/s") == "300 ±5.0 %"
    assert cell(text, "kornia` on the device", "n, rounds") == "3"
    assert cell(text, "pil` in 2 workers", "share of the ceiling") == "25 %"
    assert (tmp_path / "report" / "figures" / "throughput-1-crop-flip.svg").exists()
    assert "fastest is kornia on the device at 75 % of that, 300 examples/s" in text


def test_accuracy_shows_seeds_and_pairs_them(tmp_path: Path) -> None:
    """Seeds 0 and 1: 0.50, 0.54 without and 0.57, 0.59 with: +7 and +5 points, +6.0 in the mean."""
    epochs = [{"epoch": i, "train_loss": 2.0 / i, "train_accuracy": 0.1 * i, "test_accuracy": 0.1 * i} for i in (1, 2)]
    both = (("none", (0.50, 0.54)), ("crop_flip", (0.57, 0.59)))
    training = [
        trained("accuracy", recipe=recipe, seed=seed, test_accuracy=value, train_accuracy=0.6, loss=1.0, epochs=epochs)
        for recipe, values in both
        for seed, value in enumerate(values)
    ]
    text = markdown_of(a_run(tmp_path, training=training))
    assert cell(text, "crop_flip", "test accuracy, mean") == "58.0 %"
    assert cell(text, "crop_flip", "each seed") == "57.0 %, 59.0 %"
    assert cell(text, "crop_flip", "minus baseline, points") == "+6.00"
    assert cell(text, "crop_flip", "n, pairs") == "2"
    assert "2 seeds a recipe: too few for a confidence interval" in text
    assert {path.name for path in (tmp_path / "report" / "figures").iterdir()} == {
        "accuracy-1.svg",
        "pareto-1.svg",
        "curves-1.svg",
    }


def test_intervals_are_students_and_need_three_seeds() -> None:
    values = [0.90, 0.92, 0.91, 0.95]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == f" ±{100 * (high - low) / 2:.1f} points"
    assert interval(values[:2]) == ""


# ---- what is missing or strange ---------------------------------------------------------------------------------------


def test_what_did_not_work_stays_visible(tmp_path: Path) -> None:
    others = [
        Measurement(case=replace(CASE, backend="kornia"), status="failed", draws="per_image", reason="out of memory"),
        Measurement(case=replace(CASE, backend="torchvision_loop"), status="not_run", draws="per_image"),
        Measurement(case=replace(CASE, subject="augmix", backend="kornia"), status="unsupported", reason="no AugMix"),
    ]
    failed = trained("throughput", status="failed", reason="worker died")
    run = a_run(tmp_path, [measured("pil", RATES["pil"]), *others], [failed], problems=["ops.jsonl, line 3 is cut off"])
    text = markdown_of(run)
    assert cell(text, "crop_flip", "kornia") == "failed"
    assert cell(text, "crop_flip", "torchvision_loop") == "not run"
    assert "4 planned cases: 1 measured, 1 unsupported, 1 failed, 1 not run. 1 training record, 1 of them failed." in text
    for words in ("out of memory", "no AugMix", "the run ended before it", "worker died", "ops.jsonl, line 3 is cut off"):
        assert words in text


def nothing_measured() -> list[Measurement]:
    return [Measurement(case=replace(CASE, backend=b), status="failed", draws=lane, reason="x") for b, lane in LANES.items()]


def strange() -> list[Measurement]:
    bad = Measurement(
        case=CASE, status="ok", draws="per_image", images_per_s=math.nan, images_per_s_passes=[math.nan, math.inf]
    )
    none = Measurement(case=replace(CASE, backend="kornia"), status="ok", draws="another lane")
    zero = Measurement(case=replace(CASE, backend="torchvision"), status="ok", images_per_s=0.0, wall_s_median=math.nan)
    return [bad, none, zero]


STRANGE_TRAINING: list[dict[str, Any]] = [
    {"kind": "throughput"},
    {"kind": "accuracy", "epochs": "?"},
    {
        "kind": "accuracy",
        "recipe": None,
        "epochs": [None, {"epoch": math.nan, "test_accuracy": None}],
        "test_accuracy": math.nan,
    },
    trained("throughput", examples_per_s=None, draws=7, num_workers=None, devices=3),
    trained("accuracy", test_accuracy=0.5, epochs=[], wait_share="a lot"),
    {"kind": "of tomorrow"},
]


LAST = ("Files", "What failed, is unsupported or was not run")
AUDIT, METHOD = "Is it the same augmentation?", "How it was measured"


@pytest.mark.parametrize(
    ("measurements", "training", "environment", "shown"),
    [
        ([], [], {}, []),
        (nothing_measured(), [], {}, ["In short", "Recipes", AUDIT, METHOD]),
        ([], [trained("throughput")], {}, ["Training", METHOD]),
        (
            [measured("kornia", [5.0], suite="ops", subject="Invert")],
            [],
            {"cpu": None, "gpus": [None, {}], "commit": "?"},
            ["In short", "Single ops", AUDIT, METHOD],
        ),
        (
            strange(),
            STRANGE_TRAINING,
            {"dataset": "?", "packages": [], "cpu": {"memory_bytes": math.nan}},
            ["In short", "Training", "Recipes", "Accuracy", AUDIT, METHOD],
        ),
    ],
    ids=["empty", "all failed", "only training", "only ops", "strange"],
)
def test_a_report_is_always_whole(
    tmp_path: Path, measurements: Any, training: Any, environment: dict[str, Any], shown: list[str]
) -> None:
    """Sections stand in one order; those of what was not asked for are not there, and named in the last line."""
    text = markdown_of(a_run(tmp_path, measurements, training, environment=environment))
    headings = re.findall(r"^#{1,2} (.*)", text, flags=re.MULTILINE)
    wanted = ["Image augmentation on", *shown, *LAST]
    assert [h for h, start in zip(headings, wanted, strict=True) if not h.startswith(start)] == []
    assert text.splitlines()[-1].startswith("Not measured in this run: ")
    assert not re.search(r"\bnan\b|\binf\b", text)
    with (tmp_path / "measurements.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(measurements)


def test_a_substitute_data_set_is_said_loudly(tmp_path: Path) -> None:
    environment = {"dataset": {"name": "synthetic", "fingerprint": "abc", "fallback": "no network"}}
    text = markdown_of(a_run(tmp_path, all_backends(), environment=environment))
    assert "> [!WARNING]\n> **Not a real data set.** no network" in text.partition("## In short")[0]
    real = {"dataset": {"name": "cifar10", "fingerprint": "abc", "fallback": None}}
    assert "[!WARNING]" not in markdown_of(a_run(tmp_path, all_backends(), environment=real))


def test_the_head_names_machine_data_versions_and_commit(tmp_path: Path) -> None:
    environment = {
        **{"machine": "box", "time": "2026-01-02T03:04:05+00:00", "packages": {"torch": "2.14.1"}, "cpu": {"model": "A CPU"}},
        **{"commit": {"id": "0123456789abcdef", "dirty": True}, "gpus": [{"name": "A GPU", "driver": "570.1"}]},
        "dataset": {"name": "cifar10", "fingerprint": "abc"},
    }
    text = markdown_of(a_run(tmp_path, all_backends(), environment=environment))
    head = text.partition("## In short")[0]
    for words in ("# Image augmentation on box: cpu (A CPU)", "2026-01-02", "torch 2.14.1", "`0123456789ab`"):
        assert words in head
    for words in ("**with uncommitted changes**", "A GPU", "driver 570.1", "cifar10 (fingerprint abc; benchmarks)"):
        assert words in head


# ---- Markdown and pictures --------------------------------------------------------------------------------------------

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NASTY = "<img src=x onerror=alert(1)> | `a` *b* _c_ [d](http://e) ![f](g) &lt; \\ # $h$ ~i~\nj"


def a_gallery(folder: Path) -> dict[str, Any]:
    """One strip, whose every word has markup in it."""
    (folder / GALLERY).parent.mkdir()
    (folder / GALLERY).write_text("{}")
    Image.new("RGBA", (20, 20)).save((folder / GALLERY).parent / "Flip.png")
    cells = {NASTY: {"status": "failed", "reason": NASTY}}
    strip = {"kind": "op", "subject": NASTY, "detail": NASTY, "file": "Flip.png", "cells": cells}
    return {"columns": ["original", NASTY], "cell": 10, "subjects": [strip], "dataset": NASTY, "reference": NASTY}


def test_names_with_markup_are_escaped(tmp_path: Path) -> None:
    """In every place that a record's words reach: tables keep their columns, and no tag, link, image or emphasis arises."""
    case = replace(CASE, subject=NASTY, backend=NASTY, device=NASTY)
    measurements = [
        Measurement(case=case, status="ok", draws="per_image", images_per_s=5.0, images_per_s_passes=[5.0, 6.0]),
        Measurement(case=replace(case, batch_size=1), status="failed", draws="per_image", reason=NASTY),
    ]
    training = [trained("throughput", recipe=NASTY, backend=NASTY), trained("accuracy", recipe=NASTY, test_accuracy=0.5)]
    training += [trained("accuracy", status="failed", reason=NASTY, dataset=NASTY, fallback=NASTY)]
    environment = {"machine": NASTY, "dataset": {"name": NASTY, "fallback": NASTY}, "variables": {NASTY: NASTY}}
    unequal = {"subject": NASTY, "kind": "op", "backend": NASTY, "verdict": "different", "cause": NASTY}
    told = {"audit": {"verdicts": [unequal], "findings": [NASTY]}, "gallery": a_gallery(tmp_path)}
    run = a_run(tmp_path, measurements, training, differs={}, environment=environment, problems=[NASTY], **told)
    text = markdown_of(run)
    tokens = [child for token in PARSER.parse(text) for child in (token, *(token.children or []))]
    made = "".join(token.content for token in tokens if token.type in ("html_inline", "html_block"))
    assert set(re.findall(r"<[^>]*>?", made)) == {"<br>", "<details>", "</details>", "<summary>", "</summary>"}
    assert "alert(1)" not in made
    pictures = [str(token.attrGet("src")) for token in tokens if token.type == "image"]
    drawn = [f"figures/{path.name}" for path in (tmp_path / "report" / "figures").iterdir()]
    assert sorted(pictures) == sorted([*drawn, "../gallery/Flip.png"])
    assert {str(token.attrGet("href")) for token in tokens if token.type == "link_open"} == {
        *("../measurements.csv", "../gallery/gallery.json", "figures/")
    }
    assert not [token for token in tokens if token.type in ("em_open", "s_open")]
    assert all(len(row) == len(table[0]) for table in tables(text) for row in table)


@pytest.mark.parametrize("text", [NASTY, "crop_flip", "__init__", "1. one", "- two", "a < b & c", "&amp;", "me@example.org"])
def test_escaping_keeps_the_words(text: str) -> None:
    """A Markdown parser that is not ours makes one paragraph of plain words from it: those that went in."""
    assert html.unescape(PARSER.render(escape(text))) == f"<p>{' '.join(text.split())}</p>\n"


def test_every_picture_exists_and_has_words(tmp_path: Path) -> None:
    training = [trained("throughput"), trained("accuracy", test_accuracy=0.5, epochs=[{"epoch": 1, "train_loss": 1.0}])]
    text = markdown_of(a_run(tmp_path, all_backends(), training, differs={}))
    pictures = re.findall(r"^!\[((?:[^\]\\]|\\.)*)\]\((.*)\)$", text, flags=re.MULTILINE)
    assert len(pictures) == 5
    for words, path in pictures:
        assert len(words) > 40
        root = ElementTree.parse(tmp_path / "report" / path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert 400 <= float(root.attrib["width"].removesuffix("pt")) * 96 / 72 <= 1200
    assert sorted(path for _, path in pictures) == sorted(
        f"figures/{p.name}" for p in (tmp_path / "report" / "figures").iterdir()
    )


def test_links_lead_to_files(tmp_path: Path) -> None:
    (tmp_path / "training.jsonl").write_text(json.dumps(trained("throughput")) + "\n")
    text = markdown_of(a_run(tmp_path, all_backends()))
    links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", text.partition("## Files")[2])
    assert {"../training.jsonl", "../measurements.csv", "figures/"} <= set(links)
    assert all((tmp_path / "report" / link).exists() for link in links)


def test_backends_look_different() -> None:
    """Markers are unique, and any two colours are apart by more than 60 of the 441 that lie between black and white."""
    colors, markers = zip(*BACKEND_LOOKS.values(), strict=True)
    assert len(set(markers)) == len(markers)
    values = [np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) for color in colors]
    assert all(np.linalg.norm(a - b) > 60 for a, b in combinations(values, 2))


@pytest.mark.parametrize(
    "history",
    [
        [{"epoch": i, "train_loss": 2 / i, "train_accuracy": 0.1 * i, "test_accuracy": 0.09 * i} for i in range(1, 11)],
        [{"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.1, "test_accuracy": 0.1}],
        [{"epoch": 1, "train_loss": math.nan}, {"train_loss": None}],
        [],
    ],
    ids=["ten epochs", "one", "strange", "none"],
)
def test_curves_are_drawn(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    path = curves_figure(history, tmp_path / "new" / "curves.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"


def test_lane_tables_keep_what_was_planned() -> None:
    """Every case of the usual size is in exactly one table of its suite, or named there as elsewhere."""
    cells = [*all_backends(), *all_backends(subject="flip"), measured("pil", [3.0], subject="none", draws="fixed")]
    found: list[LaneTable] = lane_tables(cells, "recipes")
    assert sorted(m.case.id for table in found for m in table.cells.values()) == sorted(m.case.id for m in cells)
    assert [table.lane for table in found] == ["per_image", "per_batch", "fixed"]


def verdict(backend: str, outcome: str, cause: str = "", measured: str = "per_image") -> dict[str, Any]:
    lane = {"declared": "per_image", "measured": measured}
    worst = {"max_error": 0.25, "mean_error": 0.1, "target_error": 0.0}
    return {
        **{"subject": "crop_flip", "kind": "recipe", "backend": backend, "verdict": outcome, "cause": cause},
        **{"lane": lane, "worst": worst},
    }


@pytest.mark.parametrize(
    ("kornia", "ratio_stands"),
    [
        (verdict("kornia", "exact"), True),
        (verdict("kornia", "close", "border handling"), True),
        (verdict("kornia", "different", "additive brightness"), False),
        (verdict("kornia", "unaudited"), False),
        (verdict("kornia", "exact", measured="per_batch"), False),
    ],
    ids=lambda value: f"{value['verdict']}-{value['lane']['measured']}" if isinstance(value, dict) else str(value),
)
def test_a_ratio_needs_the_audits_leave(tmp_path: Path, kornia: dict[str, Any], ratio_stands: bool) -> None:
    cells = [measured("kornia", [10.0, 10.0], draws="per_image"), measured("torchvision_loop", [4.0, 4.0], draws="per_image")]
    audit = {"verdicts": [kornia, verdict("torchvision_loop", "exact")], "findings": []}
    run = replace(a_run(tmp_path, cells, []), audit=audit)
    text = markdown_of(run)
    assert ("2.50x" in text) == ratio_stands
    if kornia["cause"]:
        assert kornia["cause"] in text
    assert f"{kornia['verdict']}" in text

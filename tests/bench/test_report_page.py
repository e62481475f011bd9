"""Pages of a report: one snapshot a renderer, names that are markup, and what the first screen says.

The snapshots are rewritten with ``AUGMARK_SNAPSHOTS=write``: read the diff before it is committed.
"""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from bench.records import load_run, merge
from bench.report import write_curves, write_report
from bench.report.blocks import (
    BREAK,
    Answer,
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Heading,
    Paragraph,
    Quiet,
    Section,
    Strong,
    Table,
    Warning,
)
from bench.report.facts.accuracy import pareto_front
from bench.report.figures import Line, Look, Mark, Row, Scale, backend_look, bars, lines
from bench.report.page import build_document
from bench.report.render import html_inline, markdown_inline, plain, render_html, render_markdown
from tests.bench.report_runs import ODD, store_full_run
from tests.bench.stored import CASE, SAMPLES, failed, store, trained

SNAPSHOTS = Path(__file__).parent / "snapshots"
NAMES = [
    *("a|b", "<b>x</b> &amp;", "[x](y)", "`tick`", "*bold* _it_", "~~no~~", "# 1. -", "http://a.b", "a@b.c", "a_b_c", "$x$"),
    *("\\n", ODD),
]


def sample() -> Document:
    """Return a document with every kind of block."""
    figure = bars("figure-1", "A figure: one bar.", [Row("flip", [Mark(Look("ink"), 2.0, 1.0, 3.0, [1.5])])], {}, "images/s")
    table = Table(
        ["recipe", [Code("fused"), " (baseline)"]],
        [[[Code("a|b")], [Strong("1"), Quiet(" ±2 %"), BREAK, "3x"]]],
        frozenset({1}),
    )
    blocks: list[Block] = [
        Heading(["Recipe ", Code("flip")]),
        Paragraph("Words <here>."),
        Warning(["Red ", Strong("block")]),
        Bullets(["one", "two"]),
    ]
    folded = Details("Folded & more", [Paragraph("Inside.")])
    return Document(
        title="A [x] & <report>",
        warnings=[Warning([Strong("Not real."), " Shapes."])],
        sections=[Section(title="Speed", blocks=[*blocks, table, figure, folded])],
        answers=[Answer("Where?", "On the device", ["With ", Code("flip"), "."])],
        basis=[Paragraph("Medians of the rounds."), Table(["", ""], [["Machine", "here"], ["Run", [Code("run")]]])],
    )


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_snapshot(suffix: str, tmp_path: Path) -> None:
    html = re.sub(r"<style>.*?</style>", "", render_html(sample(), tmp_path), flags=re.S)
    text = re.sub(r"\n\s*\n+", "\n", html) if suffix == "html" else render_markdown(sample())
    path = SNAPSHOTS / f"report.{suffix}"
    if os.environ.get("AUGMARK_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


class Words(HTMLParser):
    """Collect the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def words_of(html: str) -> str:
    parser = Words()
    parser.feed(html)
    return parser.text.strip()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [str, Code, Strong])
def test_names_come_out_verbatim(name: str, kind: type[str]) -> None:
    """In HTML, and in Markdown as GitHub's parser family reads it: alone and in a table's cell."""
    assert (words_of(html_inline([kind(name)])), plain([kind(name)])) == (name, name)
    text = markdown_inline([kind(name)])
    parser = MarkdownIt("gfm-like", {"linkify": False})
    assert words_of(parser.render(f"| {text} |\n| --- |\n| {text} |\n")).split("\n")[0] == name
    assert "<a " not in parser.render(text)
    if kind is not Code:
        assert words_of(parser.render(text)) == name


# ---- figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("ends", [(1.0, 9.0), (0.2, 0.3), (30.0, 5e6), (7.0, 7.0)])
def test_scales_show_all_values_with_a_few_round_ticks(log: bool, ends: tuple[float, float]) -> None:
    scale = Scale.fit(ends, 100, 700, log=log)
    assert 100 <= scale(ends[0]) <= scale(ends[1]) <= 700
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8
    assert all(scale.low <= tick <= scale.high and float(f"{tick:.2g}") == pytest.approx(tick) for tick in ticks)


def test_figures_are_well_formed_whatever_their_labels(tmp_path: Path) -> None:
    line = Line(ODD, backend_look("fused"), [(1, 2), (2, 4)], [(1, 1, 3)])
    for figure in (
        lines("a", f"{ODD}: x", {ODD: [line, line], "two": [line]}, "x", "y", log="xy"),
        bars("b", "B", [Row(ODD, (), {ODD: 1.0}, {ODD: 0.5}, "note")], {ODD: Look("s0")}, "ms"),
    ):
        root = ElementTree.fromstring(figure.svg)
        assert ODD in [element.text for element in root.iter() if element.text]
    path = write_curves(
        [{"epoch": 1, "train_loss": 2.0, "train_accuracy": None, "test_accuracy": 0.4}], tmp_path / "curves.svg"
    )
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert pareto_front([]) == []


# ---- whole runs -----------------------------------------------------------------------------------------------------------


def answers_of(folder: Path) -> dict[str, tuple[str, str]]:
    document = build_document(load_run(folder), folder / "report")
    return {answer.question: (answer.answer, plain(answer.evidence)) for answer in document.answers}


def test_the_first_screen_answers_what_was_measured(tmp_path: Path) -> None:
    answers = answers_of(store_full_run(tmp_path / "run"))
    first_words = "Where With What How How Which Does Does Which How"
    assert " ".join(question.split()[0] for question in answers) == first_words
    assert answers["Where should augmentation run?"][0] == "On the device (cpu), a batch at a time"
    assert answers["With which backend?"][0] == "fused"
    assert answers["What does it cost?"][0] == "5 % of the training speed"  # 1 - 381 / 401
    assert "reaches 381 examples/s (±0.3 %, 3 rounds) by fused" in answers["Where should augmentation run?"][1]
    assert answers["How should photographs be fed?"][0].startswith("Undecided: kornia on the device, decoded by a in ")
    growth = "fused: 1.32 times the images/s at batch 1,024 as at 256"  # 4 ** 0.2
    assert answers["How does speed change with size?"][0] == growth


def test_rounds_that_overlap_are_undecided(tmp_path: Path) -> None:
    shared = {"augment_on": "device", "recipe": "flip"}
    arms: list[tuple[tuple[float, float], dict[str, Any]]] = [
        *(((9.0, 10.0), {"backend": "kornia", **shared}), ((9.5, 11.0), {"backend": "fused", **shared})),
        ((10.0, 11.0), {"recipe": "none", "augment_on": "frozen"}),
        ((9.0, 10.0), {"recipe": "flip", "augment_on": "workers", "num_workers": 2}),
    ]
    records = [trained("throughput", round=i, examples_per_s=s, **arm) for rates, arm in arms for i, s in enumerate(rates)]
    answers = answers_of(store(tmp_path / "run", {}, records=records))
    where = "Undecided: on the device (cpu), a batch at a time, or in loader workers"
    assert answers["Where should augmentation run?"][0] == where
    assert answers["With which backend?"][0] == "Undecided: fused or kornia"
    assert answers["What does it cost?"][0] == "Undecided: perhaps 2 % of the training speed"  # 1 - 10.25 / 10.5


def test_the_first_screen_warns(tmp_path: Path) -> None:
    """A note, fused on tensors, a ceiling that the host bounds, drawn shapes, and what could not be read."""
    records = [trained("throughput", backend="fused", implementation="tensors", fallback="no network")]
    records.append(trained("throughput", augment_on="frozen", recipe="none", gpu_busy=0.3, model_flops_utilisation=0.1))
    folder = store(tmp_path / "run", {}, records=records, note="its ceiling is bound by the host")
    with (folder / "records.jsonl").open("a") as file:
        file.write("no record\n")
    warnings = [plain(warning.text) for warning in build_document(load_run(folder), folder).warnings]
    assert [text.partition(":")[0].partition(".")[0] for text in warnings] == [
        "Note on run", "fused fell back to plain tensors on cpu",
        "The ceiling (training on one prepared batch) on cpu is bound by the host",
        "Not a real data set", "This report is not of the whole run",
    ]  # fmt: skip
    assert "bound by the host" in warnings[0]


def test_nothing_vanishes_without_a_word(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", {CASE: "no memory"}, records=[failed(trained("accuracy"), "diverged")])
    write_report(load_run(folder))
    text = (folder / "report" / "report.md").read_text()
    assert "2 cases: 0 measured, 0 unsupported, 2 failed, 0 not run" in text
    assert "no memory" in text
    assert "Not known: it failed.** The only accuracy record is a failure: diverged." in text
    assert re.search(r"Not measured: .*; feeding photographs", text)


def test_a_report_is_one_page_its_twin_and_its_figures(tmp_path: Path) -> None:
    folder = store_full_run(tmp_path / "run")
    (folder / "report" / "figures").mkdir(parents=True)
    (folder / "report" / "figures" / "stale.svg").write_text("")
    page = write_report(load_run(folder))
    html, twin = page.read_text(), (page.parent / "report.md").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|<script""", html)
    figures = {path.name for path in (page.parent / "figures").iterdir()}
    assert figures == set(re.findall(r"\(figures/([^)]+)\)", twin))
    assert "stale.svg" not in figures
    assert len(figures) >= 10
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert "d&lt;l&gt; &amp; [x]" in html
    assert html.count("data:image/png;base64,") == 1
    elsewhere = write_report(load_run(folder), tmp_path / "elsewhere").read_text()
    assert elsewhere.count("data:image/png;base64,") == 1, "pictures of a run are found from any folder"


def test_several_runs_become_one_report(tmp_path: Path) -> None:
    """Machines stand apart: each device has its own tables, and every run a row."""
    runs = [load_run(store(tmp_path / name, {CASE: SAMPLES}, machine=name)) for name in ("a", "b")]
    page = write_report(merge(runs, tmp_path / "merged"))
    twin = (page.parent / "report.md").read_text()
    assert "## The 2 runs in this report" in twin
    assert "### Recipes on cpu of a" in twin
    assert "### Recipes on cpu of b" in twin


def test_an_empty_or_broken_run_has_a_report(tmp_path: Path) -> None:
    folder = store(tmp_path / "run", {})
    assert answers_of(folder)["What was measured?"][0] == "Not known from this run"
    (folder / "environment.json").write_text("{")
    assert write_report(load_run(folder)).exists()

"""The page: parsed by a parser that is not ours, held against the records and against its Markdown twin."""

import base64
import hashlib
import json
import re
import statistics
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from bench.grid.cases import Case
from bench.records.measurements import Measurement
from bench.records.runs import GALLERY, Run
from bench.report import write_report
from bench.report.style import BACKEND_LOOKS, INK, PAPER, SERIES, THEME

VOID = {"meta", "link", "br", "img", "input", "wbr", "hr"}
CASE = Case(
    suite="recipes", subject="crop_flip", backend="pil", device="cpu", batch_size=256, image_size=32, dtype="float32"
)  # fmt: skip
RATES = {"pil": [1000.0, 1100.0, 1050.0], "torchvision_loop": [500.0, 510.0, 490.0], "kornia": [4000.0, 4100.0, 4200.0]}
NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)> \"'&amp; </title></svg>"


@dataclass
class Element:
    """A tag of a page, what is in it, and the words directly in it."""

    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(
            child if isinstance(child, str) else "\n" if child.tag == "br" else child.text for child in self.children
        )

    def all(self, *tags: str) -> "list[Element]":
        found = [self] if self.tag in tags else []
        return found + [one for child in self.children if isinstance(child, Element) for one in child.all(*tags)]

    def every(self) -> "list[Element]":
        return [self, *(one for child in self.children if isinstance(child, Element) for one in child.every())]


class Tree(HTMLParser):
    """Fails on a tag that is closed without being open, or left open."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(page)
        self.close()
        assert [one.tag for one in self._open] == [""], "tags are left open"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attributes})
        assert len(element.attributes) == len(attributes), "an attribute twice"
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def measured(backend: str, rates: list[float], **changes: Any) -> Measurement:
    case = replace(CASE, backend=backend, **changes)
    rate = statistics.median(rates)
    return Measurement(case=case, status="ok", draws="per_image", images_per_s=rate, images_per_s_passes=rates, rounds=30)


def trained(augment_on: str, backend: str, speeds: list[float], **fields: Any) -> list[dict[str, Any]]:
    setting: dict[str, Any] = {"model": "resnet8", "width": 16, "batch_size": 256, "device": "cpu", "dataset": "shapes"}
    recipe = "none" if augment_on == "none" else "crop_flip"
    manner: dict[str, Any] = {"kind": "throughput", "status": "ok", "recipe": recipe, "backend": backend}
    manner |= {"augment_on": augment_on, "draws": "fixed" if augment_on == "none" else "per_image", "num_workers": 0}
    return [{**setting, **manner, "examples_per_s": speed, "wait_share": 0.1, **fields} for speed in speeds]


def a_run(path: Path, measurements: list[Measurement] | None = None, **fields: Any) -> Run:
    measurements = [measured(*pair) for pair in RATES.items()] if measurements is None else measurements
    cases = [{"case": {"subject": m.case.subject, "backend": m.case.backend}, "differs": None} for m in measurements]
    values: dict[str, Any] = {"environment": {"machine": "box"}, "training": [], "problems": [], "plan": {"cases": cases}}
    return Run(path=path, name=path.name, measurements=measurements, **(values | fields))


def nasty_run(path: Path) -> Run:
    """Markup in every name that a record can hold."""
    case = replace(CASE, subject=NASTY, backend=NASTY, device=NASTY)
    cells = [
        Measurement(case=case, status="ok", draws="per_image", images_per_s=5.0, images_per_s_passes=[5.0, 6.0]),
        Measurement(case=replace(case, batch_size=1), status="failed", draws="per_image", reason=NASTY),
    ]
    records = [*trained("none", NASTY, [9.0]), *trained("device", NASTY, [8.0], recipe=NASTY, device=NASTY, dataset=NASTY)]
    records += [{"kind": "accuracy", "status": "failed", "reason": NASTY, "dataset": NASTY, "fallback": NASTY}]
    verdict = {"subject": NASTY, "kind": "op", "backend": NASTY, "verdict": "different", "cause": NASTY}
    environment = {"machine": NASTY, "dataset": {"name": NASTY, "fallback": NASTY}, "variables": {NASTY: NASTY}, "time": NASTY}
    audit = {"verdicts": [verdict], "findings": [NASTY]}
    return a_run(path, cells, training=records, environment=environment, problems=[NASTY], audit=audit, gallery=a_gallery(path))


def a_gallery(path: Path) -> dict[str, Any]:
    """Two strips of which one has no picture."""
    (path / GALLERY).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (20, 20), (255, 0, 0, 255)).save((path / GALLERY).parent / "Flip.png")
    here: dict[str, Any] = {"kind": "op", "subject": NASTY, "detail": NASTY, "file": "Flip.png"}
    here |= {"cells": {NASTY: {"status": "failed", "reason": NASTY}}}
    there = {"kind": "op", "subject": "Gone", "file": "../../Gone.png", "cells": None}
    return {"columns": ["original", NASTY], "cell": 10, "subjects": [here, there, None], "dataset": NASTY}


def page_of(run: Run) -> Element:
    return Tree(write_report(run).read_text(encoding="utf-8")).root


def lines(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text).strip()


def tables(root: Element) -> list[list[list[str]]]:
    return [[[lines(c.text) for c in row.all("th", "td")] for row in table.all("tr")] for table in root.all("table")]


# ---- the page as a document -------------------------------------------------------------------------------------------


RUNS = {
    "whole": lambda path: a_run(path, training=[*trained("none", "pil", [9.0, 8.0]), *trained("device", "kornia", [7.0, 6.0])]),
    "empty": lambda path: a_run(path, [], environment={}, plan={}),
    "all failed": lambda path: a_run(path, [Measurement(case=CASE, status="failed", draws="per_image", reason="x")]),
    "sizes": lambda path: a_run(path, [measured("kornia", [float(size)] * 2, batch_size=size) for size in (256, 32, 64)]),
    "nasty": nasty_run,
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_page_is_a_whole_document(tmp_path: Path, kind: str) -> None:
    """Balanced tags, ids once each, every reference within the page to an id that is there, no heading's level skipped."""
    root = page_of(RUNS[kind](tmp_path))
    elements = root.every()
    ids = Counter(one.attributes["id"] for one in elements if "id" in one.attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    inside = [value for one in elements for name, value in one.attributes.items() if name in ("href", "xlink:href")]
    assert all(value[1:] in ids for value in inside if value.startswith("#"))
    named = [one.attributes[n] for one in elements for n in ("aria-labelledby", "aria-describedby") if n in one.attributes]
    assert all(name in ids for name in named)
    levels = [int(one.tag[1]) for one in root.all("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    regions = [one.attributes["aria-label"] for one in elements if one.attributes.get("role") == "region"]
    assert len(set(regions)) == len(regions)


@pytest.mark.parametrize("kind", RUNS)
def test_nothing_is_fetched(tmp_path: Path, kind: str) -> None:
    """Resources are data; links are relative; the policy lets in no network, and no script but the one that is there."""
    root = page_of(RUNS[kind](tmp_path))
    assert all(one.attributes["src"].startswith("data:") for one in root.every() if "src" in one.attributes)
    assert all(one.attributes["href"] == "data:," for one in root.all("link"))
    assert not [one for one in root.all("a") if re.match(r"[a-z]+:|//", one.attributes["href"], re.IGNORECASE)]
    assert not root.all("iframe", "object", "embed", "base", "form")
    (style,) = root.all("style")
    assert not re.search(r"@import|url\(", style.text)
    (script,) = root.all("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    (policy,) = (one.attributes["content"] for one in root.all("meta") if "http-equiv" in one.attributes)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_names_with_markup_are_words(tmp_path: Path) -> None:
    root = page_of(nasty_run(tmp_path))
    assert len(root.all("script")) == 1
    assert [one.attributes["src"][:15] for one in root.all("img")] == ["data:image/png;"]
    assert not [one for one in root.every() if any(name.startswith("on") for name in one.attributes)]
    shown = " ".join(NASTY.split())
    assert shown in " ".join(root.all("title")[0].text.split())
    assert sum(shown in " ".join(one.text.split()) for one in root.all("td", "th", "dd", "li", "p", "figcaption")) > 12


def test_the_page_and_its_twin_say_the_same(tmp_path: Path) -> None:
    """Every cell of every table, the Markdown read by a parser that is not ours; the facts are a table there."""
    training = [*trained("none", "pil", [400.0, 410.0]), *trained("device", "kornia", [300.0, 310.0])]
    root = page_of(a_run(tmp_path, training=training))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    twin = Tree(MarkdownIt("commonmark").enable("table").render(text)).root
    facts, *others = tables(twin)
    assert others == tables(root)
    assert len(others) >= 2
    names = [lines(one.text) for one in root.all("dt")]
    assert facts[1:] == [[name, lines(one.text)] for name, one in zip(names, root.all("dd"), strict=True)]
    headings = [[lines(one.text) for one in tree.all("h1", "h2", "h3")] for tree in (twin, root)]
    assert headings[0] == headings[1]


# ---- numbers ----------------------------------------------------------------------------------------------------------


def test_cells_hold_the_records_numbers(tmp_path: Path) -> None:
    """By hand: medians, half the range over it, the ratio of medians with its extreme pairs, the clear winner in bold."""
    root = page_of(a_run(tmp_path))
    (table,) = (one for one in root.all("table") if "crop_flip" in one.text and "kornia" in one.text)
    header, row = table.all("tr")
    names = [one.text for one in header.all("th")]
    cells = dict(zip(names, row.all("th", "td"), strict=True))
    assert cells["torchvision_loop (baseline)"].text == "500 ±2.0 %"
    assert cells["pil"].text == "1,050 ±4.8 %\n2.10x (1.96 to 2.24)"
    assert cells["kornia"].text == "4,100 ±2.4 %\n8.20x (7.84 to 8.57)"
    assert [one.text for one in row.all("strong")] == ["4,100"]
    assert all(one.attributes["scope"] == "col" for one in header.all("th"))
    assert [one.attributes.get("scope") for one in row.all("th")] == ["row"]
    assert all(cells[name].attributes.get("class") == "number" for name in ("pil", "kornia"))


# ---- pictures ---------------------------------------------------------------------------------------------------------


def test_figures_follow_the_theme_and_have_words(tmp_path: Path) -> None:
    """Inside the page no ink or paper is a fixed colour, and each figure is named and described."""
    page = write_report(RUNS["sizes"](tmp_path)).read_text(encoding="utf-8")
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == len(list((tmp_path / "report" / "figures").glob("*.svg"))) == 2
    for file in (tmp_path / "report" / "figures").glob("*.svg"):
        text = file.read_text()
        assert text.count("'DejaVu Sans', sans-serif") == text.count("<text "), "else a browser may take a font with serifs"
    for figure in figures:
        (svg,) = Tree(figure).root.all("svg")
        assert svg.attributes["role"] == "img"
        texts = {one.attributes.get("id"): one.text for one in svg.all("title", "desc")}
        assert len(texts[svg.attributes["aria-describedby"]]) > 60
        assert texts[svg.attributes["aria-describedby"]].startswith(texts[svg.attributes["aria-labelledby"]])
        fixed = {color for color in re.findall(r"#[0-9a-f]{6}\b", figure.lower()) if not color.startswith("#figure")}
        assert not fixed & set(THEME)
        assert all("var(--sans)" in one.attributes["style"] for one in svg.all("text"))
        used = set(re.findall(r"var\((--[a-z0-9]+)\)", figure)) - {"--sans"}
        assert used
        assert all(f"{name}:light-dark(" in page for name in used)


def test_colours_are_apart_on_light_and_on_dark() -> None:
    """Any two backends by more than 60 of the 441 between black and white, and each 3 to 1 or nearly against its paper."""

    def rgb(color: str) -> np.ndarray:
        return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])

    def luminance(color: str) -> float:
        share = rgb(color) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    looks = [color.lower() for color, _ in BACKEND_LOOKS.values()]
    assert set(THEME) >= {*looks, *(color.lower() for color in SERIES)}
    for palette, paper in ((looks, PAPER), ([THEME[color] for color in looks], THEME[PAPER])):
        assert all(np.linalg.norm(rgb(a) - rgb(b)) > 60 for a, b in combinations(palette, 2))
        for color in palette:  # Okabe and Ito's yellow and sky blue have 2.2 on white; markers tell what colour does not
            light, dark = sorted((luminance(color), luminance(paper)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 2.1
    light, dark = luminance(THEME[INK]), luminance(THEME[PAPER])
    assert (light + 0.05) / (dark + 0.05) > 7


def test_the_gallery_is_part_of_the_page(tmp_path: Path) -> None:
    """The picture's bytes, with words for it; a strip whose file is not there, or lies elsewhere, is left out."""
    root = page_of(nasty_run(tmp_path))
    (picture,) = root.all("img")
    data = base64.b64decode(picture.attributes["src"].partition(",")[2])
    assert data == ((tmp_path / GALLERY).parent / "Flip.png").read_bytes()
    assert len(picture.attributes["alt"]) > 40
    assert "Gone" not in root.text


def test_many_machines_have_all_tables_and_some_figures(tmp_path: Path) -> None:
    """Twenty places in one report: a table each, and no more figures than a reader, or ten seconds, can bear."""
    places = [f"cpu of host{index}" for index in range(20)]
    cells = [measured(*pair, device=place, batch_size=size) for place in places for pair in RATES.items() for size in (256, 32)]
    root = page_of(a_run(tmp_path, cells))
    headings = [one.text for one in root.all("h3")]
    assert all(f"Recipes on cpu of host{i}: a draw for each image" in headings for i in range(20))
    assert len(root.all("svg")) == 16
    assert "12 more figures are not drawn" in root.text


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    """A figure of cases that are no longer there goes; what the run itself holds stays."""
    (tmp_path / "training.jsonl").write_text(json.dumps({"kind": "x"}))
    write_report(RUNS["sizes"](tmp_path))
    write_report(a_run(tmp_path))
    assert [path.name for path in (tmp_path / "report" / "figures").iterdir()] == ["recipes-cpu-float32-per-image.svg"]
    assert (tmp_path / "training.jsonl").exists()

"""What each op and recipe looks like on each backend, from the pictures that the run left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.runs import GALLERY
from bench.report.blocks import Block, Code, Details, Gallery, Heading, Paragraph, Strip
from bench.report.context import Context
from bench.report.quantities import UNKNOWN, listed, number, rounded, word

SHOWN = {"op": "Ops", "recipe": "Recipes"}


def gallery_section(context: Context) -> list[Block]:
    """A strip an op and recipe; nothing where none was drawn."""
    told = context.run.gallery
    columns, cell = told.get("columns"), number(told, "cell")
    strips = {kind: [strip for one in _subjects(told, kind) if (strip := _strip(context, one))] for kind in SHOWN}
    if not isinstance(columns, list) or not cell or not any(strips.values()):
        return []
    names = [str(name) for name in columns]
    blocks: list[Block] = [Heading(text="What each op looks like"), Paragraph(_legend(told))]
    for kind, title in SHOWN.items():
        if strips[kind]:
            inside = Gallery(columns=names, cell=int(cell), strips=strips[kind])
            blocks.append(Details(summary=f"{title}: {len(strips[kind])} strips", blocks=[inside]))
    return blocks


def _subjects(told: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    found = told.get("subjects")
    return [one for one in found if isinstance(one, dict) and one.get("kind") == kind] if isinstance(found, list) else []


def _legend(told: Mapping[str, Any]) -> list[str | Code]:
    side = word(told, "side")
    return [
        f"One image of {word(told, 'dataset')}, {side} x {side} pixels, normalisation undone. Ops stand in a setting without "
        f"randomness where they have one: below each result its difference from ",
        Code(word(told, "reference")),
        f", {word(told, 'enhanced')} times as bright as it is (black: the same), and the largest and mean difference in 1/255. "
        "Where parameters are drawn, each backend draws its own, so no difference is shown.",
    ]


def _strip(context: Context, one: Mapping[str, Any]) -> Strip | None:
    """None where its picture is not there."""
    name = one.get("file")
    path = (context.run.path / GALLERY).parent / Path(str(name)).name
    if not isinstance(name, str) or not path.is_file():
        return None
    found = one.get("cells")
    cells = {str(key): cell for key, cell in found.items() if isinstance(cell, dict)} if isinstance(found, dict) else {}
    notes = ["", *(_note(cell) for cell in cells.values())]
    words = [f"{backend} {note}" for backend, note in zip(cells, notes[1:], strict=True) if note]
    means = f" Differences: {listed(words, 10)}." if words else ""
    alternative = f"{word(one, 'subject')}, {word(one, 'detail')}: the original and the result of {listed(cells)}.{means}"
    return Strip(
        title=word(one, "subject"),
        detail=word(one, "detail", ""),
        path=Path(context.beside(path)),
        notes=notes,
        alternative=alternative,
    )


def _note(cell: Mapping[str, Any]) -> str:
    if cell.get("status") != "ok":
        return word(cell, "reason", UNKNOWN)[:80]
    most, mean = number(cell, "max_error"), number(cell, "mean_error")
    if most is None or mean is None:
        return ""
    if most == 0:
        return "the same"
    return f"max {most:.0f}, mean {'< 0.01' if mean < 0.01 else rounded(mean, 2)}"

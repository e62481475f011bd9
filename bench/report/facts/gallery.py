"""Index of a run's pictures: ``gallery/gallery.json`` beside one PNG an op or recipe."""

from pathlib import Path

import msgspec

from bench.records import Run

INDEX = Path("gallery") / "gallery.json"


class Picture(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A strip of one op or recipe: the result of each backend above its difference from the reference."""

    subject: str
    kind: str
    detail: str
    file: str
    errors: dict[str, tuple[float, float]] = {}
    """Largest and mean difference from the reference by backend, in units of 1/255."""
    reasons: dict[str, str] = {}
    """Reason of each backend without a result."""


class Gallery(msgspec.Struct, frozen=True, kw_only=True):
    """Strips of a run; a strip's columns are the original and the backends."""

    dataset: str
    side: int
    """Pixels."""
    cell: int
    """Width of a column in the picture, pixels."""
    seed: int
    reference: str
    enhanced: int
    """Factor by which differences are brightened."""
    backends: tuple[str, ...]
    pictures: tuple[Picture, ...]
    results: int = 0
    """Rows of random results at the bottom of a picture."""

    def folder(self, run: Run) -> Path:
        """Return the folder of the pictures."""
        return (run.path / INDEX).parent


def load_gallery(run: Run) -> Gallery | None:
    """Return a run's gallery without pictures that are gone; None if there is none that can be read."""
    try:
        gallery = msgspec.json.decode((run.path / INDEX).read_bytes(), type=Gallery)
    except (OSError, msgspec.DecodeError):
        return None
    pictures = tuple(picture for picture in gallery.pictures if (gallery.folder(run) / picture.file).is_file())
    return msgspec.structs.replace(gallery, pictures=pictures) if pictures else None

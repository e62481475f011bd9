"""What an export holds: the formats there are, and the columns of its rows. Nothing is imported here, so --help is quick."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["csv", "json", "parquet", "github-action-benchmark", "bencher"]


@dataclass(frozen=True)
class Column:
    """A field of an exported row."""

    name: str
    type: Literal["text", "integer", "number"]
    about: str


COLUMNS = (
    Column("run", "text", "name of the run; several, with commas, where their passes were joined"),
    Column("kind", "text", "ops, recipes, or the kind of training record"),
    Column("name", "text", "the case, under a name that stays the same from run to run"),
    Column("subject", "text", "op or recipe; of decoding, the decoder"),
    Column("backend", "text", "what did the augmentation"),
    Column("device", "text", "where, as torch names it; 'cuda of PLACE' where runs of several machines were exported together"),
    Column("batch_size", "integer", "images"),
    Column("image_size", "integer", "height of the input, pixels, and its width where image_width is empty"),
    Column("image_width", "integer", "width of the input, pixels, where it is not square"),
    Column("dtype", "text", "of the result, or the precision of training"),
    Column("draws", "text", "the lane: per_image, per_batch, mixed or fixed; compare within one only"),
    Column("status", "text", "ok, unsupported, failed or not_run; only ok rows have a value"),
    Column("reason", "text", "why not ok"),
    Column("quantity", "text", "what was measured"),
    Column("unit", "text", "of value, low and high; 1 is a share of one"),
    Column("better", "text", "more, less or neither"),
    Column("statistic", "text", "what value is of the n observations: median, mean, or single"),
    Column("value", "number", "the measured number"),
    Column("low", "number", "lower end of what interval names"),
    Column("high", "number", "upper end of what interval names"),
    Column("interval", "text", "what low and high span, such as 'least to most of the passes'"),
    Column("n", "integer", "how many observations value rests on: passes, calls, rounds or seeds"),
)

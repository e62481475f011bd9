"""Training records as cases: one way to train, with its rounds or seeds, whatever the kind of the record. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.report.arms import MANNER, SETTING
from bench.report.quantities import number

Record = Mapping[str, Any]
Better = Literal["more", "less", "neither"]


@dataclass(frozen=True)
class Quantity:
    """A measured field of a record, its unit ("1": a share of one), and which way is better."""

    name: str
    unit: str
    better: Better = "neither"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """``repeated`` is the field that tells repetitions of a case apart; the first of ``quantities`` is what it is about.

    ``identity`` tells two ways to train apart. Draws are not among it: recipe and backend decide them, and records of failures
    lack them.
    """

    repeated: Literal["round", "seed"]
    quantities: tuple[Quantity, ...]
    identity: tuple[str, ...]


TRAINED = (*MANNER, *SETTING, "num_epochs", "max_train")
TUNED = (
    *("mode", "model", "width", "init", "recipe", "backend", "augment_on", "num_workers", "image_size", "num_epochs"),
    *("batch_size", "learning_rate", "head_rate", "momentum", "decay_every", "max_train", "max_test", "dataset"),
    *("fingerprint", "device", "keep_statistics", "init_digest"),
)
DECODED = ("decoder", "image_size", "num_workers", "quality", "dataset", "fingerprint", "device")
SPEED = (Quantity("examples_per_s", "examples/s", "more"), Quantity("wait_share", "1", "less"))
SCORE = (Quantity("test_accuracy", "1", "more"), Quantity("train_accuracy", "1"), Quantity("loss", "nats"), SPEED[0])
MEMORY = Quantity("peak_bytes", "bytes", "less")
WITHOUT_WAIT = Quantity("examples_per_s_without_wait", "examples/s", "more")
ENERGY = Quantity("energy_j_per_1000_examples", "J", "less")
UTILISATION = Quantity("model_flops_utilisation", "1", "more")
TIMES = (
    Quantity("seconds_to_target", "s", "less"),
    Quantity("train_s", "s", "less"),
    Quantity("evaluation_s", "s", "less"),
    Quantity("warm_up_s", "s", "less"),
)
DECODING = (
    Quantity("images_per_s", "images/s", "more"),
    Quantity("mb_per_s", "MB/s", "more"),
    Quantity("megapixels_per_s", "megapixels/s", "more"),
)
KINDS: Mapping[str, Kind] = {
    "throughput": Kind(repeated="round", quantities=(*SPEED, WITHOUT_WAIT, MEMORY, ENERGY, UTILISATION), identity=TRAINED),
    "feed": Kind(repeated="round", quantities=SPEED[:1], identity=TRAINED),
    "scaling": Kind(repeated="round", quantities=SPEED, identity=(*TRAINED, "processes", "scaling", "parallel")),
    "overhead": Kind(repeated="round", quantities=(Quantity("step_over_bare", "1", "less"),), identity=TRAINED),
    "accuracy": Kind(repeated="seed", quantities=(*SCORE, MEMORY, *TIMES), identity=TRAINED),
    "finetune": Kind(repeated="seed", quantities=(*SCORE, MEMORY), identity=TUNED),
    "photographs": Kind(repeated="round", quantities=SPEED, identity=TUNED),
    "decoding": Kind(repeated="round", quantities=DECODING, identity=DECODED),
}


def identity(record: Record) -> tuple[str, ...]:
    """What a repetition of the same has in common with this record of a known kind."""
    kind = str(record.get("kind"))
    return (kind, *(repr(record.get(name)) for name in KINDS[kind].identity))


def left_failed(training: Sequence[Record]) -> list[Record]:
    """The failures that nothing has made good: no record has the result of the same repetition of the same case.

    A failure that does not tell its repetition is made good by any; one of an unknown kind stays.
    """
    good: set[tuple[str, ...]] = set()
    for record in training:
        if record.get("status", "ok") == "ok" and str(record.get("kind")) in KINDS:
            good |= {_repetition(record), (*identity(record), repr(None))}
    failed = (record for record in training if record.get("status", "ok") not in ("ok", "unsupported"))
    return [record for record in failed if str(record.get("kind")) not in KINDS or _repetition(record) not in good]


def _repetition(record: Record) -> tuple[str, ...]:
    return (*identity(record), repr(record.get(KINDS[str(record.get("kind"))].repeated)))


@dataclass(frozen=True, kw_only=True)
class TrainingCase:
    """One way to train (or to decode). ``records`` are those that succeeded; where there are none, ``failed`` says why."""

    name: str
    records: Sequence[Record] = field(repr=False)
    failed: Sequence[Record] = field(repr=False)

    @property
    def first(self) -> Record:
        return (*self.records, *self.failed)[0]

    @property
    def kind(self) -> str:
        return str(self.first.get("kind"))

    @property
    def settings(self) -> dict[str, str]:
        """What tells this way to train apart, as far as the records know it: older ones lack the younger settings."""
        return {name: str(self.first[name]) for name in KINDS[self.kind].identity if name in self.first}

    @property
    def status(self) -> str:
        """ok, failed or unsupported."""
        return "ok" if self.records else "unsupported" if self.first.get("status") == "unsupported" else "failed"

    @property
    def reason(self) -> str:
        """Why it failed, where it did."""
        return str((self.failed[0].get("reason") if self.failed else None) or "no reason was kept")

    def values(self, quantity: str) -> list[float]:
        """The finite values of a field, one a repetition, in their order."""
        return [value for record in self.records if (value := number(record, quantity)) is not None]


def training_cases(training: Sequence[Record]) -> list[TrainingCase]:
    """The cases of all known kinds, each with a name of its own, in the order in which they first appear."""
    by_identity: dict[tuple[str, ...], list[Record]] = {}
    for record in training:
        if str(record.get("kind")) in KINDS:
            by_identity.setdefault(identity(record), []).append(record)
    groups = list(by_identity.values())
    names = [_name(group[0]) for group in groups]
    cases = []
    for index, group in enumerate(groups):
        # Only ways to train that differ in something rare share a name; their order is that of the records.
        number_of = names[: index + 1].count(names[index])
        name = names[index] if number_of == 1 else f"{names[index]}-{number_of}"
        good = [record for record in group if record.get("status", "ok") == "ok"]
        bad = [record for record in group if record.get("status", "ok") != "ok"]
        cases.append(TrainingCase(name=name, records=good, failed=bad))
    return cases


def unknown_kinds(training: Sequence[Record]) -> dict[str, int]:
    """Kinds of records that this augmark does not know, and how many there are of each."""
    kinds = [str(record.get("kind")) for record in training if str(record.get("kind")) not in KINDS]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _name(record: Record) -> str:
    """Such as "throughput-crop_flip-kornia-device-resnet18-w64-cuda-b256-s32-bfloat16"."""

    def word(key: str, before: str = "") -> str | None:
        value = record.get(key)
        return None if value is None else f"{before}{value}"

    workers = word("num_workers", "x") if record.get("augment_on") == "workers" or record.get("num_workers") else None
    decoding = "decoding" if record.get("decode") == "workers" else None
    start = word("init") if record.get("mode") != "scratch" else None
    together = "data-parallel" if record.get("kind") == "scaling" and record.get("parallel") == "data_parallel" else None
    words = [word("kind"), word("mode"), start, word("decoder"), word("scaling"), word("processes", "p"), together]
    words += [word("recipe"), word("backend"), word("augment_on"), workers, decoding, word("model")]
    words += [word("width", "w"), word("device"), word("batch_size", "b"), word("image_size", "s"), word("precision")]
    flags = ("resident", "augment_stream", "channels_last", "compile")
    words += [key.replace("_", "-") for key in flags if record.get(key) is True]
    return "-".join(one for one in words if one)

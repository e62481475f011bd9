"""Base of the records: one record a round (or seed) of a case, and the types of its fields. No torch here."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

Status = Literal["ok", "unsupported", "failed", "not_run"]
Implementation = Literal["c", "triton", "tensors", "inductor"]
Step = Literal["graph", "compiled", "eager"]
Lane = Literal["per_image", "per_batch", "mixed", "fixed"]
Better = Literal["more", "less", "neither"]
Positive = Annotated[float, Meta(gt=0)]
Amount = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Size = Annotated[int, Meta(ge=1)]


NAMED = {
    "mode": "", "init": "", "method": "", "decoder": "", "scaling": "", "processes": "p", "recipe": "", "backend": "",
    "augment_on": "", "without": "no-", "num_workers": "x", "model": "", "width": "w", "device": "", "batch_size": "b",
    "image_size": "s", "fetch_threads": "t", "precision": "",
}  # fmt: skip
"""Fields in the name of a case, and what stands before their value."""
FLAGS = (
    *(("parallel", "data_parallel", "data-parallel"), ("decode", "workers", "decoding"), ("resident", True, "resident")),
    *(("augment_stream", True, "stream"), ("channels_last", True, "channels-last"), ("compile", True, "compile")),
)
"""Fields whose value adds a word to the name of a case."""


class Quantity(NamedTuple):
    """A measured field of a record, its unit ("1": a share of one), and which way is better."""

    name: str
    unit: str
    better: Better = "neither"


SIGNS: Mapping[str, tuple[float, str]] = {
    "others_cpu": (0.1, "others used {:.0%} of the CPU"),
    "steal": (0.05, "the host took {:.0%}"),
    "memory_pressure": (0.05, "memory was short {:.0%} of the time"),
    "gpu_others": (0, "{} other processes on the GPU"),
    "throttled": (0, "the GPU's clock was throttled"),
    "busy_threads": (0, "threads that a library left used {:.1f} cores"),
}
"""Fields of a disturbance: the largest value at which a machine counts as quiet, and the field in words."""


class Disturbance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Share of the machine that others took during a measurement; None: not known."""

    others_cpu: Share | None = None
    """CPU time of other processes, as a share of the CPUs that the measurement may use."""
    steal: Share | None = None
    """Share of the CPU that a virtual machine's host took."""
    cpu_pressure: Share | None = None
    """Share of the time in which some task waited for a CPU (pressure stall information)."""
    memory_pressure: Share | None = None
    """Share of the time in which a process waited for memory."""
    gpu_others: Count | None = None
    """Other processes that computed on the GPUs at the end."""
    throttled: bool | None = None
    """GPU clock held back by heat or power at the end."""
    busy_threads: Amount | None = None
    """Cores that threads which a library has left behind, in this case or before, still used after the call."""

    @property
    def is_strong(self) -> bool | None:
        """Return whether a figure measured meanwhile is doubtful; None where others' use of the CPU is not known."""
        if any((getattr(self, name) or 0) > limit for name, (limit, _) in SIGNS.items()):
            return True
        return None if self.others_cpu is None else False

    @property
    def words(self) -> str:
        """Return the disturbance in words; empty if the machine was quiet or nothing is known."""
        values = {name: getattr(self, name) or 0 for name in SIGNS}
        return ", ".join(SIGNS[name][1].format(value) for name, value in values.items() if value >= 0.005)  # not "0%"


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag=str.lower
):
    """Facts of every record.

    ``repetition`` names the field that tells repetitions of a case apart (``round`` or ``seed``), ``identity`` the fields that
    tell two cases apart, ``manner`` those of them in which the cases of one setting differ. ``required`` are the fields of a
    successful record, beside the first of ``quantities``, which is what the kind is about. A case with ``needs_every_round``
    fails if one of its rounds fails.
    """

    repetition: ClassVar[Literal["round", "seed"]] = "round"
    identity: ClassVar[tuple[str, ...]]
    manner: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]]
    quantities: ClassVar[tuple[Quantity, ...]]
    needs_every_round: ClassVar[bool] = False
    compared: ClassVar[bool] = True
    """True if ``augmark compare`` compares records of this kind."""

    status: Status = "ok"
    reason: str | None = None
    implementation: Implementation | None = None
    """Implementation of ``fused`` that ran; None for other backends."""
    round: Count = 0
    """Repetition, from 0; each round measures all cases in an order of its own."""
    run: str | None = None
    """Name of the run that the record is from; only where several were merged."""
    device: str = "cpu"
    """Device by torch's name: cpu, cuda, cuda:0, mps."""
    backend: str | None = None
    lane: Lane | None = None
    batch_size: Size | None = None
    """Images a step, over all devices and processes."""
    image_size: Size | None = None
    """Height of the input, pixels; its width too where ``image_width`` is not given."""
    threads: Count | None = None
    peak_bytes: Count | None = None
    """Memory that a call allocates at most beyond its inputs; of training, the most that torch held on the first device."""
    disturbance: Disturbance | None = None
    """Disturbance by others meanwhile."""

    def __post_init__(self) -> None:
        if self.status in ("failed", "unsupported") and not self.reason:
            raise ValueError(f"a record that is {self.status} needs a reason")
        required = (*self.required, *(quantity.name for quantity in self.quantities[:1])) if self.status == "ok" else ()
        missing = [name for name in required if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.kind} record that is ok needs {', '.join(missing)}")

    @property
    def kind(self) -> str:
        """Kind of measurement, as stored."""
        return str(self.__struct_config__.tag)

    @property
    def case_key(self) -> tuple[Any, ...]:
        """Identity of the case, equal in all its repetitions."""
        return (self.kind, *(getattr(self, name) for name in self.identity))

    @property
    def setting(self) -> tuple[Any, ...]:
        """Identity but for the manner: cases that agree in it stand in one table."""
        return tuple(getattr(self, name) for name in self.identity if name not in self.manner)

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of this repetition of the case."""
        return (*self.case_key, getattr(self, self.repetition))

    @property
    def is_disturbed(self) -> bool | None:
        """Return whether others disturbed the measurement; None if it is not known."""
        return self.disturbance.is_strong if self.disturbance else None

    @property
    def subject(self) -> str | None:
        """Op or recipe that was measured."""
        return getattr(self, "recipe", None)

    @property
    def name(self) -> str:
        """Readable name of the case, such as "throughput-crop_flip-kornia-device-resnet18-w64-cuda-b256-s32-bfloat16"."""
        words = [f"{prefix}{value}" for name, prefix in NAMED.items() if (value := getattr(self, name, None))]
        flags = [text for name, value, text in FLAGS if getattr(self, name, None) == value]
        return "-".join([self.kind, *words, *flags])


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the structs within a file."""

"""Typed records of what was measured: one struct a kind, one record a round (or seed) of a case.

The structs are the format: msgspec encodes them, validates them when it decodes, and derives the JSON schema. A planned case is
a record with status ``not_run``; measuring fills it in. Fields that hold their default are not stored. No torch here.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import msgspec
from msgspec import Meta

from bench.records.words import format_number

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
    tell two cases apart, ``required`` those of a successful record, beside the first of ``quantities``, which is what the
    kind is about. A case with ``needs_every_round`` fails if one of its rounds fails.
    """

    repetition: ClassVar[Literal["round", "seed"]] = "round"
    identity: ClassVar[tuple[str, ...]]
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


# ---- the grid ---------------------------------------------------------------------------------------------------------


class Speed(Record, frozen=True, kw_only=True):
    """Speed of an op or recipe on a backend: one round of a case of the grid.

    ``images_per_s`` is ``batch_size * calls / seconds`` over all calls of the round, so that calls which skipped a p < 1 op
    count as often as they happened. ``samples_us`` are microseconds of synchronised wall time, one a call, to 4 digits.
    """

    identity = ("suite", "subject", "backend", "device", "batch_size", "image_size", "image_width", "dtype")
    required = ("subject", "backend", "batch_size", "image_size")
    needs_every_round = True
    quantities = (
        Quantity("images_per_s", "images/s", "more"),
        Quantity("wall_s_median", "s", "less"),
        Quantity("device_s_median", "s", "less"),
        Quantity("peak_bytes", "bytes", "less"),
        Quantity("compile_s", "s", "less"),
        # Grows with images_per_s and says no more of a change, so no service should warn of both.
        Quantity("roofline_share", "1"),
        Quantity("bytes_moved", "bytes"),
        Quantity("launches", "kernels", "less"),
        Quantity("syncs", "waits", "less"),
        Quantity("host_s", "s", "less"),
        Quantity("absent_gpu_host_s", "s", "less"),
    )

    suite: Literal["ops", "recipes"] = "ops"
    subject: str | None = None
    """Name of the op or recipe."""
    image_width: Size | None = None
    """Width of the input, pixels, where it is not the height."""
    dtype: Literal["float32", "float16", "bfloat16", "uint8"] = "float32"
    """Dtype of the result; ops with a float dtype also start from it, recipes always start from uint8."""
    differs: str | None = None
    """Declared difference of the backend's op from the definition; with one, no ratio is drawn."""
    images_per_s: Positive | None = None
    samples_us: tuple[Amount, ...] = ()
    pair: Count | None = None
    """Pair of processes of two installations that measured the round in turns."""
    calls: Count = 0
    """Calls of the round, where the times of some were left out."""
    device_s_median: Amount | None = None
    """Median seconds of a call on the device's own clock; None on a CPU."""
    host_s: Amount | None = None
    """Median seconds until a call returns while the device still works; None on a CPU."""
    absent_gpu_host_s: Amount | None = None
    """Median seconds of a CUDA call of ``fused`` on this CPU, all but the driver's launch; None with a GPU, without Triton."""
    compile_s: Amount | None = None
    """Seconds that the warm-up took beyond as many steady calls."""
    graph_breaks: Count | None = None
    recompiles: Count | None = None
    warmup_calls: Count | None = None
    warmup_s: Amount | None = None
    bytes_moved: Count | None = None
    """Bytes of the batch and of the result."""
    roofline_share: Amount | None = None
    """Time in which the device would copy ``bytes_moved``, over the mean time of a call."""
    launches: Count | None = None
    """Kernels of a call on CUDA."""
    syncs: Count | None = None
    """Waits of the host within a call on CUDA."""

    @property
    def samples_s(self) -> tuple[float, ...]:
        """Seconds of each call."""
        return tuple(sample / 1e6 for sample in self.samples_us)

    @property
    def width(self) -> int:
        """Width of the input, pixels."""
        return self.image_width or self.image_size or 0

    @property
    def pixels(self) -> str:
        """Height and width as people write them: "32 x 32"."""
        return f"{self.image_size} x {self.width}"

    @property
    def name(self) -> str:
        """Unique name of the case, as pytest's ``-k`` takes it."""
        side = str(self.image_size) if self.image_width is None else f"{self.image_size}x{self.image_width}"
        return f"{self.suite}-{self.subject}-{self.backend}-{self.device}-b{self.batch_size}-s{side}-{self.dtype}"


# ---- training ---------------------------------------------------------------------------------------------------------

SPEED = (Quantity("examples_per_s", "examples/s", "more"), Quantity("wait_share", "1", "less"))
SCORE = (Quantity("test_accuracy", "1", "more"), Quantity("train_accuracy", "1"), Quantity("loss", "nats"), SPEED[0])
MEMORY = Quantity("peak_bytes", "bytes", "less")

MANNER = ("recipe", "backend", "augment_on", "num_workers", "decode", "resident", "augment_stream")
"""Fields that say how a training run augments."""
SETTING = (
    *("model", "width", "batch_size", "image_size", "precision", "channels_last", "compile", "optimizer", "learning_rate"),
    *("momentum", "weight_decay", "bias_rate", "label_smoothing", "schedule", "warm_up_epochs"),
    *("decay_biases", "first_rate", "last_rate", "slow_weights_every", "whiten_bias_epochs"),
    *("dataset", "fingerprint", "device"),
)
"""Fields that must be equal for two training runs to differ only in how they augment."""
LOOPED = (
    *("recipe", "backend", "augment_on", "model", "width", "batch_size", "precision", "image_size", "dataset", "fingerprint"),
    "lane",
)
TRAINED = (*MANNER, *SETTING, "num_epochs", "max_train")
TUNED = (
    *("mode", "model", "width", "init", "recipe", "backend", "augment_on", "num_workers", "image_size", "num_epochs"),
    *("batch_size", "learning_rate", "head_rate", "momentum", "decay_every", "max_train", "max_test", "dataset"),
    *("fingerprint", "device", "keep_statistics", "init_digest"),
)


class Epoch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One epoch, counted from 1, as ``training`` defines its fields."""

    epoch: Size
    train_loss: Amount
    test_accuracy: Share
    train_accuracy: Share | None = None
    examples: Count | None = None
    wall_s: Amount | None = None
    wait_s: Amount | None = None


class Training(Record, frozen=True, kw_only=True):
    """Setting of a training run, flat: the fields of its config, its images, and what it ran on."""

    data: str | None = None
    dataset: str | None = None
    fingerprint: str | None = None
    fallback: str | None = None
    """Reason why drawn shapes stood in for real images."""
    recipe: str | None = None
    augment_on: Literal["workers", "device", "none", "frozen"] | None = None
    """none: normalised alone; frozen: all steps are given one prepared batch."""
    num_workers: Count = 0
    model: str | None = None
    width: Size | None = None
    step: Step | None = None
    """Mode of a training step: replayed as one CUDA graph, compiled, or op by op."""
    learning_rate: Positive | None = None
    """Largest step size."""
    momentum: Amount = 0.9
    seed: int = 0
    max_train: Count | None = None
    max_test: Count | None = None
    num_epochs: Count | None = None
    epochs: tuple[Epoch, ...] = ()
    loss: Amount | None = None
    """Training loss of the last epoch, nats an image."""
    train_accuracy: Share | None = None
    test_accuracy: Share | None = None
    """Share of test images that are right after the last epoch."""
    resumed_after: Count = 0
    """Epoch after which the run was resumed from a checkpoint."""
    skipped: Count = 0
    """Files that could not be read."""
    train_images: Count | None = None
    test_images: Count | None = None
    parameters: Count | None = None
    examples: Count | None = None
    examples_per_s: Positive | None = None
    """Images a second over all wall time of the steps."""
    wall_s: Amount | None = None
    wait_share: Share | None = None
    """Share of the wall time in which the device stood without a batch."""
    split_s: dict[str, Amount] | None = None
    """Parts of ``wall_s`` in seconds: wait, copy, augment, forward_backward, optimizer, other."""

    @property
    def is_bare(self) -> bool:
        """Return whether the run trains without augmentation."""
        return self.augment_on in ("none", "frozen")

    @property
    def place(self) -> Literal["device", "workers", "process"]:
        """Place that augments."""
        return "device" if self.augment_on == "device" else "workers" if self.num_workers else "process"


class Loop(Training, frozen=True, kw_only=True):
    """Setting of a run of ``training.loop``."""

    identity: ClassVar[tuple[str, ...]] = TRAINED
    required: ClassVar[tuple[str, ...]] = LOOPED

    resident: bool = False
    """The data set lay on the device."""
    prefetch: bool = True
    """The next batch is copied while the device trains."""
    augment_stream: bool = False
    decode: str = "ahead"
    optimizer: str | None = None
    weight_decay: Amount = 0.0
    decay_biases: bool = False
    """Norms and biases decay as fast as weights."""
    bias_rate: Positive = 1.0
    label_smoothing: Share = 0.0
    schedule: str | None = None
    warm_up_epochs: Amount = 0.0
    first_rate: Share = 0.0
    """Share of ``learning_rate`` at which the schedule starts."""
    last_rate: Share = 0.0
    """Share of ``learning_rate`` at which the schedule ends."""
    slow_weights_every: Count = 0
    """Steps after which the weights move towards their running mean (lookahead); 0: never."""
    whiten_bias_epochs: Count | None = None
    """Epochs for which the bias of the whitening layer is trained; None: all."""
    precision: str | None = None
    channels_last: bool = False
    compile: bool = False
    target_accuracy: Share | None = None
    devices: tuple[str, ...] = ()
    parallel: str | None = None
    """ddp, data_parallel or none."""
    batch_per_device: Count | None = None
    drop_last: bool = False
    flops_per_example: Size | None = None
    """Operations of a training step an image, forward and back, two a multiply-add; matrix products and convolutions."""
    examples_per_s_without_wait: Positive | None = None
    wait_s: Amount | None = None
    steps: Count | None = None
    gpu_utilisation: Share | None = None
    """Share of the time in which the driver saw a kernel, however small."""
    gpu_busy: Share | None = None
    """Kernel time over wall time of some steps, by the profiler."""
    power_w: Amount | None = None
    """W, sum over GPUs."""
    energy_j: Amount | None = None
    """J, sum over GPUs."""
    energy_j_per_1000_examples: Amount | None = None
    matmul_flops_per_s: Positive | None = None
    """Operations a second that a large matrix product reaches on one device."""
    matmul_precision: Literal["float32", "tf32", "bfloat16"] | None = None
    model_flops_utilisation: Amount | None = None
    """flops_per_example x examples_per_s over matmul_flops_per_s of all devices."""


class Throughput(Loop, frozen=True, kw_only=True):
    """Speed of training with one placement of augmentation."""

    quantities = (
        *SPEED,
        Quantity("examples_per_s_without_wait", "examples/s", "more"),
        MEMORY,
        Quantity("energy_j_per_1000_examples", "J", "less"),
        Quantity("model_flops_utilisation", "1", "more"),
    )


class Feed(Loop, frozen=True, kw_only=True):
    """Speed of one loader worker when nobody trains."""

    quantities = SPEED[:1]

    batches: Count | None = None


class Overhead(Loop, frozen=True, kw_only=True):
    """Cost of the trainer's step over a bare loop: seconds of each step of both, taken in turns."""

    quantities = (Quantity("step_over_bare", "1", "less"),)

    bare_s: tuple[Positive, ...] = ()
    step_s: tuple[Positive, ...] = ()
    step_over_bare: Positive | None = None
    """Median over turns of the trainer's step over the bare one."""


class Scaling(Loop, frozen=True, kw_only=True):
    """Speed of training on several processes, a device each."""

    identity = (*TRAINED, "processes", "scaling", "parallel")
    required = (*LOOPED, "processes", "scaling", "parallel")
    quantities = SPEED

    processes: Size | None = None
    scaling: Literal["one", "strong", "weak"] | None = None
    """strong: the batch of all together stays; weak: that of each."""
    cores: Count | None = None
    """Cores that all processes may use."""
    own_examples_per_s: tuple[Positive, ...] = ()
    """Images a second of each process."""
    slowest_rank: Count | None = None
    draw_digests: tuple[tuple[str, ...], ...] = ()
    """Digest of the first augmented batches of each process."""
    shared_draws: tuple[Any, ...] = ()
    """Processes that drew the same; none should."""


PEER = "airbench94"
"""Model of records of cifar10-airbench, which trains by itself."""


class Accuracy(Loop, frozen=True, kw_only=True):
    """A training run to the end."""

    repetition = "seed"
    quantities = (
        *SCORE,
        MEMORY,
        Quantity("seconds_to_target", "s", "less"),
        Quantity("train_s", "s", "less"),
        Quantity("evaluation_s", "s", "less"),
        Quantity("warm_up_s", "s", "less"),
    )

    seconds_to_target: Amount | None = None
    """Seconds of training up to the end of the first epoch that reached ``target_accuracy``; None if resumed, or none did."""
    train_s: Amount | None = None
    evaluation_s: Amount | None = None
    warm_up_s: Amount | None = None
    cells_at_once: Size | None = None
    """Trainings of a sweep that ran side by side."""
    cell_s: Amount | None = None
    """Seconds of the training, evaluation and all."""
    between_s: Amount | None = None
    """Seconds from the end of the process's case before, of which training and evaluation took none; None for its first."""


class Finetune(Training, frozen=True, kw_only=True):
    """A fine-tuning run to the end."""

    repetition = "seed"
    quantities = (*SCORE, MEMORY)
    identity = TUNED
    required = ("mode", "model", "init", "recipe", "backend", "augment_on", "batch_size", "dataset", "fingerprint", "lane")

    mode: Literal["full", "frozen", "scratch"] | None = None
    init: str | None = None
    """Weights to start from: imagenet, scratch, or a file's name."""
    init_digest: str | None = None
    """First 16 hexadecimal digits of the SHA-256 of a file to start from."""
    head_rate: Positive | None = None
    """Step size of the last layer, as a multiple of ``learning_rate``."""
    keep_statistics: bool = False
    """The statistics of batch norm stay those of the weights."""
    decay_every: Size | None = None
    """Epochs after which the step size becomes a tenth."""
    skipped_files: tuple[str, ...] = ()
    trained_parameters: Count | None = None
    best_epoch: Size | None = None
    best_accuracy: Share | None = None
    """Highest accuracy of an epoch; chosen on the images that it is measured on, so it flatters."""
    total_s: Amount | None = None
    features_s: Amount | None = None
    """Seconds of ``total_s`` that computing features took."""
    resident_bytes: Count | None = None


class Pipeline(Record, frozen=True, kw_only=True):
    """Speed of an arm, a way from JPEG files to batches on the device, or of the arm without one of its stages."""

    identity = (
        *("decoder", "backend", "augment_on", "recipe", "num_workers", "without", "fetch_threads", "model", "batch_size"),
        *("image_size", "precision", "page_cache", "dataset", "fingerprint", "device"),
    )
    required = ("decoder", "batch_size", "image_size", "dataset", "fingerprint", "wall_s", "images", "stages")
    quantities = (
        Quantity("images_per_s", "images/s", "more"),
        Quantity("wait_share", "1", "less"),
        Quantity("cpu_s_per_image", "s", "less"),
        Quantity("host_bytes", "bytes", "less"),
        Quantity("device_bytes", "bytes", "less"),
    )

    decoder: str | None = None
    """Decoder, or "packed": photographs decoded and resized once."""
    augment_on: Literal["workers", "device"] | None = None
    """Place where the backend augments; None: photographs are decoded alone."""
    recipe: str | None = None
    """Recipe, or the op behind RandomResizedCrop."""
    num_workers: Count = 0
    without: str | None = None
    """Stage whose recorded results take its place."""
    fetch_threads: Size | None = None
    """Threads of PyTorch while photographs are fetched, without workers; None: its own number."""
    model: str | None = None
    """Network that is trained on the batches."""
    precision: str | None = None
    page_cache: Literal["warm", "cold"] = "warm"
    differs: str | None = None
    """Known difference of the backend's op from the definition; no ratio is drawn then."""
    dataset: str | None = None
    fingerprint: str | None = None
    fallback: str | None = None
    skipped_files: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    """Stages in order."""
    fetched: tuple[str, ...] = ()
    """Stages that run where photographs are fetched: in loader workers, if there are some."""
    images: Count | None = None
    images_per_s: Positive | None = None
    wall_s: Positive | None = None
    whole_s: Positive | None = None
    """Wall time of the whole arm on the same images, in turns with the arm without a stage."""
    wait_share: Share | None = None
    """Share of the wall time in which the training process waited for loader workers."""
    cpu_s_per_image: Amount | None = None
    """CPU time of all processes."""
    cores: Size | None = None
    """Cores that all processes may use."""
    host_bytes: Count | None = None
    """Memory that a pass adds to the idle training process: its own growth at most, and the pages of workers alone."""
    device_bytes: Count | None = None
    """Memory in use on the device, by its driver."""
    pixel_differences: dict[str, tuple[Amount, Amount]] = {}
    """Largest and mean difference of a decoder alone to the others, in levels of 255."""
    odd_files: tuple[str, ...] = ()
    """Files that Pillow decodes in all arms, and why; the first ones."""
    disk_images_per_s: Positive | None = None
    """Files read one after the other from outside the page cache; None where it cannot be emptied."""

    @property
    def arm(self) -> str:
        """Name of the arm, as ``--arms`` takes it."""
        if self.augment_on is None:
            return f"{self.decoder}-alone"
        return f"{self.backend}-workers" if self.augment_on == "workers" else f"{self.decoder}-{self.backend}-device"


class Planted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Comparisons of runs of which one did more work."""

    added: Share
    """Share of work added."""
    called: Count
    comparisons: Count


Method = Literal["apart", "turns"]


class Calibration(Record, frozen=True, kw_only=True):
    """Certificate of what a comparison of runs can tell on a machine, by comparing it with itself."""

    identity = ("method", "device", "processes", "seconds", "level")
    required = ("comparisons",)
    quantities = (Quantity("called_from", "1", "less"),)
    compared = False

    method: Method = "apart"
    """Comparison of runs that were measured one after the other, or in turns by pairs of processes (``augmark turns``)."""
    processes: Size | None = None
    """Processes in all."""
    seconds: Positive | None = None
    """Seconds that each process, or pair, measured."""
    level: Share | None = None
    """Chance of any false call in a comparison of all cases, by its tests."""
    rounds: Count = 0
    """Rounds of a case in a process; the median."""
    comparisons: Count | None = None
    """Comparisons of a case in equal runs."""
    false_calls: Count = 0
    """Comparisons that called equal runs different."""
    planted: tuple[Planted, ...] = ()
    within_sd: Amount | None = None
    """Standard deviation of a round within a process, as a share; the case in the middle."""
    between_sd: Amount | None = None
    """Standard deviation of processes at different times beyond that of their rounds, as a share; the case that varies most."""
    reaches: dict[str, Positive] = {}
    """Slowdown from which on 95 % of comparisons of a case are called, by case, reckoned from the errors of comparisons."""
    called_from: Positive | None = None
    """Slowdown from which on 95 % are called, of all cases."""


Kind = Speed | Calibration | Throughput | Feed | Overhead | Scaling | Accuracy | Finetune | Pipeline
KINDS: dict[str, type[Record]] = {kind.__name__.lower(): kind for kind in get_args(Kind)}


# ---- where, what for, and whether backends agree ----------------------------------------------------------------------


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of the structs within a file."""


class Cpu(Strict, frozen=True, kw_only=True):
    """Processor, threads and memory of a machine."""

    model: str
    usable_cores: Size
    threads: Size
    cores: Count | None = None
    logical_cores: Count | None = None
    max_mhz: Amount | None = None
    capability: str | None = None
    interop_threads: Count | None = None
    memory_bytes: Count | None = None
    load_1min: Amount | None = None
    """Load average over a minute, at the start."""


class Gpu(Strict, frozen=True, kw_only=True):
    """One GPU, as torch and NVML describe it."""

    name: str
    memory_bytes: Count | None = None
    compute_capability: str | None = None
    multiprocessors: Count | None = None
    driver: str | None = None
    sm_clock_mhz: Amount | None = None
    max_sm_clock_mhz: Amount | None = None
    memory_clock_mhz: Amount | None = None
    power_limit_w: Amount | None = None
    temperature_c: float | None = None


class Commit(Strict, frozen=True, kw_only=True):
    """Commit of the project's own repository."""

    id: Annotated[str, Meta(pattern="^[0-9a-f]{7,64}$")]
    dirty: bool | None = None
    """Uncommitted changes to files; None: not known."""


class DataSet(Strict, frozen=True, kw_only=True):
    """Images that were used."""

    name: str
    fingerprint: str
    source: str | None = None
    fallback: str | None = None
    """Reason why drawn shapes stood in for real images."""


class Environment(Strict, frozen=True, kw_only=True):
    """environment.json: where and with what a run was measured."""

    time: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}")]
    """Start of the run, with its offset from UTC."""
    machine: str
    platform: str
    cpu: Cpu
    gpus: tuple[Gpu, ...] = ()
    cuda: str | None = None
    cudnn: Count | None = None
    python: str
    packages: dict[str, str]
    """Versions."""
    variables: dict[str, str] = {}
    """Environment variables that change speed."""
    commit: Commit | None = None
    dataset: DataSet | None = None
    copy_bytes_per_s: dict[str, Amount | None] = {}
    """Bytes read and written a second by a copy on each device."""
    matmul_flops_per_s: dict[str, dict[str, Positive]] = {}
    """Operations a second of a large matrix product on each device, by precision."""
    note: str | None = None
    """Note for readers of this run; the report prints it first."""


class Plan(Strict, frozen=True, kw_only=True):
    """plan.json: the cases of a run, each with status ``not_run`` or ``unsupported``, and how they are repeated."""

    suite: str
    """Word for folder names: quick, standard, training, sweep, ..."""
    cases: tuple[Kind, ...] = ()
    rounds: Size = 1
    seed: Count = 0
    """Seed of the order of the rounds."""
    target: Positive | None = None
    """Width of the interval of a case's median, as a share of it, at which its rounds end before ``rounds`` of them."""
    budget_s: Positive | None = None
    """Seconds of the grid after which no case gets more than the six rounds that an interval takes."""
    case_seconds: Positive | None = None
    """Seconds of samples a case and round."""
    baseline: str | None = None
    """RECIPE@BACKEND that a sweep compares the others with."""
    retry_after: Count = 0
    """Failures among so many first records are tried again."""
    settings: dict[str, str | int | float | bool | None] = {}
    """Settings that a job needs to resume, beyond the cases."""


Verdict = Literal["exact", "close", "different", "unaudited", "unsupported"]


class AuditLane(Strict, frozen=True, kw_only=True):
    """Lane: declared, and measured on ``batch`` identical images."""

    declared: Lane
    measured: str
    batch: Count | None = None
    distinct: Amount | None = None
    """Distinct results among the identical images, mean over batches."""
    parameters: dict[str, str] = {}

    @property
    def ok(self) -> bool:
        """Return whether the measured lane is the declared one."""
        return self.declared == self.measured


class AuditParity(Strict, frozen=True, array_like=True):
    """Errors against the oracle with the same parameters, in units of 1/255; stored as a list, in this order."""

    images: str
    size: Count
    setting: str
    draws: Count
    max_error: Amount
    mean_error: Amount
    target_error: Amount = 0.0


class AuditTest(Strict, frozen=True, array_like=True):
    """Test of a drawn parameter against its law; stored as a list, in this order."""

    parameter: str
    law: str
    n: Count
    p_value: Share
    statistic: float | None = None
    distance: float | None = None
    rejected: bool = False


class AuditCheck(Strict, frozen=True, kw_only=True):
    """One property of determinism or safety."""

    name: str
    ok: bool = True
    detail: str = ""


class AuditCell(Strict, frozen=True, kw_only=True):
    """Verdict on an op or recipe on a backend, and what it rests on."""

    subject: str
    kind: Literal["op", "recipe"]
    backend: str
    verdict: Verdict
    cause: str = ""
    lane: AuditLane | None = None
    parity: tuple[AuditParity, ...] = ()
    tests: tuple[AuditTest, ...] = ()
    checks: tuple[AuditCheck, ...] = ()
    checks_passed: Count = msgspec.field(default=0, name="passed")
    """Checks that passed, beyond those listed: a published audit lists those that failed."""
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        """Largest error in the settings that decide the verdict, in units of 1/255."""
        return max((parity.max_error for parity in self._decisive), default=0.0)

    @property
    def _decisive(self) -> list[AuditParity]:
        return [parity for parity in self.parity if parity.setting in ("as drawn", "pinned")]

    @property
    def mean_error(self) -> float:
        """Mean error in 1/255 that decides on "close": the largest of any size and setting, all images together."""
        groups: dict[tuple[int, str], list[AuditParity]] = {}
        for parity in self._decisive:
            groups.setdefault((parity.size, parity.setting), []).append(parity)
        means = (sum(p.mean_error * p.draws for p in group) / (sum(p.draws for p in group) or 1) for group in groups.values())
        return max(means, default=0.0)

    @property
    def error_words(self) -> str:
        """Error that the verdict goes by, in 1/255: the largest, the mean of close cells, "draws" where only those differ."""
        if self.verdict in ("unaudited", "unsupported"):
            return ""
        if self.verdict == "different" and self.max_error <= 1:
            return "draws"
        size = self.mean_error if self.verdict == "close" else self.max_error
        return f"{'mean ' if self.verdict == 'close' else ''}{'< 0.01' if 0 < size < 0.01 else format_number(size, 2)}"


class Audit(Strict, frozen=True, kw_only=True):
    """audit.json: whether the backends do the same augmentation; ``failed`` says why there are no verdicts."""

    verdicts: tuple[AuditCell, ...] = ()
    failed: str | None = None
    device: str | None = None
    images: str | None = None
    seed: int | str | None = None
    n: int | str | None = None
    """Draws a distribution; several values, as words, where runs were merged."""
    alpha: float | str | None = None
    """Chance of any false alarm."""
    seconds: Amount | None = None
    versions: dict[str, str] = {}
    findings: tuple[str, ...] = ()
    """Contradictions to the declared definitions."""

    def find(self, subject: str | None, backend: str | None) -> AuditCell | None:
        """Return the verdict on a subject on a backend, or None."""
        return next((cell for cell in self.verdicts if (cell.subject, cell.backend) == (subject, backend)), None)

    def comparable(self, subject: str, backends: Sequence[str]) -> tuple[bool, str]:
        """Return whether a ratio of these backends' speeds means anything, and why (not): same lane, all at least ``close``."""
        cells = []
        for backend in backends:
            cell = self.find(subject, backend)
            if cell is None:
                return False, f"{subject} was not audited on {backend}"
            if cell.verdict not in ("exact", "close"):
                return False, f"{backend} is {cell.verdict}" + (f": {cell.cause}" if cell.cause else "")
            cells.append(cell)
        for a, b in itertools.pairwise(cells):
            lane_a, lane_b = (cell.lane.measured if cell.lane else "" for cell in (a, b))
            if lane_a != lane_b:
                return False, f"other lane: {a.backend} draws {lane_a}, {b.backend} {lane_b}"
        return True, "; ".join(
            f"{cell.backend} is close: {cell.cause}" for cell in cells if cell.verdict == "close"
        ) or "exact on both"

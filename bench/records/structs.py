"""Typed records of what was measured: one struct a kind, one record a round (or seed) of a case.

The structs are the format: msgspec encodes them, validates them when it decodes, and derives the JSON schema. A planned case is
a record with status ``not_run``; measuring fills it in. Fields that hold their default are not stored. No torch here.
"""

from typing import Any, ClassVar, Literal, get_args

import msgspec

from bench.records.base import Amount, Count, Positive, Quantity, Record, Share, Size, Step, Strict

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
    manner: ClassVar[tuple[str, ...]] = MANNER
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
    manner = ("batch_size", "processes", "scaling", "parallel")
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
    """Wall seconds of training; a stop of the process (Ctrl-Z) counts."""
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
    manner = ("mode", "init", "init_digest", "recipe", "backend", "augment_on", "num_workers")
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

    manner = ("decoder", "backend", "augment_on", "recipe", "num_workers", "without", "fetch_threads", "model")
    identity = (*manner, "batch_size", "image_size", "precision", "page_cache", "dataset", "fingerprint", "device")
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

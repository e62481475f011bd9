"""Process of ``augmark scaling``: measures training with the other ranks, its own pace, and what it draws.

``python -m bench.jobs.scaling_rank TASK RESULT``, alone or under torchrun: TASK is a JSON file that ``scaling.py`` wrote,
RESULT the record that rank 0 writes.
"""

import dataclasses
import hashlib
import itertools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from bench.jobs.job import fill
from bench.jobs.overhead import bare_steps
from bench.jobs.scaling import Task
from bench.processes import end_with
from bench.records import Scaling
from training.config import TrainConfig, resolve_auto, validate
from training.data import Dataset, load
from training.distributed import Ranks, join_ranks, synchronise
from training.feed import Feed
from training.loop import measure_throughput
from training.train import describe

PROBE_STEPS, PROBE_IMAGES = 16, 64
"""First steps of an epoch whose draws are compared, and images per rank and step: enough to rule out chance."""
WARM_UP_STEPS = 2


def draw_digests(config: TrainConfig, dataset: Dataset, ranks: Ranks) -> list[str]:
    """Return digests of a rank's first augmented batches, fed as in training but with one image in all places.

    Whatever differs between two ranks' batches was then drawn. 16 hex digits of a SHA-256 per step.
    """
    image = dataset.train.images[:1]
    count = PROBE_STEPS * PROBE_IMAGES * ranks.world
    split = dataclasses.replace(
        dataset.train, images=image.expand(count, -1, -1, -1), labels=torch.zeros(count, dtype=torch.int64), files=None
    )
    probe = dataclasses.replace(config, batch_size=PROBE_IMAGES * ranks.world, resident=False, decode="ahead")
    feed = Feed(probe, dataclasses.replace(dataset, train=split), ranks)
    batches = (feed.place(fetched)[0] for fetched in itertools.islice(feed.epoch(1), PROBE_STEPS))
    return [hashlib.sha256(batch.float().cpu().numpy().tobytes()).hexdigest()[:16] for batch in batches]


def find_shared_draws(digests: Sequence[Sequence[str]], lane: str) -> list[tuple[int, int]]:
    """Return pairs of ranks that drew the same.

    Where each image has its own draw, one equal batch is proof; where a batch has one, whose few values meet by chance, all
    batches must be equal. Without draws there is no pair.
    """
    pairs = itertools.combinations(range(len(digests)), 2)
    if lane == "fixed":
        return []
    if lane == "per_image":
        return [(a, b) for a, b in pairs if set(digests[a]) & set(digests[b])]
    return [(a, b) for a, b in pairs if list(digests[a]) == list(digests[b])]


def own_pace(config: TrainConfig, dataset: Dataset, ranks: Ranks, *, seconds: float) -> float:
    """Return examples/s of this rank in a bare loop of its own, while the others run theirs without exchanging gradients."""
    share = dataclasses.replace(config, batch_size=config.batch_size // ranks.world)
    steps = bare_steps(share, dataset, ranks.device)
    for _ in range(WARM_UP_STEPS):
        next(steps)
    synchronise(ranks.device)
    ranks.wait_for_all()
    count, start = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - start < seconds:
        next(steps)
        synchronise(ranks.device)
        count += 1
    return count_examples(len(dataset.train), share.batch_size, WARM_UP_STEPS, count) / (time.perf_counter() - start)


def count_examples(images: int, batch_size: int, first: int, steps: int) -> int:
    """Return the images in ``steps`` batches from batch ``first`` on, epoch after epoch; the last of an epoch is smaller."""
    sizes = [min(batch_size, images - start) for start in range(0, images, batch_size)]
    return sum(sizes[step % len(sizes)] for step in range(first, first + steps))


def measure(task: Task) -> Scaling:
    """Return the record of a case, equal on every rank; failed if two ranks drew the same."""
    config, device = task.config, validate(task.config)
    with join_ranks(device) as ranks:
        config = resolve_auto(config, device)
        dataset = load(config.data, root=config.data_root, max_train=config.max_train, max_test=config.max_test)
        digests = ranks.gather(draw_digests(config, dataset, ranks))
        result = measure_throughput(config, dataset, seconds=task.seconds)
        paces = ranks.gather(own_pace(config, dataset, ranks, seconds=task.seconds / 2))
        pairs = find_shared_draws(digests, result.lane)
        record = fill(
            task.case, result, threads=torch.get_num_threads(), own_examples_per_s=paces,
            slowest_rank=paces.index(min(paces)), draw_digests=digests, shared_draws=pairs,
            parallel=task.case.parallel,
        )  # fmt: skip
    if not pairs:
        return record
    a, b = pairs[0]
    return msgspec.structs.replace(record, status="failed", reason=f"ranks {a} and {b} drew the same parameters")


def main(task_file: Path, result_file: Path) -> int:
    """Measure a task; rank 0 writes the record."""
    end_with(os.getppid())
    task = msgspec.json.decode(task_file.read_bytes(), type=Task, dec_hook=lambda path, text: path(text))
    try:
        record = measure(task)
    except Exception as error:
        line = describe(error)
        if line is None:  # a fault of the program, which needs its traceback
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        result_file.write_bytes(msgspec.json.encode(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

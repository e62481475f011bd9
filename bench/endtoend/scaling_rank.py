"""What each process of ``augmark scaling`` does: measures training with the others, its own pace, and what it draws.

``python -m bench.endtoend.scaling_rank JOB RECORD``, alone or under torchrun: JOB is a JSON file that ``scaling.py`` wrote,
RECORD the one that rank 0 writes.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.grid.overhead import bare_steps
from bench.records.runs import write_json
from training.config import TrainConfig, settled, validate
from training.data import load
from training.dataset import Dataset
from training.distributed import Ranks, joined, synchronise
from training.feed import Feed
from training.loop import measure_throughput
from training.train import describe

PROBE_STEPS, PROBE_IMAGES = 16, 64
"""First steps of an epoch whose draws are compared, and images a rank and step: enough that chance cannot make them equal."""
WARM_UP_STEPS = 2


def draw_digests(config: TrainConfig, dataset: Dataset, ranks: Ranks) -> list[str]:
    """Digests of a rank's first augmented batches, fed as in training but with one image in all places.

    Whatever differs between two ranks' batches was then drawn. 16 hex digits of a SHA-256 a step.
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


def shared_draws(digests: Sequence[Sequence[str]], draws: str) -> list[tuple[int, int]]:
    """Pairs of ranks that drew the same.

    Where each image has its own draw, one equal batch tells; where a batch has one, whose few values meet by chance, all
    batches must be equal. Where nothing is drawn nothing can be told: no pair.
    """
    pairs = itertools.combinations(range(len(digests)), 2)
    if draws == "fixed":
        return []
    if draws == "per_image":
        return [(a, b) for a, b in pairs if set(digests[a]) & set(digests[b])]
    return [(a, b) for a, b in pairs if list(digests[a]) == list(digests[b])]


def own_pace(config: TrainConfig, dataset: Dataset, ranks: Ranks, *, seconds: float) -> float:
    """examples/s of this rank in a bare loop of its own, while all others run theirs: no gradients are exchanged."""
    mine = dataclasses.replace(config, batch_size=config.batch_size // ranks.world)
    steps = bare_steps(mine, dataset, ranks.device)
    for _ in range(WARM_UP_STEPS):
        next(steps)
    synchronise(ranks.device)
    ranks.wait_for_all()
    done, start = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - start < seconds:
        next(steps)
        synchronise(ranks.device)
        done += 1
    # Batches are full but for the last of an epoch: counted as they are, by their share of the images.
    examples = _examples(len(dataset.train), mine.batch_size, WARM_UP_STEPS, done)
    return examples / (time.perf_counter() - start)


def _examples(images: int, batch_size: int, skipped: int, steps: int) -> int:
    """Images in so many batches after the skipped ones, epoch after epoch."""
    sizes = [min(batch_size, images - first) for first in range(0, images, batch_size)]
    return sum(sizes[step % len(sizes)] for step in range(skipped, skipped + steps))


def measure(config: TrainConfig, *, seconds: float) -> dict[str, Any]:
    """The record of a job, the same on every rank; it has failed where two ranks drew the same."""
    device = validate(config)
    with joined(device) as ranks:
        config = settled(config, device)
        dataset = load(config.data, root=config.data_root, max_train=config.max_train, max_test=config.max_test)
        digests = ranks.gather(draw_digests(config, dataset, ranks))
        throughput = measure_throughput(config, dataset, seconds=seconds)
        paces = ranks.gather(own_pace(config, dataset, ranks, seconds=seconds / 2))
        pairs = shared_draws(digests, throughput.draws)
        record = throughput.as_record() | {
            "kind": "scaling", "processes": ranks.world, "threads": torch.get_num_threads(), "own_examples_per_s": paces,
            "slowest_rank": paces.index(min(paces)), "draw_digests": digests, "shared_draws": pairs,
        }  # fmt: skip
        if pairs:
            record |= {"status": "failed", "reason": f"ranks {pairs[0][0]} and {pairs[0][1]} drew the same parameters"}
        return record


def main(job: Path, out: Path) -> int:
    """Do a job; rank 0 writes the record."""
    told = json.loads(job.read_text(encoding="utf-8"))
    if told["threads"] is not None:
        torch.set_num_threads(told["threads"])
    config = TrainConfig(**{**told["config"], "data_root": Path(told["config"]["data_root"])})
    try:
        record = measure(config, seconds=told["seconds"])
    except Exception as error:
        line = describe(error)
        if line is None:  # a fault of ours, which needs its traceback
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    if os.environ.get("RANK", "0") == "0":
        write_json(out, record)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

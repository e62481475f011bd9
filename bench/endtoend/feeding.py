"""How fast loader workers are when nobody trains: what one of them can deliver."""

import time
from dataclasses import dataclass
from typing import Any

from training.config import TrainConfig, validate
from training.dataset import Dataset
from training.distributed import Ranks
from training.feed import Feed


@dataclass(frozen=True, kw_only=True)
class Feeding:
    """``examples`` that the loader delivered to the host in ``wall_s`` seconds, in batches of the config's size."""

    config: TrainConfig
    dataset: Dataset
    draws: str
    batches: int
    examples: int
    wall_s: float

    def as_record(self) -> dict[str, Any]:
        """One flat, JSON-able dict of kind ``feed``."""
        record = {
            "kind": "feed", "status": "ok", **self.config.as_record(), "dataset": self.dataset.name,
            "fingerprint": self.dataset.fingerprint, "fallback": self.dataset.fallback, "draws": self.draws,
            "batches": self.batches, "examples": self.examples, "wall_s": self.wall_s,
            "examples_per_s": self.examples / self.wall_s,
        }  # fmt: skip
        del record["epochs"]  # a setting of training to the end
        return record


def measure_feed(config: TrainConfig, dataset: Dataset, *, seconds: float) -> Feeding:
    """Take batches from the loader of a config for about so many seconds (at least two batches), and do nothing with them.

    The start of the workers, and the batches that they have fetched ahead by then, come before the clock. Raises what ``Feed``
    raises.
    """
    feed = Feed(config, dataset, Ranks(device=validate(config)))
    batches = feed.endless()
    for _ in range(1 + 2 * config.num_workers):
        next(batches)
    examples = done = 0
    start = time.perf_counter()
    while done < 2 or time.perf_counter() - start < seconds:
        examples += len(next(batches)[1])
        done += 1
    return Feeding(
        config=config, dataset=dataset, draws=feed.draws, batches=done, examples=examples, wall_s=time.perf_counter() - start
    )

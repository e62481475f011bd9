"""Training on several processes: speed-ups, the slowest rank, and whether ranks drew the same."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.records import Case, Run, Scaling, group_by
from bench.report.facts.cases import ratios, settings


@dataclass(frozen=True, kw_only=True)
class Job:
    """Training on a number of processes, against one process by pairs of rounds."""

    case: Case
    speedups: Sequence[float]

    @property
    def processes(self) -> int:
        return int(self.case.processes or 1)

    @property
    def sort(self) -> tuple[str, str]:
        """Strong or weak scaling, and how processes share the work."""
        return self.case.scaling, self.case.parallel

    @property
    def on_cpu(self) -> bool:
        """Return whether all processes share the cores of one CPU."""
        return str(self.case.device).partition(" ")[0] == "cpu"

    @property
    def speedup(self) -> float | None:
        return statistics.median(self.speedups) if self.speedups else None

    @property
    def is_sure(self) -> bool:
        """Return whether all pairs of rounds agree that the job is faster, or slower, than one process."""
        return len(self.speedups) > 1 and (min(self.speedups) > 1 or max(self.speedups) < 1)

    @property
    def efficiency(self) -> float | None:
        """Speed-up over the number of devices, which is 1 on a CPU."""
        return self.speedup / (1 if self.on_cpu else self.processes) if self.speedup is not None else None

    @property
    def slowest_rank(self) -> tuple[int, float] | None:
        """The rank with the least examples/s of its own (median over rounds), and its share of the fastest."""
        rounds = [record.own_examples_per_s for record in self.case.records if len(record.own_examples_per_s) > 1]
        if not rounds or len({len(ranks) for ranks in rounds}) > 1:
            return None
        middles = [statistics.median(ranks) for ranks in zip(*rounds, strict=True)]
        return middles.index(min(middles)), min(middles) / max(middles)


def tables(run: Run) -> list[list[Job]]:
    """Return the jobs of each setting, by processes and sort; the setting with the most records first."""
    return [_jobs(group) for group in settings(run, "scaling")]


def _jobs(cases: Sequence[Case]) -> list[Job]:
    alone = next((case for case in cases if case.processes == 1), None)
    jobs = [Job(case=case, speedups=ratios(case, alone) if alone and case is not alone else ()) for case in cases]
    return sorted(jobs, key=lambda job: (job.processes, *map(str, job.sort)))


def largest(jobs: Sequence[Job]) -> list[Job]:
    """Return the job with the most processes, at least two, of each sort of scaling."""
    by_sort = group_by((job for job in jobs if job.processes > 1), lambda job: job.sort)
    return [max(group, key=lambda job: job.processes) for group in by_sort.values()]


def alike_draws(run: Run) -> list[Scaling]:
    """Return the records of jobs whose ranks drew the same, which trains on fewer draws than it seems to."""
    return [record for record in run.records if isinstance(record, Scaling) and record.shared_draws]

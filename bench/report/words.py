"""Write numbers and cases: three significant digits, spread and n beside them; a training by its backend and placement."""

import re
from collections.abc import Callable, Sequence

from bench.records import UNKNOWN, Case, format_number, percent, plural
from bench.report.blocks import Code, Quiet, Text
from bench.report.facts.cases import is_slower
from bench.report.facts.placement import FROZEN
from bench.statistics import Estimate, estimate, half_interval

NOISY = 0.25
"""Half interval as a share of the median above which a number is only an order of magnitude."""
OVERLAP = "not distinguishable: their intervals overlap"
VERDICTS = {True: "slower beyond the spread between rounds", False: OVERLAP, None: "of one round, so not certain"}


def spread(values: Sequence[float]) -> str:
    """Return half the interval of the median as a share of it, such as "±1.6 %"; empty for fewer than two values."""
    share = half_interval(values)
    if share is None:
        return ""
    return ("noisy, " if share > NOISY else "") + f"±{percent(share, 1 if share < 0.0995 else 0)}"


def span(values: Sequence[float], write: Callable[[float], str] = format_number) -> str:
    """Return " (LOW to HIGH)"; empty for fewer than two values."""
    return f" ({write(min(values)).removesuffix(' %')} to {write(max(values))})" if len(values) > 1 else ""


def capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def date(time: str) -> str:
    """Return "2026-11-24 11:17 UTC" for a time in ISO 8601; anything else as it is."""
    return re.sub(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:\+00:00|Z)", r"\1 \2 UTC", time)


# ---- cases ----------------------------------------------------------------------------------------------------------------


def label(case: Case) -> str:
    """Return "kornia on the device", "pil in 2 workers, decoding too", "no augmentation" or "one prepared batch"."""
    count = int(case.num_workers or 0)
    fetcher = plural(count, "worker") if count else "the training process"
    if case.augment_on == FROZEN:
        return "one prepared batch"
    if case.augment_on == "workers":
        return f"{case.backend} in {fetcher}" + (", decoding too" if case.decode == "workers" else "")
    place = " on the device" + (" on a second stream" if case.augment_stream else "") if case.augment_on == "device" else ""
    fetched = f", {'decoded' if case.decode == 'workers' else 'fetched'} in {fetcher}"
    is_fed = case.kind == "throughput" and case.resident is False
    ahead = ", features computed once" if case.mode == "frozen" and case.is_bare else ""
    return ("no augmentation" if case.is_bare else f"{case.backend}{place}") + (fetched if is_fed else ahead)


def setting(case: Case) -> str:
    """Return what all cases of a setting share."""
    regime = [case.schedule] if case.schedule not in (None, "constant") else []
    names = {"weight_decay": "weight decay", "label_smoothing": "label smoothing", "warm_up_epochs": "warm-up epochs"}
    extras = [f"{words} {getattr(case, name)}" for name, words in names.items() if getattr(case, name)]
    flags = [name.replace("_", " ") for name in ("channels_last", "compile") if getattr(case, name)]
    where = ", ".join(case.devices or ()) or case.device
    optimizer = " ".join([f"{case.optimizer} {case.learning_rate}", *regime, *([f"({', '.join(extras)})"] if extras else [])])
    parts = [
        f"{case.model} of width {case.width}",
        f"batch {case.batch_size}",
        optimizer,
        case.precision,
        *flags,
        f"on {where}",
    ]
    return ", ".join([*parts, f"data {case.dataset}"])


def with_spread(case: Case, name: str) -> str:
    """Return the median of a field with its spread, such as "300 ±5.0 %"."""
    middle = case.median(name)
    return UNKNOWN if middle is None else f"{format_number(middle)} {spread(case.values(name))}".strip()


def format_rate(case: Case) -> str:
    """Return "1,820 examples/s (±3.6 %, 3 rounds)"."""
    basis = ", ".join(filter(None, (spread(case.rates), plural(len(case.rates), "round"))))
    return f"{format_number(case.rate)} {case.first.quantities[0].unit} ({basis})"


def judge(best: Case, rival: Case) -> str:
    """Return how sure it is that the rival is slower."""
    return VERDICTS[is_slower(best.rates, rival.rates)]


def name_or_undecided(names: Sequence[str]) -> str:
    """Return the only name, or all that cannot be distinguished."""
    return names[0] if len(names) == 1 else f"Undecided: {' or '.join(names)}"


def mean_score(case: Case, name: str = "test_accuracy") -> str:
    """Return the mean of an accuracy, such as "50.8 % ±2.1 points"; without the interval for too few seeds."""
    values = case.values(name)
    half = estimate(values).half if values else None
    return percent(case.mean(name)) + ("" if half is None else f" ±{100 * half:.1f} points")


def format_score(case: Case) -> str:
    """Return "50.8 % ±2.1 points (3 seeds)"."""
    return f"{mean_score(case)} ({plural(len(case.values('test_accuracy')), 'seed')})"


def points(gap: Estimate | None) -> str:
    """Return a difference such as "+1.20 ±0.40", without the interval if there are too few seeds for one."""
    if gap is None:
        return UNKNOWN
    return f"{gap.mean:+.2f}" + ("" if gap.half is None else f" ±{gap.half:.2f}")


def name_of(case: Case) -> Text:
    """Return an case's label with the backend as code and what ran of ``fused``."""
    words, ran = label(case), f" ({case.implementation})" if case.implementation else ""
    return (
        words if case.is_bare or not case.backend else [Code(case.backend), Quiet(ran), words.removeprefix(str(case.backend))]
    )

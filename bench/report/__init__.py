"""Report of a run: from records to a page that people read. Never imports torch.

``facts`` are numbers and verdicts; ``sections`` put them into words, tables and ``figures``; ``render`` makes HTML and
Markdown.
"""

from bench.report.page import write_curves, write_report

__all__ = ["write_curves", "write_report"]

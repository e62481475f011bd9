"""From the records of a run to a page that people read. Reads files only; never imports torch.

``page`` puts the sections in order; ``blocks`` is what a section is made of, whatever it is rendered to: ``html`` writes the
page, ``markdown`` its twin for repositories, and both show the same figures.
"""

from bench.report.page import write_report
from bench.report.training_figures import curves_figure

__all__ = ["curves_figure", "write_report"]

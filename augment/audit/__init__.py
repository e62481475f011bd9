"""Is it the same augmentation? The audit of every op and recipe on every backend, before any speed is compared.

``measure`` gathers: ``parity`` compares a backend's pixels with the op's oracle under the same drawn parameters, ``explain``
names a difference; ``lanes`` measures which images share a draw; ``laws`` states each distribution independently of
``augment.distributions``, ``statistics`` tests draws against it; ``checks`` covers seeds, workers and odd inputs. ``judge``
turns measurements into the verdicts of ``record``.
"""

from augment.audit.record import AuditReport, Verdict
from augment.audit.run import audit

__all__ = ["AuditReport", "Verdict", "audit"]

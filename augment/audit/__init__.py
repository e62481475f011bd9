"""Is it the same augmentation? The audit of every op and recipe on every backend, before any speed is compared.

``audit`` measures and judges, ``comparable`` is the rule that follows: no parity, no ratio. Inside: ``replay`` reads what a
backend drew, ``oracle`` does the same to one image, ``parity`` compares and ``explain`` says why not; ``lanes``, ``draws``
with ``laws``, and ``checks`` look at who shares a draw, how it is distributed and what else must hold; ``evidence`` gathers,
``judging`` decides, ``verdicts`` is what comes out.
"""

from augment.audit.run import audit
from augment.audit.verdicts import AuditReport, Verdict, comparable

__all__ = ["AuditReport", "Verdict", "audit", "comparable"]

"""Facts of a run for the report: numbers, verdicts and counts as typed values, without words."""

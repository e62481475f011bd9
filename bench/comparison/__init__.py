"""Two runs, or many seeds, against one another: intervals, verdicts and what they rest on. Knows no torch."""

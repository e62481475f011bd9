"""Jobs: a kind of measurement each, as a table of cases and how a case is measured. They start without torch."""

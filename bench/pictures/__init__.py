"""What each op looks like: the gallery's sheets, and the strips of the report."""

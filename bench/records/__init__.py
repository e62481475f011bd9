"""What a run leaves on disk: written, read, validated, merged, exported and published. Knows no torch."""

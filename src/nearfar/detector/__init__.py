"""A detector for a machine of one's own: fitted on normal recordings, kept as a folder with its thresholds."""

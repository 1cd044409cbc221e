"""Challenge systems: runs, tables and submissions."""

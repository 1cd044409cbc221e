"""Self-contained HTML pages about a run, a detector or an ablation."""

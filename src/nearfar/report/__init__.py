"""One page about a run or a detector: a file that needs no network."""

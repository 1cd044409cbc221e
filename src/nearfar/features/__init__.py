"""Features of recordings: extraction and cache."""

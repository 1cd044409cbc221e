"""From embeddings to anomaly scores: memory banks, fusion, score files."""

"""From clips to a fine-tuned embedder: composite labels, batches, one loop."""

"""Self-supervised pre-training of EAT."""

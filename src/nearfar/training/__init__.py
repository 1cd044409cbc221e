"""Training: composite labels, batches, the training loop, and fine-tuning."""

"""Audio encoders, their weights and adapters."""

"""From waveforms to embeddings: fbank, EAT, pooling, angular-margin head."""

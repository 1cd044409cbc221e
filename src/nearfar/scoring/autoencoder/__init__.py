"""The baselines of the challenge: an autoencoder per machine."""

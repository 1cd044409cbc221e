"""Trainable models, waveform to embedding, and the folders that trained ones are saved in."""

from nearfar.models.embedder import Embedder, EmbedderWithLoss, build_model, load_start, start_weights
from nearfar.models.folder import TrainedEmbedder, load_model, read_card, save_model

__all__ = [
    "Embedder", "EmbedderWithLoss", "TrainedEmbedder", "build_model", "load_model", "load_start", "read_card",
    "save_model", "start_weights",
]  # fmt: skip

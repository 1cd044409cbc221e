"""Features for the comparison of clips, computed from batches of windows, and the table of their sources."""

from nearfar.features.sources import EMBEDDING, LOG_MEL, SLANEY, SOURCES, TOKENS, EncoderParts, Source
from nearfar.features.windows import WindowBatch

SOURCES["embedding"] = EMBEDDING
SOURCES["tokens"] = TOKENS
SOURCES["log-mel"] = LOG_MEL
SOURCES["slaney"] = SLANEY

__all__ = ["SOURCES", "EncoderParts", "Source", "WindowBatch"]

"""The memory of a watch: one SQLite file, or a PostgreSQL database."""

from nearfar.watch.memory.connection import MemoryUnavailableError
from nearfar.watch.memory.memory import Memory
from nearfar.watch.memory.thinning import Ages
from nearfar.watch.memory.writer import StreamRow, Writer

__all__ = ["Ages", "Memory", "MemoryUnavailableError", "StreamRow", "Writer"]

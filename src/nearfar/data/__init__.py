"""From a folder to waveforms: clips, layouts, audio, and a simulator that makes folders."""

from nearfar.data.audio import AudioHeader, read_header, read_waveform
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_dataset, read_normals

__all__ = ["AudioHeader", "Clip", "Dataset", "read_dataset", "read_header", "read_normals", "read_waveform"]

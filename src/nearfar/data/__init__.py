"""Datasets and audio: read folders of recordings, their headers and waveforms; download and simulate data."""

from nearfar.data.audio import AudioHeader, read_header, read_waveform
from nearfar.data.clips import Clip
from nearfar.data.layouts import Dataset, read_dataset, read_normals

__all__ = ["AudioHeader", "Clip", "Dataset", "read_dataset", "read_header", "read_normals", "read_waveform"]

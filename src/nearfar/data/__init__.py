"""From a folder to waveforms: clips, layouts, audio, and a simulator that makes folders."""

"""Sound and pictures of clips as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
PEAK = 0.9
MOST_COLUMNS = 480


@dataclass(frozen=True, slots=True)
class Sound:
    """A channel of a clip, ready to be played."""

    name: str
    uri: str


def sound(name: str, waveform: NDArray[np.float32]) -> Sound:
    """A waveform of (samples,) at 16 kHz as MP3, brought to full scale so that quiet rooms can be heard.

    WAV where the sound library writes no MP3.
    """
    peak = float(np.abs(waveform).max(initial=0.0))
    loud = waveform * np.float32(PEAK / peak) if peak > 0 else waveform
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(buffer, loud, SAMPLE_RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
        kind = "audio/mpeg"
    else:
        soundfile.write(buffer, loud, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
        kind = "audio/wav"
    return Sound(name, f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")


def spectrogram(log_mel: NDArray[np.float32]) -> str:
    """A log-mel spectrogram, (frames, 128), as a PNG with time to the right and low frequencies at the bottom."""
    from matplotlib import colormaps
    from PIL import Image

    step = -(-len(log_mel) // MOST_COLUMNS)
    columns = len(log_mel) // step
    thinned = log_mel[: columns * step].reshape(columns, step, -1).mean(axis=1)
    low, high = np.quantile(thinned, [0.05, 0.995])
    shares = np.clip((thinned - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    palette = (colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    picture = Image.fromarray((255 * shares.T[::-1]).astype(np.uint8), mode="P")
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

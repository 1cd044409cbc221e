"""Where sound comes from. A new kind of source is one file and one line in :data:`AUDIO_SOURCES`."""

from nearfar.watch.sources.base import (
    AUDIO_SOURCES,
    AudioBlock,
    AudioSource,
    SourceError,
    SourceKind,
    Taken,
    TakenRecordings,
)
from nearfar.watch.sources.folder import FolderSettings, FolderSource
from nearfar.watch.sources.pcm import PcmSettings, PcmSource
from nearfar.watch.sources.simulated import SimulatedSettings, SimulatedSource
from nearfar.watch.sources.sound_card import SoundCardSettings, SoundCardSource
from nearfar.watch.sources.url import UrlSettings, UrlSource

__all__ = ["AUDIO_SOURCES", "AudioBlock", "AudioSource", "SourceError", "SourceKind", "Taken", "TakenRecordings"]

AUDIO_SOURCES["folder"] = SourceKind(
    build=FolderSource, settings=FolderSettings, description="recordings that appear in {folder}"
)
AUDIO_SOURCES["simulated"] = SourceKind(
    build=SimulatedSource, settings=SimulatedSettings, description="a simulated {machine_type}"
)
AUDIO_SOURCES["sound-card"] = SourceKind(
    build=SoundCardSource, settings=SoundCardSettings, description="the sound card {device}", live=True
)
AUDIO_SOURCES["url"] = SourceKind(build=UrlSource, settings=UrlSettings, description="{url}")
AUDIO_SOURCES["stdin"] = SourceKind(
    build=PcmSource, settings=PcmSettings, description="samples on standard input", live=True
)

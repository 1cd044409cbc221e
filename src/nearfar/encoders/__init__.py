"""Audio encoders, their weights and how they are trained.

To add a family, write a subclass of :class:`Encoder` with its weights and front end, and one line here::

    ENCODERS["beats"] = EncoderFamily(load=..., save=..., frontend=KaldiFbank, description="BEATs")
"""

from nearfar.encoders.adaptation import ADAPTATIONS, Adaptation, BaseEncoder, LoraSettings
from nearfar.encoders.base import (
    ENCODERS,
    Encoder,
    EncoderFamily,
    Tokens,
    encoder_hash,
    stochastic_depth,
    token_keep,
)
from nearfar.encoders.beats import load_beats, save_beats
from nearfar.encoders.dasheng import load_dasheng, save_dasheng
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.encoders.noise_aware import load_noise_aware, save_noise_aware
from nearfar.encoders.speedups import SPEEDUPS, Speedup
from nearfar.encoders.weights import load_encoder, parameter_count, save_encoder
from nearfar.frontends import KaldiFbank
from nearfar.frontends import beats as beats_frontend
from nearfar.frontends import dasheng as dasheng_frontend
from nearfar.frontends.base import EachSignal

__all__ = [
    "ADAPTATIONS",
    "EAT",
    "ENCODERS",
    "SPEEDUPS",
    "Adaptation",
    "BaseEncoder",
    "EATConfig",
    "Encoder",
    "EncoderFamily",
    "LoraSettings",
    "Speedup",
    "Tokens",
    "build_encoder",
    "encoder_hash",
    "load_encoder",
    "parameter_count",
    "save_encoder",
    "stochastic_depth",
    "token_keep",
]

ENCODERS["eat"] = EncoderFamily(
    load=lambda name, revision: load_encoder(name, revision=revision),
    save=save_encoder,
    frontend=KaldiFbank,
    description="EAT",
)
ENCODERS["beats"] = EncoderFamily(
    load=load_beats,
    save=save_beats,
    frontend=beats_frontend.BEATsFbank,
    fbank=(beats_frontend.MEAN, beats_frontend.STD),
    description="BEATs",
)
ENCODERS["dasheng"] = EncoderFamily(
    load=load_dasheng,
    save=save_dasheng,
    frontend=dasheng_frontend.DashengLogMel,
    fbank=(dasheng_frontend.MEAN, dasheng_frontend.STD),
    description="Dasheng",
)
ENCODERS["eat-noise-aware"] = EncoderFamily(
    load=load_noise_aware,
    save=save_noise_aware,
    frontend=lambda mean, std: EachSignal(KaldiFbank(mean, std)),
    signals=2,
    description="EAT with noise-aware layers",
)

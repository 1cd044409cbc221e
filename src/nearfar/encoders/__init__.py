"""Audio encoders, their weights and adapters."""

from nearfar.encoders.base import (
    ENCODERS,
    Encoder,
    EncoderFamily,
    Tokens,
    encoder_hash,
    stochastic_depth,
)
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.encoders.weights import load_encoder, parameter_count, save_encoder
from nearfar.frontends.kaldi import Fbank

__all__ = [
    "EAT",
    "ENCODERS",
    "EATConfig",
    "Encoder",
    "EncoderFamily",
    "Tokens",
    "build_encoder",
    "encoder_hash",
    "load_encoder",
    "parameter_count",
    "save_encoder",
    "stochastic_depth",
]

ENCODERS["eat"] = EncoderFamily(
    load=lambda name, revision: load_encoder(name, revision=revision),
    save=save_encoder,
    frontend=Fbank,
    description="EAT",
)

"""Log-mel front ends: EAT's Kaldi filter banks, and the Slaney spectrograms of the challenge's autoencoder."""

from nearfar.frontends.base import Frontend
from nearfar.frontends.kaldi import KaldiFbank
from nearfar.frontends.slaney import SlaneyLogMel, slaney_log_mel

__all__ = ["Frontend", "KaldiFbank", "SlaneyLogMel", "slaney_log_mel"]

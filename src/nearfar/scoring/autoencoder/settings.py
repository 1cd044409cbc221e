"""Settings of the autoencoder back-end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nearfar.settings import PositiveFloat, PositiveInt, Rate, Settings


class AutoencoderSettings(Settings):
    """Training and score of the autoencoder.

    Attributes:
        batch_size: number of vectors of five frames.
        validation_fraction: fraction of vectors held out to report their loss; the scores do not depend on it.
        score: ``mse``, or ``mahala`` for the selective Mahalanobis distance.
        textbook: with ``mahala``, use the mean Mahalanobis distance of the frames instead of the computation of
            the official code (see :func:`nearfar.scoring.autoencoder.scores.selective_score`).
    """

    epochs: PositiveInt = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    learning_rate: PositiveFloat = 1e-3
    validation_fraction: Rate = 0.1
    score: Literal["mse", "mahala"] = "mse"
    textbook: bool = False

    @property
    def domain_words(self) -> str | None:
        """The handling of domains, for the description of a submission."""
        return "covariance of each domain, smaller distance" if self.score == "mahala" else None

    @property
    def method(self) -> str:
        """The words of a submission file for the score."""
        return "AE, selective Mahalanobis distance" if self.score == "mahala" else "AE"

"""Settings of the nearest-neighbour back-end."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from nearfar.scoring.parts import OverParts
from nearfar.settings import Fraction, PositiveFloat, PositiveInt, Settings, refusal

Distance = Literal["cosine", "standardised"]
Normalisation = Literal["none", "ratio", "difference", "varmin"]
Domains = Literal["pooled", "separate", "standardised"]


class NearestSettings(Settings):
    """Settings of the distance to normal clips; the defaults are equation 3 of the report.

    Attributes:
        distance: ``cosine``, or ``standardised``: Euclidean, every dimension divided by its deviation over
            normals.
        neighbours: K; the score is the mean distance to the K nearest normal clips.
        shared_neighbour: all parts have the same nearest clips, by mean distance, instead of each its own.
        normalisation: rescaling of a distance D by the density b around the normal clip: ``ratio`` D / b,
            ``difference`` D - b, ``varmin`` D - lambda alpha b.
        varmin_scale: lambda, from 0, the distance alone, to 1.
        over_parts: the score of a clip is the mean of its parts' scores, the largest, or their mean weighted by
            the softmax of these in units of their deviation.
        density_neighbours: K of b, the mean distance to the K nearest other normals.
        target_density_neighbours: K of b in the target domain, if ``domains`` is not ``pooled``.
        domains: ``pooled`` is one bank; ``separate`` a bank per domain and the lower score; ``standardised`` also
            divides each score by the domain's median leave-one-out score.
        enrichment: synthetic normals of the target domain: ``memmix`` or ``smote``.
        memmix_lambda: weight of the target clip.
        memmix_sources: number of nearest source clips that each target clip is mixed with.
        smote_neighbours: number of neighbours to draw from.
        smote_ratio: target clips, synthetic ones included, per source clip.
        prototypes: use only this many source clips, nearest to the centres of k-means; None uses all.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"varmin_scale", "over_parts"})

    distance: Distance = "cosine"
    neighbours: PositiveInt = 1
    shared_neighbour: bool = False
    normalisation: Normalisation = "none"
    varmin_scale: Annotated[float, Field(ge=0, le=1)] = 1.0
    over_parts: OverParts = "mean"
    density_neighbours: PositiveInt = 4
    target_density_neighbours: PositiveInt = 9
    domains: Domains = "pooled"
    enrichment: Literal["none", "memmix", "smote"] = "none"
    memmix_lambda: Fraction = 0.9
    memmix_sources: PositiveInt = 990
    smote_neighbours: PositiveInt = 2
    smote_ratio: PositiveFloat = 0.2
    prototypes: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits(self) -> NearestSettings:
        if self.domains == "standardised" and self.normalisation != "none":
            expected = "'pooled' or 'separate', as 'standardised' needs normalisation = 'none'"
            raise refusal("domains", self.domains, expected)
        return self

    def identity(self) -> dict[str, Any]:
        """As :meth:`Settings.identity`, without keys that have no effect with the values of the others."""
        unused = {
            key
            for kind in ("memmix", "smote")
            for key in type(self).model_fields
            if key.startswith(f"{kind}_") and self.enrichment != kind
        }
        if self.normalisation != "varmin":
            unused.add("varmin_scale")
        if self.normalisation == "none":
            unused |= {"density_neighbours", "target_density_neighbours"}
        elif self.domains == "pooled":
            unused.add("target_density_neighbours")
        return {key: value for key, value in super().identity().items() if key not in unused}

    @property
    def only_lowers(self) -> bool:
        """Whether another normal clip can lower scores and never raise one: plain cosine distances."""
        choices = (self.distance, self.normalisation, self.enrichment, self.prototypes)
        return choices == ("cosine", "none", "none", None) and self.domains != "standardised"


DESCRIPTIONS = {
    "ratio": "distance as ratio to the density of normal clips",
    "difference": "distance as difference from the density of normal clips",
    "varmin": "distance as variance-minimising share of the density of normal clips",
    "memmix": "MemMixup",
    "smote": "SMOTE",
    "separate": "bank of each domain, smaller distance",
    "standardised": "bank of each domain, smaller distance in units of the domain's median",
}
"""Phrases of the description of a submission, by value of ``normalisation``, ``enrichment`` or ``domains``."""

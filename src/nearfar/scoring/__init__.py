"""Anomaly scores: back-ends that compare clips with normal clips, and the fusion of views."""

from nearfar.scoring.autoencoder.backend import AUTOENCODER
from nearfar.scoring.backends import BACKENDS, Backend, Scorer, Workspace
from nearfar.scoring.contributions import Contributions, ExplainingScorer, ViewContributions
from nearfar.scoring.fusion import FUSIONS, Fusion
from nearfar.scoring.machine import MachineScorer, ScoringPlan, ViewScores
from nearfar.scoring.mahalanobis import Mahalanobis, MahalanobisSettings
from nearfar.scoring.nearest import BEAM, LocalDensity, NearestNeighbours, VarMin
from nearfar.scoring.settings import DESCRIPTIONS, NearestSettings
from nearfar.scoring.tolerant import TolerantNeighbours, TolerantSettings

BACKENDS["nearest-neighbours"] = Backend(
    description="k-NN",
    settings=NearestSettings,
    fit=lambda normals, target, settings, seed, _: NearestNeighbours(settings, seed=seed).fit(normals, target),
    only_lowers=lambda settings: settings.only_lowers,
    exact_leave_one_out=lambda settings: settings.distance == "cosine",  # the other scaling is not fitted again
    distance=lambda settings: settings.distance,
    aggregation=lambda settings: DESCRIPTIONS.get(settings.normalisation),
    domain_adaptation=lambda settings: DESCRIPTIONS.get(settings.enrichment),
    domain_generalisation=lambda settings: DESCRIPTIONS.get(settings.domains),
)
BACKENDS["mahalanobis"] = Backend(
    description="Mahalanobis distance",
    settings=MahalanobisSettings,
    fit=lambda normals, target, settings, seed, workspace: Mahalanobis(settings).fit(normals, target),
    domain_generalisation=lambda settings: "mean of each domain, smaller distance",
)
BACKENDS["autoencoder"] = AUTOENCODER
BACKENDS["tolerant-neighbours"] = Backend(
    description="k-NN with tolerance of speed and gain",
    settings=TolerantSettings,
    fit=lambda normals, target, settings, seed, workspace: TolerantNeighbours(settings).fit(normals, target),
    exact_leave_one_out=lambda settings: False,
    source="scaled-log-mel",
    aggregation=lambda settings: "per frequency band, " + DESCRIPTIONS["varmin"],
)

__all__ = [
    "BACKENDS", "BEAM", "FUSIONS", "Backend", "Contributions", "ExplainingScorer", "Fusion", "LocalDensity",
    "MachineScorer", "Mahalanobis", "NearestNeighbours", "Scorer", "ScoringPlan", "VarMin", "ViewContributions",
    "ViewScores", "Workspace",
]  # fmt: skip

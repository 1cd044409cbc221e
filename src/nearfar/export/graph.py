"""The graph of a detector: from the samples of windows to scores, p-values and decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nearfar.detector.machine import FittedMachine
from nearfar.export.backends import exported_backend
from nearfar.export.features import exported_source
from nearfar.export.signals import EXPORTED_VIEWS, cannot
from nearfar.pipeline.extractor import Extractor
from nearfar.views import channels_of, combined_features


class Outputs(NamedTuple):
    """The outputs of a graph; the names are those of its outputs.

    Attributes:
        score: (windows,) float64, higher is more anomalous.
        view_scores: (windows, views) float64, before fusion.
        part_scores: (windows, views, parts) float64, which add up to ``view_scores``.
        nearest: (windows,) int64, the nearest normal window of the first view; -1 where there is none.
        p_value: (windows,) float64.
        anomalous: (windows,) bool.
    """

    score: Tensor
    view_scores: Tensor
    part_scores: Tensor
    nearest: Tensor
    p_value: Tensor
    anomalous: Tensor


class DetectorGraph(nn.Module):
    """The scores of one machine of a detector.

    Args:
        extractor: of the detector.
        fitted: the machine.

    Raises:
        InputError: if the recipe has a choice that cannot be exported.
    """

    target: Tensor

    def __init__(self, extractor: Extractor, fitted: FittedMachine) -> None:
        super().__init__()
        recipe: Any = extractor.recipe
        self._recipe = recipe
        self.channels: tuple[str, ...] = channels_of(recipe.waveform_views)
        settings = recipe.view_settings()
        missing = [view for view in recipe.waveform_views if view not in EXPORTED_VIEWS]
        if missing:
            raise cannot("scoring.views", missing[0])
        self._views = {view: EXPORTED_VIEWS[view](settings[view]) for view in recipe.waveform_views}
        self._of_views = nn.ModuleList(view for view in self._views.values() if isinstance(view, nn.Module))
        self.source = exported_source(extractor)
        self.backends = nn.ModuleDict(
            {view: exported_backend(scorer) for view, scorer in fitted.scorer.scorers.items()}
        )
        terms = fitted.scorer.terms
        if terms is None:
            raise cannot("scoring.fusion", recipe.scoring.fusion)
        self.terms = terms
        self.register_buffer("target", torch.from_numpy(fitted.target[fitted.recording]).long())
        self.eval().requires_grad_(False)
        self.parts = self._number_of_parts(extractor.padded_samples)

    def forward(
        self, samples: Tensor, thresholds: Tensor, calibration_scores: Tensor, calibration_weights: Tensor
    ) -> Outputs:
        """Score windows of one length.

        Args:
            samples: (windows, channels, samples) float32 at the detector's rate, the channels as in ``channels``.
            thresholds: (2,) float64, of recordings of the source and of the target domain.
            calibration_scores: (normals,) float64, scores of normal recordings.
            calibration_weights: (2, normals) float64, the weight of each in p-values of either domain.
        """
        recorded = {channel: samples[:, number] for number, channel in enumerate(self.channels)}
        features = self._features(recorded)
        fused, views, parts, nearest = 0.0, [], [], None
        for view, backend in self.backends.items():
            score, of_parts, closest = backend(features[view])
            weight, constant = self.terms[view]
            fused = fused + weight * score + constant
            views.append(score)
            parts.append(of_parts)
            nearest = closest if nearest is None else nearest
        assert isinstance(fused, Tensor)
        assert nearest is not None
        domain = torch.where(nearest >= 0, self.target[nearest.clamp_min(0)], torch.zeros_like(nearest))
        weights = calibration_weights[domain]
        at_least = (calibration_scores >= fused[:, None]).double() * weights
        p_value = ((1.0 + at_least.sum(dim=1)) / (1.0 + weights.sum(dim=1))).clamp_max(1.0)
        return Outputs(
            fused,
            torch.stack(views, dim=1),
            torch.stack(parts, dim=1),
            nearest,
            p_value,
            fused > thresholds[domain],
        )

    @torch.inference_mode()
    def _number_of_parts(self, samples: int) -> int:
        """Parts of a score, of one window."""
        noise = 0.05 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
        features = self._features({channel: noise.roll(number) for number, channel in enumerate(self.channels)})
        view, backend = next(iter(self.backends.items()))
        return int(backend(features[view])[1].shape[1])

    def _features(self, recorded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {view: self.source(make(recorded)) for view, make in self._views.items()}
        return combined_features(found, self._recipe.scoring.views, self._recipe.view_settings())

"""What is in a machine's bank: normal clips, and clips made up of them; and what is in it if a clip is left out.

Left out means, for a clip *r* of the N that the bank was made from:

* plain banks and MemMix: what a bank made of the other N - 1 clips holds;
* SMOTE: the made-up clips that *r* is a parent of go with it; all others stay as they were drawn;
* prototypes: the centres of k-means stay; if *r* is the clip nearest to one, the next nearest of its cluster takes
  its place.

(To draw or to cluster anew would change the rest of the bank at random, and so the scores of clips that have
nothing to do with *r*.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearfar.config import Scoring
from nearfar.scoring.distances import EPSILON, Scaling
from nearfar.scoring.enrichment import memmix_pairs, prototypes, smote_pairs


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """Entries of a bank: those it holds, and some that would take another's place.

    Attributes:
        entries: (entries, parts, dim), scaled features.
        target: (entries,) bool, whether an entry is of the target domain.
        parents: (entries, 2) int64, the normal clips an entry is made of; a clip that is itself, twice.
        now: (entries,) bool, which entries the whole bank holds.
        stand_ins: (pairs, 2) int64, in rising order: if the first, a clip, is left out, the second, an entry,
            joins.
    """

    entries: Tensor
    target: Tensor
    parents: Tensor
    now: Tensor
    stand_ins: Tensor

    def without(self, clips: Tensor) -> Tensor:
        """Which entries the bank holds if one of ``clips`` is left out: (clips, entries) bool."""
        present = self.now & (self.parents[:, 0] != clips[:, None]) & (self.parents[:, 1] != clips[:, None])
        row = torch.full((int(self.stand_ins[:, 0].max()) + 1 if len(self.stand_ins) else 0,), -1)
        known = torch.nonzero(clips < len(row))[:, 0]
        row[clips[known]] = known
        of_these = row[self.stand_ins[:, 0]]
        present[of_these[of_these >= 0], self.stand_ins[of_these >= 0, 1]] = True
        return present


def make_bank(scaling: Scaling, scaled: Tensor, target: Tensor, scoring: Scoring, seed: int) -> Bank:
    """The bank of normal clips that a recipe asks for.

    Args:
        scaling: gives distances.
        scaled: (normals, parts, dim), scaled features of the normal clips.
        target: (normals,) bool, true for clips of the target domain.
        scoring: enrichment and prototypes are read.
        seed: of made-up clips and of k-means.
    """
    clips = torch.arange(len(scaled))
    now, joins = torch.ones(len(scaled), dtype=torch.bool), [torch.empty(0, 2, dtype=torch.int64)]
    if scoring.prototypes is not None:
        kept = prototypes(scaled, target, scoring.prototypes, seed)
        now = target.clone()
        now[kept[:, 0]] = True
        joins.append(kept[kept[:, 1] >= 0])
    pairs, share, held = torch.empty(0, 2, dtype=torch.int64), torch.empty(0), now[:0]
    if scoring.enrichment == "memmix":
        pairs, held = memmix_pairs(scaling, scaled, target, scoring.memmix_sources)
        share = torch.full((len(pairs),), 1.0 - scoring.memmix_lambda)
        joins.append(_memmix_stand_ins(pairs, held, first=len(scaled)))
    elif scoring.enrichment == "smote":
        pairs, share = smote_pairs(scaling, scaled, target, scoring.smote_neighbours, scoring.smote_ratio, seed)
        held = torch.ones(len(pairs), dtype=torch.bool)
    now, stand_ins = torch.cat([now, held]), torch.unique(torch.cat(joins), dim=0)
    parents = torch.cat([torch.stack([clips, clips], dim=1), pairs])
    of_target = torch.cat([target, torch.ones(len(pairs), dtype=torch.bool)])
    if bool(now.all()) and not len(pairs):
        return Bank(scaled, of_target, parents, now, stand_ins)  # no copy of what is most of the memory
    ever = now.clone()
    ever[stand_ins[:, 1]] = True
    stand_ins[:, 1] = ever.cumsum(dim=0)[stand_ins[:, 1]] - 1
    real, mixed = ever[: len(scaled)], ever[len(scaled) :]
    made = _mixed(scaling, scaled, pairs[mixed], share[mixed])
    return Bank(torch.cat([scaled[real], made]), of_target[ever], parents[ever], now[ever], stand_ins)


def _mixed(scaling: Scaling, scaled: Tensor, pairs: Tensor, share: Tensor) -> Tensor:
    """(1 - share) * first + share * second; for the cosine again of length one."""
    share = share.to(scaled.dtype)[:, None, None]
    made = torch.lerp(scaled[pairs[:, 0]], scaled[pairs[:, 1]], share)
    if scaling.distance == "cosine":
        made /= made.norm(dim=-1, keepdim=True).clamp_min(EPSILON)
    return made


def _memmix_stand_ins(pairs: Tensor, held: Tensor, first: int) -> Tensor:
    """Where a source clip that a target clip is mixed with is left out, the target clip's spare mix joins."""
    spare = torch.nonzero(~held)[:, 0]
    if not len(spare):
        return pairs[:0]
    of_target = torch.full((int(pairs[:, 0].max()) + 1,), -1)
    of_target[pairs[spare, 0]] = spare + first
    return torch.stack([pairs[held, 1], of_target[pairs[held, 0]]], dim=1)

"""The memory bank of normal embeddings and the anomaly score: cosine distance to the nearest of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """Embeddings of normal training clips; a buffer, so that it saves and moves with a model.

    Args:
        embeddings: (normals, dim) float32, of any length greater than zero.

    Raises:
        ValueError: if there are none, or one has no direction (zero or not finite).
    """

    normals: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        if embeddings.dim() != 2 or len(embeddings) == 0:
            raise ValueError(f"expected (normals >= 1, dim) embeddings, got {tuple(embeddings.shape)}")
        self.register_buffer("normals", _directions(embeddings))

    def nearest(self, embeddings: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
        """Distance to, and index of, the nearest normal embedding; equation 3 of the report with K = 1.

        Exact: every pair is compared, ``chunk`` queries at a time to bound memory.

        Args:
            embeddings: (queries, dim) float32.
            chunk: queries compared at once.

        Returns:
            ``1 - max_n cos(E, E_n)``, (queries,) float32 in 0 to 2, and (queries,) int64.

        Raises:
            ValueError: if an embedding has no direction.
        """
        # Splitting no queries gives one empty part, so there is always something to join.
        parts = [(_directions(part) @ self.normals.T).max(dim=1) for part in torch.split(embeddings, chunk)]
        similarity = torch.cat([part.values for part in parts])
        return (1.0 - similarity).clamp(0.0, 2.0), torch.cat([part.indices for part in parts])

    def forward(self, embeddings: Tensor) -> Tensor:
        """Anomaly scores, (queries,) float32; higher is more anomalous."""
        return self.nearest(embeddings)[0]


def _directions(embeddings: Tensor) -> Tensor:
    embeddings = embeddings.float()
    lengths: Tensor = embeddings.norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(lengths) & (lengths > 0)).all()):
        raise ValueError("an embedding is zero or not finite, so it has no direction")
    return embeddings / lengths  # F.normalize would leave a length below 1e-12 short of one

"""Contributions by band and quantity, the bands that a score is due to, and the words for them: cases by hand."""

from __future__ import annotations

import pytest
import torch

from nearfar.explain.attribution import Contribution, Part, cause, parts_of
from nearfar.explain.dimensions import (
    Dimensions,
    Quantity,
    banded,
    of_log_mel,
    of_mel_bins,
    of_token_bands,
    undivided,
)
from nearfar.explain.localisation import band_edges_hz
from nearfar.frontends.kaldi import mel_centres_hz
from nearfar.scoring.contributions import ViewContributions

EDGES = band_edges_hz()
LEVEL = Quantity("level", "quieter", "louder", to_db=2.0)
CHANGES = [Quantity(f"change over {t}", "steadier", "more variable", t, 2.0) for t in ("10 ms", "40 ms", "160 ms")]
TOKENS = Quantity("tokens")


def part(
    band: int, share: float, difference: float | None = 1.0, quantity: Quantity = LEVEL, view: str = "near"
) -> Part:
    decibels = None if difference is None or quantity.to_db is None else quantity.to_db * difference
    entry = Contribution(view, EDGES[band], EDGES[band + 1], quantity.name, share, decibels)
    return Part(entry, quantity, difference, "the nearest normal recordings")


def of_shares(*shares: float) -> list[Part]:
    return [part(band, share) for band, share in enumerate(shares)]


def test_the_bands_are_those_around_the_peak_that_reach_half_of_it() -> None:
    found = cause(of_shares(1, 0, 1, 3, 4, 2, 1.9, 3))
    assert found is not None
    assert found.bands == slice(3, 6), "the last band is beyond one below half"
    assert found.share == pytest.approx(9 / 15.9)


def test_contributions_below_zero_do_not_count_in_the_whole() -> None:
    found = cause(of_shares(-1, 0, 0, 0, 3, 0, 0, 1))
    assert found is not None
    assert found.share == pytest.approx(3 / 4)


def test_quantities_of_a_band_are_added_before_the_peak_is_found() -> None:
    parts = [part(1, 3), part(2, 2), part(2, 2, quantity=CHANGES[0])]
    found = cause(parts)
    assert found is not None
    assert found.bands == slice(1, 3)
    assert cause(parts[1:]).bands == slice(2, 3)


def test_what_is_of_the_whole_spectrum_has_no_band() -> None:
    whole = Part(Contribution("near", 20.0, 8000.0, "score", 3.0, None), TOKENS, None, "")
    assert cause([whole]) is None
    assert cause([part(2, -1.0)]) is None
    found = cause([whole, part(2, 1.0)])
    assert found is not None
    assert found.share == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part(3, 2, 3.0)], "6 dB louder than the nearest normal recordings"),
        ([part(3, 2, -3.0)], "6 dB quieter than the nearest normal recordings"),
        # Two bands of weights 2 and 1: (2 * 1 - 1 * 1) / 3 = 1/3, in dB 2/3.
        ([part(3, 2, 1.0), part(4, 1, -1.0)], "0.7 dB louder than the nearest normal recordings"),
        (
            [part(3, 2, 3.0), part(3, 1, 0.5, CHANGES[0])],
            "6 dB louder and 1 dB more variable over 10 ms than the nearest normal recordings",
        ),
        # Below a quarter of the region's contributions a quantity is not named.
        ([part(3, 4, 3.0), part(3, 1, 0.5, CHANGES[0])], "6 dB louder than the nearest normal recordings"),
        (
            [part(3, 1, -1.0, each) for each in CHANGES],
            "2 dB steadier over 10, 40 and 160 ms than the nearest normal recordings",
        ),
        # Shorter than half of the largest of the same word: 40 ms is not listed.
        (
            [part(3, 4, 1.0, CHANGES[0]), part(3, 1, 1.0, CHANGES[1]), part(3, 2, 1.0, CHANGES[2])],
            "2 dB more variable over 10 and 160 ms than the nearest normal recordings",
        ),
        ([part(3, 1, None, TOKENS)], "tokens unlike the nearest normal recordings"),
        (
            [part(3, 2, 3.0), part(3, 5, -3.0, view="far")],
            "6 dB quieter than the nearest normal recordings in the view far",
        ),
        # A part that lowers the score has no words.
        ([part(3, 4, 3.0), part(3, -3, -5.0, CHANGES[0])], "6 dB louder than the nearest normal recordings"),
    ],
)
def test_words(parts: list[Part], words: str) -> None:
    found = cause(parts)
    assert found is not None
    assert found.words == words


def view(
    shares: list[list[float]], difference: list[list[float]] | None = None, constant: float = 0.0
) -> ViewContributions:
    values = torch.tensor([shares], dtype=torch.float64)
    other = None if difference is None else torch.tensor([difference], dtype=torch.float64)
    return ViewContributions(values, other, constant, "the mean")


def test_parts_add_up_to_the_score_and_are_sorted() -> None:
    index = torch.tensor([[0, 0, 1], [2, 2, 3]])  # quantity * 2 + band
    dimensions = banded([20.0, 500.0, 8000.0], [LEVEL, CHANGES[0]], index)
    views = {"near": view([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]], [[2.0, -2.0, 5.0], [1.0, 3.0, 7.0]], constant=-0.5)}
    parts = parts_of(views, dimensions, 0, 4.5)
    assert sum(part.contribution.share for part in parts) == pytest.approx(4.5, rel=1e-12)
    found = [(p.contribution.kind, p.contribution.low_hz, p.contribution.share, p.difference) for p in parts]
    assert found == [
        ("level", 20.0, 4.0, -1.0),  # (1 * 2 - 3 * 2) / 4
        ("level", 500.0, 2.0, 5.0),
        ("change over 10 ms", 20.0, 0.0, 2.0),  # without contributions, the mean
        ("constant of the fusion", 20.0, -0.5, None),
        ("change over 10 ms", 500.0, -1.0, 7.0),
    ]
    assert [p.contribution.difference_db for p in parts] == [-2.0, 10.0, 4.0, None, 14.0]
    assert {p.reference for p in parts if p.difference is not None} == {"the mean"}


def test_rounding_of_the_score_is_made_up_for() -> None:
    parts = parts_of({"near": view([[1.0, 3.0]], [[0.0, 0.0]])}, undivided(1, 2), 0, 4.0000001)
    assert parts[0].contribution.share == pytest.approx(4.0000001, rel=1e-15)


def test_views_of_another_shape_and_scores_that_are_not_divided_have_no_bands() -> None:
    dimensions = of_log_mel(8, [LEVEL])
    for one in (view([[1.0, 3.0]], [[0.0, 0.0]]), view([[4.0]])):
        parts = parts_of({"near": one}, dimensions, 0, 4.0)
        assert [(p.contribution.low_hz, p.contribution.high_hz) for p in parts] == [(20.0, 8000.0)]
        assert cause(parts) is None


# --- dimensions -------------------------------------------------------------------------------------------------


def groups(dimensions: Dimensions, part: int) -> list[tuple[str, float, float]]:
    chosen = [dimensions.groups[index] for index in dimensions.index[part].tolist()]
    return [(group.quantity.name, group.low_hz, group.high_hz) for group in chosen]


def test_log_mel_statistics_are_described_with_and_without_parts_per_band() -> None:
    quantities = [LEVEL, CHANGES[0]]
    by_band = of_log_mel(8, quantities)
    assert by_band.index.shape == (8, 32)
    assert (
        groups(by_band, 5)
        == [("level", EDGES[5], EDGES[6])] * 16 + [("change over 10 ms", EDGES[5], EDGES[6])] * 16
    )
    together = of_log_mel(1, quantities)
    assert together.index.shape == (1, 256)
    expected = [(q.name, EDGES[b // 16], EDGES[b // 16 + 1]) for q in quantities for b in range(128)]
    assert groups(together, 0) == expected
    for centre, (_, low, high) in zip(mel_centres_hz().tolist(), expected[:128], strict=True):
        assert low < centre < high


def test_mel_bins_of_another_scale_lie_in_the_band_of_their_centre() -> None:
    found = of_mel_bins(torch.tensor([10.0, 300.0, 7999.0]), 4, LEVEL)
    assert found.index.tolist() == [[0, 1, 7]] * 4


def test_tokens_have_the_bands_of_their_patches() -> None:
    found = of_token_bands(["tokens of block 3", "tokens of block 4"], 16, 5)
    assert found.index.shape == (16, 5)
    name, low, high = groups(found, 8 + 2)[0]
    assert name == "tokens of block 4"
    assert (low, high) == (pytest.approx(EDGES[2], rel=2e-3), pytest.approx(EDGES[3], rel=2e-3))
    coarse = of_token_bands(["tokens"], 4, 5)
    assert groups(coarse, 3)[0][1:] == (pytest.approx(EDGES[6], rel=2e-3), pytest.approx(EDGES[8]))
    contribution = Contribution("near", *groups(coarse, 3)[0][1:], "tokens", 1.0, None)
    bands = cause([Part(contribution, TOKENS, None, "r")])
    assert bands is not None
    assert bands.bands == slice(6, 8)


def test_sums_of_groups() -> None:
    dimensions = banded([20.0, 500.0, 8000.0], [LEVEL], torch.tensor([[0, 1], [1, 1]]))
    assert dimensions.sums(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[1.0, 9.0]]

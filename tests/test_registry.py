"""Tables of choices: what they list, and how a name that they lack is refused."""

from __future__ import annotations

import pytest

from nearfar.config.recipe import own_tables
from nearfar.encoders import ADAPTATIONS, ENCODERS, SPEEDUPS
from nearfar.errors import InputError, did_you_mean, one_of
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import POOLINGS, TRAINED_POOLINGS
from nearfar.registry import Entry, Registry
from nearfar.scoring import BACKENDS, FUSIONS
from nearfar.settings import PositiveFloat, Settings
from nearfar.thresholds import RULES
from nearfar.views import VIEWS

TABLES = {
    "trained pooling": (TRAINED_POOLINGS, ["asp"]),
    "pooling": (POOLINGS, ["mean", "mean-std", "rdp", "cls", "asp"]),
    "loss": (LOSSES, ["arcface", "adacos"]),
    "encoder family": (ENCODERS, ["eat", "beats", "dasheng", "eat-noise-aware"]),
    "adaptation": (ADAPTATIONS, ["full", "lora", "none"]),
    "speed-up": (SPEEDUPS, ["int8", "merged-tokens", "own-length"]),
    "view": (VIEWS, ["near", "far", "cancelled", "residual", "pair"]),
    "source of features": (SOURCES, ["embedding", "tokens", "log-mel", "scaled-log-mel", "slaney"]),
    "scoring back-end": (BACKENDS, ["nearest-neighbours", "mahalanobis", "autoencoder", "tolerant-neighbours"]),
    "fusion": (FUSIONS, ["mean", "standardised", "weighted"]),
    "threshold rule": (RULES, ["conformal", "gamma", "empirical"]),
}


class Sharpness(Settings):
    """Settings of a toy."""

    sharpness: PositiveFloat = 2.0


@pytest.fixture
def table() -> Registry[Entry]:
    table: Registry[Entry] = Registry("pooling")
    table["maximum"] = Entry(description="maximum of sharpness {sharpness:g} over tokens", settings=Sharpness)
    table["mean"] = Entry(description="mean over tokens")
    return table


def test_a_name_that_is_missing_is_refused_with_those_there_are(table: Registry[Entry]) -> None:
    with pytest.raises(InputError) as error:
        table["maxmum"]
    assert str(error.value) == (
        "pooling: found 'maxmum'; expected 'maximum' or 'mean', did you mean 'maximum'? Correct the name."
    )
    assert table.get("maxmum") is None
    assert "maxmum" not in table


def test_a_description_shows_the_values_of_settings(table: Registry[Entry]) -> None:
    assert table["maximum"].described(Sharpness(sharpness=0.5)) == "maximum of sharpness 0.5 over tokens"
    assert table["mean"].described(Settings()) == "mean over tokens"


@pytest.mark.parametrize("kind", TABLES)
def test_every_table_lists_its_choices_and_describes_each(kind: str) -> None:
    table, names = TABLES[kind]
    assert table.kind == kind
    assert list(table) == names
    for entry in table.values():
        settings = entry.settings()
        if table is RULES:  # describes the table that chooses it
            continue
        words = entry.described(settings)
        assert words
        assert "{" not in words
    with pytest.raises(InputError, match=f"^{kind}: found 'nothing'; expected '{names[0]}'"):
        table["nothing"]


def test_an_entry_with_a_table_of_its_own_names_it() -> None:
    assert sorted(own_tables()) == ["autoencoder", "cancellation", "lora"]


def test_settings_of_two_entries_of_one_recipe_table_have_different_names() -> None:
    """Keys of entries that are chosen at the same time in one table of a recipe must not collide."""
    chosen_together = [(TRAINED_POOLINGS, LOSSES), (VIEWS, BACKENDS), (VIEWS, FUSIONS), (BACKENDS, FUSIONS)]
    for first, second in chosen_together:
        keys = [
            {key for entry in table.values() if entry.table is None for key in entry.settings.model_fields}
            for table in (first, second)
        ]
        assert not keys[0] & keys[1]


def test_names_are_listed_in_words() -> None:
    assert one_of(["a"]) == "'a'"
    assert one_of(["a", "b"]) == "'a' or 'b'"
    assert one_of(["mean", "rdp", "cls"], "men") == "'mean', 'rdp' or 'cls', did you mean 'mean'?"


@pytest.mark.parametrize("given", ["quite another", None, 3, ["mean"]])
def test_nothing_close_means_no_guess(given: object) -> None:
    assert did_you_mean(given, ["none", "mean"]) == ""

"""Tables of settings: the keys of chosen entries, what identifies results, and errors in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nearfar.config import Recipe, load_recipe
from nearfar.config.recipe import own_tables
from nearfar.config.validation import validated
from nearfar.errors import InputError
from nearfar.registry import Entry, Registry
from nearfar.settings import ChoiceTable, PositiveInt, Settings, keys_of

# --- tables with choices, on toys -------------------------------------------------------------------------------


class Soft(Settings):
    """Settings of one entry."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"chunk"})

    sharpness: PositiveInt = 2
    chunk: PositiveInt = 8


class Trimmed(Settings):
    """Settings of another, one of which the first has too, with another default."""

    trim: float = 0.1
    sharpness: PositiveInt = 5


INNER: Registry[Entry] = Registry("inner")
INNER["deep"] = Entry(description="deep", settings=Soft)
INNER["flat"] = Entry(description="flat")


class Nested(ChoiceTable):
    """Settings that choose in turn."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"inner": INNER}
    inner: str = "flat"


KINDS: Registry[Entry] = Registry("kind")
KINDS["soft"] = Entry(description="soft", settings=Soft)
KINDS["trimmed"] = Entry(description="trimmed", settings=Trimmed)
KINDS["nested"] = Entry(description="nested", settings=Nested)
KINDS["plain"] = Entry(description="plain")
KINDS["apart"] = Entry(description="apart", settings=Trimmed, table="apart")


class Table(ChoiceTable):
    """A table with a choice and a list of choices."""

    choices: ClassVar[Mapping[str, Registry[Any]]] = {"kind": KINDS, "several": KINDS}
    without_effect: ClassVar[frozenset[str]] = frozenset({"threads"})

    kind: str = "plain"
    several: tuple[str, ...] = ()
    steps: PositiveInt = 10
    threads: PositiveInt = 1


def test_settings_of_the_chosen_entry_are_filled_with_their_defaults() -> None:
    table = Table(kind="soft")
    assert table.model_dump() == {
        "kind": "soft",
        "several": (),
        "steps": 10,
        "threads": 1,
        "sharpness": 2,
        "chunk": 8,
    }
    assert table.settings_of("kind") == Soft()
    assert table.entry("kind") is KINDS["soft"]
    assert Table(kind="trimmed").settings_of("kind") == Trimmed(trim=0.1, sharpness=5)
    assert Table().model_dump() == {"kind": "plain", "several": (), "steps": 10, "threads": 1}


def test_settings_are_read_and_written_as_keys_of_the_table() -> None:
    table = Table(kind="soft", sharpness=7)
    assert table.settings_of("kind") == Soft(sharpness=7)
    assert Table.model_validate(table.model_dump(mode="json")) == table


def test_settings_of_entries_that_are_not_chosen_are_checked_and_kept_and_decide_nothing() -> None:
    table = Table(kind="plain", trim=0.5)
    assert table.model_dump()["trim"] == 0.5
    assert table.identity() == Table(kind="plain").identity()
    assert Table.model_validate(table.model_dump() | {"kind": "trimmed"}).settings_of("kind").trim == 0.5
    with pytest.raises(ValidationError, match="found trim = 'much'; expected a number"):
        Table(kind="plain", trim="much")


def test_a_key_that_two_entries_have_belongs_to_the_chosen_one() -> None:
    assert Table(kind="trimmed", sharpness=3).settings_of("kind") == Trimmed(sharpness=3)
    assert Table(kind="trimmed").identity()["sharpness"] == 5
    assert Table(kind="soft").identity()["sharpness"] == 2


def test_an_entry_with_a_table_of_its_own_adds_no_keys() -> None:
    assert Table(kind="apart").model_dump() == {"kind": "apart", "several": (), "steps": 10, "threads": 1}
    assert Table(kind="apart").settings_of("kind") == Settings()


def test_a_list_of_choices_fills_the_settings_of_each() -> None:
    table = Table(several=("trimmed", "nested"), trim=0.3)
    assert table.settings_of("several") == Trimmed(trim=0.3)
    assert table.settings_of("several", "nested").identity() == {"inner": "flat"}
    assert table.identity() == {
        "kind": "plain",
        "several": ["trimmed", "nested"],
        "steps": 10,
        "trim": 0.3,
        "sharpness": 5,
        "inner": "flat",
    }


def test_choices_within_the_settings_of_a_choice() -> None:
    table = Table(kind="nested", inner="deep", sharpness=4)
    assert table.settings_of("kind").settings_of("inner") == Soft(sharpness=4)
    assert table.identity() == {"kind": "nested", "several": [], "steps": 10, "inner": "deep", "sharpness": 4}
    assert "sharpness" not in Table(kind="nested", sharpness=4).identity()
    with pytest.raises(
        ValidationError, match="found inner = 'dep'; expected 'deep' or 'flat', did you mean 'deep'"
    ):
        Table(kind="nested", inner="dep")


def test_identity_is_without_keys_that_have_no_effect() -> None:
    usual = Table(kind="soft")
    assert Table(kind="soft", threads=4, chunk=1).identity() == usual.identity()
    assert set(usual.identity()) == {"kind", "several", "steps", "sharpness"}
    for change in ({"kind": "plain"}, {"steps": 11}, {"sharpness": 3}, {"several": ("plain",)}):
        assert Table(**({"kind": "soft"} | change)).identity() != usual.identity()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sofd"}, r"found kind = 'sofd'; expected 'soft', 'trimmed', .* 'apart', did you mean 'soft'\?"),
        ({"several": ["plain", "flat"]}, "found several = 'flat'; expected 'soft', 'trimmed'"),
        ({"sharpnes": 3}, r"found the unknown key sharpnes; .*, did you mean 'sharpness'\?"),
        ({"stpes": 3}, r"found the unknown key stpes; .*, did you mean 'steps'\?"),
        ({"kind": "soft", "sharpness": 0}, "found sharpness = 0; expected a number greater than 0"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Table(**values)


def test_a_choice_added_later_is_a_choice() -> None:
    KINDS["late"] = Entry(description="late", settings=Trimmed)
    try:
        assert Table(kind="late").settings_of("kind") == Trimmed()
    finally:
        del KINDS["late"]
    with pytest.raises(ValidationError, match="found kind = 'late'"):
        Table(kind="late")


# --- errors about the keys of recipes ---------------------------------------------------------------------------

PLAIN_WORDS = re.compile(
    r"pydantic|input should|validation error|value error|valid (string|number|integer|boolean|list|tuple)|"
    r"constrained|literal|function|union|nullable|extra inputs|field required|type=|_type|of another kind|json",
    re.IGNORECASE,
)
"""What must not be in a message."""


def all_keys() -> list[str]:
    keys = []
    for name, field in Recipe.model_fields.items():
        table = isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
        keys += [f"{name}.{key}" for key in keys_of(field.annotation)] if table else [name]
    return sorted(keys + [f"{name}.{key}" for name, kind in own_tables().items() for key in keys_of(kind)])


def message_of(recipe: Recipe, key: str, value: object) -> str | None:
    """The message by which a value is refused, without the value itself; None where it fits."""
    try:
        recipe.with_changes(**{key: value})
    except InputError as raised:
        error = raised
    else:
        return None
    assert str(error).startswith(f"recipe {recipe.name}: found ")
    assert str(error).endswith("See the reference of recipe keys in docs/reference.md and correct it.")
    assert error.found.startswith((f"{key} = ", f"{key}.", f"no {key}.")), str(error)
    return f"{error.found.partition(' = ')[0]}; expected {error.expected}"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats()
    | st.text("abcdefgmnr-", max_size=8)
    | st.sampled_from(["near", "longest", "asp", "mean", "separate"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abxyz", max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=400)
@given(key=st.sampled_from(all_keys()), value=VALUES)
@example(key="audio.clip_seconds", value={})
@example(key="audio.clip_seconds", value={"float": 1})
@example(key="training.betas", value=[0.9, {"a": 1}])
@example(key="features.layers", value=["near", "near"])
@example(key="scoring.domains", value=None)
@example(key="cancellation.hop_samples", value=3)
@example(key="cancellation.window_samples", value=100)
@example(key="cancellation.taps", value=5)
def test_a_wrong_value_is_refused_by_its_key_and_in_plain_words(key: str, value: object) -> None:
    for recipe in RECIPES:
        message = message_of(recipe, key, value)
        assert message is None or not PLAIN_WORDS.search(message), message


RECIPES = [load_recipe(name) for name in ("eat-lora-near", "ae-mahala", "nearfar-best")]


@pytest.mark.parametrize("key", all_keys())
def test_every_key_refuses_what_no_key_accepts(key: str) -> None:
    for recipe in RECIPES:
        message = message_of(recipe, key, {"no": "key"})
        assert message is not None
        assert not PLAIN_WORDS.search(message)


@pytest.mark.parametrize(
    "table", [key for key in load_recipe("nearfar-best").model_dump() if key not in ("name",)]
)
def test_a_table_that_is_no_table_and_a_misspelt_key_of_it(table: str) -> None:
    recipe = load_recipe("nearfar-best")
    whole = recipe.model_dump()[table]
    if not isinstance(whole, dict):
        return
    message = message_of(recipe, table, 3)
    assert message == f"{table}; expected a table of keys"
    key = max(whole, key=len)
    with pytest.raises(InputError, match=rf"unknown key {table}\.{key}x; .*did you mean '{key}'\?"):
        recipe.with_changes(**{f"{table}.{key}x": 1})


def test_a_misspelt_table_is_refused_with_a_guess() -> None:
    with pytest.raises(InputError, match=r"unknown key feautres; .*did you mean 'features'\?"):
        load_recipe("nearfar-best").with_changes(**{"feautres.lags": [1]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scoring.domains": "standardised", "scoring.normalisation": "ratio"},
            r"scoring\.domains = 'standardised'; expected 'pooled' or 'separate', as .*normalisation = 'none'",
        ),
        (
            {"cancellation.hop_samples": 300},
            r"cancellation\.hop_samples = 300; expected a divisor of window_samples \(8192\), at most half",
        ),
        ({"cancellation.taps": 2}, r"cancellation\.taps = 2; expected 1, as .*gain_limit is set"),
        (
            {"features.source": "tokens", "features.pooling": "cls", "features.keep_bands": True},
            r"features\.keep_bands = True; expected false, as pooling = 'cls' has no frequency bands",
        ),
        (
            {
                "features.source": "tokens",
                "features.pooling": "asp",
                "features.keep_bands": False,
                "features.layers": [3],
            },
            r"features\.layers = \[3\]; expected none, as pooling = 'asp' was trained",
        ),
        (
            {"training.views": ["near", "residual"]},
            r"training\.views = .*; expected 'near', 'far', 'cancelled' or 'pair'",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_keys_that_do_not_go_together_are_refused_by_one_of_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("nearfar-best").with_changes(**changes)


def test_messages_do_not_depend_on_the_order_of_keys() -> None:
    tree = load_recipe("nearfar-best").model_dump(mode="json")
    tree["scoring"] |= {"neighbours": 0, "distance": "cosin"}
    messages = set()
    for order in (list, reversed):
        scoring = {key: tree["scoring"][key] for key in order(list(tree["scoring"]))}
        with pytest.raises(InputError) as error:
            validated(Recipe, tree | {"scoring": scoring}, "here")
        messages.add(str(error.value))
    assert len(messages) == 1

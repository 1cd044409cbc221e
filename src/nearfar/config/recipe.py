"""The recipe: the frozen, typed configuration of a system, read from and written to TOML.

A recipe file may name another one with ``extends`` and then holds only the keys that differ. Runs write the whole,
resolved recipe beside their results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from nearfar.config import tables
from nearfar.config.renamed import modernised
from nearfar.config.validation import RecipeTable, digest, packaged_names, read_toml, validated
from nearfar.data.clips import Channel
from nearfar.encoders import ADAPTATIONS, ENCODERS
from nearfar.errors import InputError
from nearfar.registry import Entry
from nearfar.scoring import BACKENDS, Backend, ScoringPlan
from nearfar.settings import Settings, checked, refusal, unknown_key
from nearfar.views import VIEWS, channels_of, required_waveforms

RECIPES = "recipes"
"""The folder of recipes in the package."""


class Recipe(RecipeTable):
    """The configuration of a system.

    Views, adaptations and back-ends may have a table of their own (``[cancellation]``, ``[lora]``,
    ``[autoencoder]``), read with :meth:`settings`.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    seed: Annotated[int, Field(ge=0)] = 0
    audio: tables.Audio = tables.Audio()
    fbank: tables.FbankNormalisation = tables.FbankNormalisation()
    encoder: tables.EncoderTable = tables.EncoderTable()
    inference: tables.Inference = tables.Inference()
    head: tables.Head = tables.Head()
    training: tables.Training = tables.Training()
    augmentation: tables.Augmentation = tables.Augmentation()
    features: tables.FeaturesTable = tables.FeaturesTable()
    scoring: tables.Scoring = tables.Scoring()
    threshold: tables.ThresholdTable = tables.ThresholdTable()
    calibration: tables.CalibrationTable = tables.CalibrationTable()

    @model_validator(mode="before")
    @classmethod
    def _renamed_keys(cls, tree: Any) -> Any:
        return modernised(tree) if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _fill_own_tables(self) -> Self:
        extras = self.__pydantic_extra__
        assert extras is not None
        own = own_tables()
        for name, value in extras.items():
            if name not in own:
                raise unknown_key(name, {*own, *type(self).model_fields})
            if not isinstance(value, own[name]):
                extras[name] = checked(own[name], value, name)
        views = [VIEWS[name] for name in (*self.waveform_views, *self.scoring.views, *self.training.views)]
        for entry in (ADAPTATIONS[self.training.adaptation], self.backend, *views):
            if entry.table is not None and entry.table not in extras:
                extras[entry.table] = entry.settings()
        return self

    @model_validator(mode="after")
    def _signals_fit(self) -> Self:
        """Views have as many signals as what reads them: the encoder, or a source of features without one."""
        wanted = ENCODERS[self.encoder.family].signals if self.uses_encoder else 1
        trained = required_waveforms(self.training.views) if self.trains else ()
        for key, names in (("scoring.views", self.waveform_views), ("training.views", trained)):
            if wrong := [name for name in names if VIEWS[name].signals != wanted]:
                fitting = [name for name, view in VIEWS.items() if view.waveform and view.signals == wanted]
                reader = "this source of features"
                if self.uses_encoder:
                    reader = f"encoder.family = {self.encoder.family!r}"
                signals = f"{wanted} signal" + "s" * (wanted > 1)
                expected = f"{' or '.join(fitting)}, as {reader} needs views of {signals}"
                raise refusal(key, wrong, expected)
        return self

    @model_validator(mode="after")
    def _fbank_fits(self) -> Self:
        """The usual normalisation of EAT is not taken for that of another family, which would go unnoticed."""
        wanted, given = ENCODERS[self.encoder.family].fbank, (self.fbank.mean, self.fbank.std)
        usual = tables.FbankNormalisation()
        if self.uses_encoder and given == (usual.mean, usual.std) and given != wanted:
            expected = f"fbank.mean = {wanted[0]} and fbank.std = {wanted[1]}, those of {self.encoder.family}"
            raise refusal("fbank.mean", self.fbank.mean, expected)
        return self

    def __repr__(self) -> str:
        return f"Recipe({self.name!r}, {self.description!r})"

    # --- choices ---------------------------------------------------------------------------------------------

    @property
    def trains(self) -> bool:
        """True if the encoder is fine-tuned."""
        return bool(ADAPTATIONS[self.training.adaptation].trains)

    @property
    def backend(self) -> Backend:
        """The scoring back-end."""
        return BACKENDS[self.scoring.backend]

    @property
    def uses_encoder(self) -> bool:
        """True if the features need an encoder."""
        return bool(self.features.entry("source").uses_encoder)

    @property
    def waveform_views(self) -> tuple[str, ...]:
        """The views of waveforms from which the features of all scored views are computed."""
        return required_waveforms(self.scoring.views)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The recorded channels that training and scoring read, near first."""
        trained: tuple[str, ...] = ()
        if self.trains:
            noise = ("far",) if self.augmentation.far_noise_probability > 0 else ()
            trained = (*self.training.views, *noise)
        return channels_of((*trained, *self.waveform_views))

    def settings(self, entry: Entry, inline: Settings | None = None) -> Any:
        """The settings of an entry: of its own table, or ``inline``, those of the table that names the entry."""
        if entry.table is None:
            return inline if inline is not None else entry.settings()
        return (self.__pydantic_extra__ or {}).get(entry.table) or entry.settings()

    def view_settings(self) -> dict[str, Settings]:
        """Settings of all scored and trained views and of the views that they are computed from, by name."""
        scored, trained = self.scoring.views, self.training.views if self.trains else ()
        names = dict.fromkeys((*scored, *self.waveform_views, *trained))
        return {
            name: self.settings(VIEWS[name], self.scoring.settings_of("views", name) if name in scored else None)
            for name in names
        }

    def backend_settings(self) -> Any:
        """Settings of the scoring back-end."""
        return self.settings(self.backend, self.scoring.settings_of("backend"))

    def adaptation_settings(self) -> Any:
        """Settings of the adaptation."""
        return self.settings(ADAPTATIONS[self.training.adaptation], self.training.settings_of("adaptation"))

    def scoring_plan(self) -> ScoringPlan:
        """The back-end, its settings, the fusion and the seed."""
        return ScoringPlan(self.scoring.backend, self.backend_settings(), self.scoring.fusion, self.seed)

    # --- identities ---------------------------------------------------------------------------------------------

    def model_identity(self) -> dict[str, Any]:
        """The keys that decide the trained weights, given the data; empty if nothing is trained.

        Scoring, thresholds and the name are not part of it, so that a near and a fusion system share a model; nor
        are keys that change only speed or memory, or settings of entries that are not chosen.
        """
        if self.trains:
            views = self.view_settings()
            return {
                "seed": self.seed,
                # only detectors use hop_seconds
                "audio": {key: value for key, value in self.audio.identity().items() if key != "hop_seconds"},
                "fbank": self.fbank.identity(),
                "encoder": self.encoder.identity(),
                "head": self.head.identity(),
                "training": self.training.identity() | self.adaptation_settings().identity(),
                "augmentation": self.augmentation.identity(),
                "views": {name: views[name].identity() for name in views if name in self.training.views},
            }
        if self.backend.trains:
            return {
                "seed": self.seed,
                "backend": self.scoring.backend,
                "settings": self.backend.fit_identity(self.backend_settings()),
                "near_channel": self.audio.near_channel,
            }
        return {}

    def model_key(self) -> str:
        """Sixteen hex digits that are equal for recipes that train the same model."""
        return digest(self.model_identity())

    def model_kind(self) -> str:
        """The trained model: the back-end if that trains, else the adaptation."""
        return self.scoring.backend if self.backend.trains else self.training.adaptation

    def view_identity(self, view: str) -> dict[str, Any]:
        """The keys that decide a view, given the recording."""
        audio, settings = self.audio, self.view_settings().get(view, Settings()).identity()
        numbers = {"near": audio.near_channel, "far": audio.far_channel}
        channels = [numbers[channel] for channel in channels_of([view])]
        return {"view": view, "channels": channels, "settings": settings, "clip_seconds": audio.clip_seconds}

    def inference_identity(self) -> dict[str, Any]:
        """The keys that decide features, given the weights; empty for an encoder as published, or without one."""
        chosen = self.inference.identity() if self.uses_encoder else {}
        return {"inference": chosen} if chosen else {}

    def scoring_identity(self) -> dict[str, Any]:
        """The keys that decide the scores, given the features."""
        views = {name: self.view_settings()[name].identity() for name in self.scoring.views}
        scoring = self.scoring.identity() | self.backend_settings().identity()
        return {"seed": self.seed, "scoring": scoring, "views": views}

    def system_identity(self) -> dict[str, Any]:
        """The keys that decide scores, given data and encoder weights, without the seed and the clip length.

        Equal for the runs of one system on the development and the evaluation set.
        """
        alike = self.with_changes(**{"seed": 0, "audio.clip_seconds": "longest"})
        return {
            "model": alike.model_identity(),
            "features": alike.features.identity(),
            "fbank": alike.fbank.identity() if alike.uses_encoder else None,
            "encoder": alike.encoder.identity() if alike.uses_encoder else None,
            "scoring": alike.scoring_identity(),
            **alike.inference_identity(),
        }


def own_tables() -> dict[str, type[Settings]]:
    """The recipe tables that hold the settings of one entry of a registry, by name."""
    entries: list[Entry] = [*VIEWS.values(), *ADAPTATIONS.values(), *BACKENDS.values()]
    return {entry.table: entry.settings for entry in entries if entry.table is not None}


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return packaged_names(RECIPES)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe that comes with the package (by name) or a TOML file (by path).

    Raises:
        InputError: if there is no such recipe, it is not TOML, has an unknown key or a value that does not fit,
            or its ``extends`` form a circle.
    """
    return validated(Recipe, _read_tree(str(name_or_path), parents=()), str(name_or_path))


def _read_tree(name_or_path: str, parents: tuple[str, ...]) -> dict[str, Any]:
    this = name_or_path if name_or_path in list_recipes() else str(Path(name_or_path).resolve())
    if this in parents:
        raise InputError(
            name_or_path,
            found="recipes that extend each other: " + " -> ".join((*parents, this)),
            expected="a chain of extends that ends",
            remedy="Remove one 'extends'",
        )
    tree = modernised(read_toml(name_or_path, RECIPES, "recipe"))
    parent = tree.pop("extends", None)
    if parent is None:
        return tree
    if not isinstance(parent, str):
        raise InputError(
            name_or_path,
            found=f"extends = {parent!r}",
            expected="a recipe name or path",
            remedy="Correct the file",
        )
    if parent not in list_recipes() and not Path(parent).is_absolute():
        parent = str(Path(name_or_path).parent / parent)
    return _merged(_read_tree(parent, (*parents, this)), tree)


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both_tables else value
    return out

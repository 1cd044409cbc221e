"""``<label>.meta.yaml`` of a submission: what the organisers ask about a system, from its recipe and results.

Keys are those of the challenge's template; a value that does not apply is written ``!!null``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nearfar.config import Recipe
from nearfar.data.download.catalogue import ARCHIVES
from nearfar.errors import InputError
from nearfar.evaluation.metrics import MachineMetrics
from nearfar.models.hub import PUBLISHED, SHORT_NAMES

DEVELOPMENT_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "dev")
EVALUATION_MACHINES = tuple(archive.machine for archive in ARCHIVES if archive.part == "eval")

_AUDIOSET: dict[str, str | None] = {"name": "AudioSet", "url": "https://research.google.com/audioset/"}
_AUTHOR = re.compile(r"\s*(\S.*?)\s+(\S+)\s+<([^<>@\s]+@[^<>@\s]+)>\s*")
_NULL = "tag:yaml.org,2002:null"


class Author(BaseModel):
    """Who submits. The first author is the corresponding one unless another is marked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    firstname: str
    lastname: str
    email: str
    corresponding: bool = False
    institution: str | None = None
    department: str | None = None
    location: str | None = None


def read_authors(path: Path) -> list[Author]:
    """Authors from a TOML file with a table ``[[authors]]`` for each.

    Raises:
        InputError: if the file is missing or no TOML, or a table has an unknown key or lacks a name or address.
    """
    expected = "[[authors]] with firstname, lastname, email and, if wanted, institution, department, location"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("authors")
        if not isinstance(tables, list) or not tables:
            raise ValueError("no [[authors]]")
        return [Author.model_validate(table) for table in tables]
    except OSError as error:
        found = f"no file that can be read ({error.strerror})"
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc'])) or 'an author'}: {first['msg']}"
    except ValueError as error:
        found = str(error)
    raise InputError(path, found=found, expected=expected, remedy="Correct the file") from None


def parse_author(text: str, **affiliation: str | None) -> Author:
    """``"Ada Last <ada@inst.example>"`` to an author; ``affiliation`` is institution, department, location.

    Raises:
        InputError: if the text is of another form.
    """
    match = _AUTHOR.fullmatch(text)
    if match is None:
        raise InputError("--author", found=text, expected="First Last <address@host>", remedy="Write it so")
    return Author(firstname=match[1], lastname=match[2], email=match[3], **affiliation)


def metadata(
    recipe: Recipe,
    *,
    label: str,
    authors: Iterable[Author],
    parameters: int | None,
    trained_on: Iterable[str],
    development: Mapping[str, MachineMetrics] | None = None,
    name: str | None = None,
    abbreviation: str | None = None,
    source_code: str | None = None,
) -> dict[str, Any]:
    """The tree of ``<label>.meta.yaml``.

    Args:
        recipe: the system's.
        label: ``<LastName>_<INST>_task2_<number>``.
        authors: at least one.
        parameters: how many the system has.
        trained_on: the machines whose training clips the system was trained on.
        development: results on the development set as fractions, by machine; None leaves them null.
        name, abbreviation: what to call the system; by default as the recipe does.
        source_code: an address, if it is public.
    """
    return {
        "submission": {
            "label": label,
            "name": name or recipe.name,
            "abbreviation": abbreviation or recipe.name,
            "authors": _authors(list(authors)),
        },
        "system": {
            "description": _description(recipe, set(trained_on)),
            "complexity": {"total_parameters": parameters},
            "external_datasets": _external_datasets(recipe),
            "source_code": source_code,
        },
        "results": {"development_dataset": _development(development or {})},
    }


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """YAML in the order of the tree, None as ``!!null``; nothing is wrapped."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        def process_tag(self) -> None:
            if getattr(self.event, "tag", None) == _NULL:
                self.write_indicator("!!null", True)
            else:
                super().process_tag()

        def ignore_aliases(self, data: Any) -> bool:
            return True  # equal values are written out, not as references to one another

    Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar(_NULL, ""))
    text: str = yaml.dump(dict(tree), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text


def _authors(authors: list[Author]) -> list[dict[str, Any]]:
    marked = any(author.corresponding for author in authors)
    return [
        {
            "firstname": author.firstname,
            "lastname": author.lastname,
            "email": author.email,
            "corresponding": author.corresponding if marked else place == 0,
            "affiliation": {
                "institution": author.institution,
                "department": author.department,
                "location": author.location,
            },
        }
        for place, author in enumerate(authors)
    ]


def _description(recipe: Recipe, trained_on: set[str]) -> dict[str, Any]:
    is_embedder = recipe.method == "nearest-normal"
    general = {
        "input_sampling_rate": f"{recipe.audio.sample_rate_hz // 1000}kHz",
        "data_augmentation": None,
        "front_end": "near",
        "acoustic_features": "log-mel energies",
    }
    method = _embedder(recipe) if is_embedder else _autoencoder(recipe)
    is_shared = is_embedder and trained_on & set(DEVELOPMENT_MACHINES)
    return general | {
        **method,
        "decision_making": _decision_making(recipe),
        "attribute_usage": "class labels in training" if is_embedder else None,
        "external_data_usage": "pre-trained model" if _external_datasets(recipe) else None,
        "development_data_usage": "model training" if is_shared else None,
    }


def _embedder(recipe: Recipe) -> dict[str, Any]:
    channels = recipe.scoring.channels
    fused = len(channels) > 1
    adapted = "LoRA" if recipe.training.adaptation == "lora" else "full fine-tuning"
    heard = "near and far channel as separate samples" if len(recipe.training.channels) > 1 else channels[0]
    return {
        "data_augmentation": _augmentation(recipe),
        "front_end": f"{heard}, zero-padded to {recipe.audio.clip_seconds} s",
        "embeddings": "EAT",
        "machine_learning_method": f"EAT ({adapted}), ArcFace, k-NN",
        "aggregation_method": "attentive statistics pooling" + (", average of near and far scores" * fused),
        "domain_adaptation_method": None,
        "domain_generalization_method": "domain in the class labels",
        "ensemble_method_subsystem_count": len(channels) if fused else None,
    }


def _autoencoder(recipe: Recipe) -> dict[str, Any]:
    is_mahala = recipe.autoencoder.score == "mahala"
    return {
        "embeddings": None,
        "machine_learning_method": "AE, selective Mahalanobis distance" if is_mahala else "AE",
        "aggregation_method": "average",
        "domain_adaptation_method": None,
        "domain_generalization_method": "covariance of each domain, smaller distance" if is_mahala else None,
        "ensemble_method_subsystem_count": None,
    }


def _augmentation(recipe: Recipe) -> str | None:
    chosen = recipe.augmentation
    kinds = {
        "time shift": chosen.time_shift,
        "gain": chosen.gain_db,
        "mixup": chosen.mixup_probability,
        "frequency masking": chosen.frequency_mask_bins,
        "time masking": chosen.time_mask_frames,
    }
    return ", ".join(kind for kind, amount in kinds.items() if amount) or None


def _decision_making(recipe: Recipe) -> str:
    scores = f"quantile {recipe.decision.quantile:g} of "
    scores += "a gamma distribution fitted to " if recipe.decision.threshold == "gamma" else ""
    return scores + "the scores of normal training clips"


def _external_datasets(recipe: Recipe) -> list[dict[str, str | None]] | None:
    """The encoder's weights and, where it is known, what they were pre-trained on."""
    weights = recipe.encoder.weights
    if recipe.method != "nearest-normal" or weights.startswith("random:"):
        return None
    weights = SHORT_NAMES.get(weights, weights)
    if weights in PUBLISHED:
        return [{"name": weights, "url": PUBLISHED[weights].source}, _AUDIOSET]
    is_local = Path(weights).exists() or weights.count("/") != 1
    return (
        [{"name": Path(weights).name, "url": None}]
        if is_local
        else [{"name": weights, "url": f"https://huggingface.co/{weights}"}]
    )


def _development(results: Mapping[str, MachineMetrics]) -> dict[str, dict[str, float | None]]:
    """In percent. The challenge's machines are all listed, unless the results are of other data altogether."""
    is_challenge = not results or any(machine in results for machine in DEVELOPMENT_MACHINES)
    empty: dict[str, float | None] = dict.fromkeys(MachineMetrics._fields)
    rows = dict.fromkeys(DEVELOPMENT_MACHINES, empty) if is_challenge else {}
    return rows | {
        machine: {quantity: round(100 * value, 2) for quantity, value in metrics._asdict().items()}
        for machine, metrics in results.items()
    }

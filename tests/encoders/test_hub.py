"""Published names: from the cache without a network, checked against what is known, with an error that helps."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from nearfar.encoders import encoder_hash, load_encoder, save_encoder
from nearfar.encoders.eat import EAT, EATConfig, build_encoder
from nearfar.encoders.hub import PUBLISHED, PublishedWeights
from nearfar.errors import InputError

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty local cache, and a hub that no connection reaches."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer before each of its attempts
    return tmp_path


@pytest.fixture
def encoder() -> EAT:
    return build_encoder(EATConfig(embed_dim=24, depth=2, num_heads=2, max_length=12))


@pytest.fixture
def cached(cache, encoder) -> Path:
    """The weights of ``owner/eat``, laid out as huggingface_hub keeps a download."""
    repository = cache / "models--owner--eat"
    save_encoder(encoder, repository / "snapshots" / COMMIT)
    for reference in ("main", "v2"):
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / reference).write_text(COMMIT)
    return repository / "snapshots" / COMMIT / "model.safetensors"


@pytest.fixture
def known(cached, monkeypatch) -> PublishedWeights:
    """The record of ``owner/eat``, true of the cached file."""
    sha256 = hashlib.sha256(cached.read_bytes()).hexdigest()
    record = PublishedWeights("https://example.org/eat", "MIT", "main", cached.stat().st_size, sha256)
    monkeypatch.setitem(PUBLISHED, "owner/eat", record)
    return record


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
def test_the_cache_is_enough(cached, encoder, monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert encoder_hash(load_encoder("owner/eat")) == encoder_hash(encoder)
    assert encoder_hash(load_encoder("owner/eat", revision="v2")) == encoder_hash(encoder)


def test_a_local_folder_of_that_name_comes_first(cached, tmp_path, monkeypatch):
    other = build_encoder(EATConfig(embed_dim=24, depth=1, num_heads=2, max_length=12))
    save_encoder(other, tmp_path / "owner" / "eat")
    monkeypatch.chdir(tmp_path)
    assert load_encoder("owner/eat").config.depth == 1


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no network"])
def test_without_either_the_error_names_the_way_by_hand(cache, monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(InputError) as caught:
        load_encoder("worstchan/EAT-base_epoch30_pretrain")
    message = str(caught.value)
    assert message.startswith("worstchan/EAT-base_epoch30_pretrain: found no config.json of revision main in the")
    assert "download config.json and model.safetensors by hand from" in message
    assert "https://huggingface.co/worstchan/EAT-base_epoch30_pretrain/tree/main into one folder" in message


def test_a_revision_that_is_not_there_is_named(cached):
    with pytest.raises(InputError, match=r"no config\.json of revision v3 in the local cache"):
        load_encoder("owner/eat", revision="v3")


def test_known_weights_are_checked_by_hash(known):
    load_encoder("owner/eat")  # silent, since a warning is an error here
    PUBLISHED["owner/eat"] = replace(known, sha256="0" * 64)
    with pytest.warns(UserWarning, match="expected hash comes from third parties"):
        load_encoder("owner/eat")


def test_known_weights_are_checked_by_size_unless_another_revision_is_asked_for(known):
    PUBLISHED["owner/eat"] = replace(known, size_bytes=7)
    with pytest.raises(InputError, match=r"found \d+ bytes; expected the 7 bytes of https://example.org/eat"):
        load_encoder("owner/eat")
    with pytest.raises(InputError, match="expected the 7 bytes"):
        load_encoder("owner/eat", revision="main")
    load_encoder("owner/eat", revision="v2")


def test_records_say_what_one_needs_to_know():
    for name, record in PUBLISHED.items():
        assert record.source == f"https://huggingface.co/{name}"
        assert record.licence
        assert record.sha256 is None or len(bytes.fromhex(record.sha256)) == 32

"""The file-name grammar, from names to clips."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.clips import parse_attributes, parse_clip
from nearfar.errors import InputError, printable

words = st.text(string.ascii_letters + string.digits + ".-", min_size=1, max_size=8)
attribute_pairs = st.lists(st.tuples(words, words), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("name", "split", "domain", "label", "index", "attributes"),
    [
        ("section_00_source_train_normal_0000_nzl_1_pow_1.wav", "train", "source", "normal", 0,
         (("nzl", "1"), ("pow", "1"))),
        ("section_00_source_test_anomaly_0008_noAttribute.wav", "test", "source", "anomaly", 8, ()),
        ("section_00_source_train_normal_0000_car_D2_spd_5_mic_2_mic_1.wav", "train", "source", "normal", 0,
         (("car", "d2"), ("spd", "5"), ("mic", "2"), ("mic", "1"))),
        ("section_00_target_test_normal_0017_pro_y.flac", "test", "target", "normal", 17, (("pro", "y"),)),
        ("section_03_0199.wav", "test", None, None, 199, ()),
        ("section_00_target_train_normal_0009_spd_1.5.WAV", "train", "target", "normal", 9, (("spd", "1.5"),)),
    ],
)  # fmt: skip
def test_published_names(name, split, domain, label, index, attributes):
    clip = parse_clip(Path("anywhere") / name, "fan", split)
    assert (clip.domain, clip.label, clip.index) == (domain, label, index)
    assert clip.attributes == attributes
    assert (clip.machine, clip.split, clip.section, clip.name) == ("fan", split, name[8:10], name)


@given(
    section=st.integers(0, 99),
    domain=st.sampled_from(["source", "target"]),
    split_and_label=st.sampled_from([("train", "normal"), ("test", "normal"), ("test", "anomaly")]),
    index=st.integers(0, 9999),
    pairs=attribute_pairs,
    suffix=st.sampled_from([".wav", ".flac"]),
)
def test_names_round_trip(section, domain, split_and_label, index, pairs, suffix):
    split, label = split_and_label
    text = "_".join(f"{key}_{value}" for key, value in pairs)
    name = f"section_{section:02d}_{domain}_{split}_{label}_{index:04d}_{text}{suffix}"
    clip = parse_clip(Path(name), "fan", split)
    assert (int(clip.section), clip.domain, clip.split, clip.label, clip.index) == (
        section, domain, split, label, index,
    )  # fmt: skip
    assert clip.attributes == tuple((key, value.lower()) for key, value in pairs)
    assert clip.attributes_as_spelt == text


@given(section=st.integers(0, 99), index=st.integers(0, 9999))
def test_hidden_names_come_back(section, index):
    clip = parse_clip(Path(f"section_{section:02d}_{index:04d}.wav"), "Sander", "test")
    assert (int(clip.section), clip.index, clip.domain, clip.label) == (section, index, None, None)
    assert clip.attributes_as_spelt == ""


@given(pairs=attribute_pairs)
def test_upper_and_lower_case_of_values_do_not_matter(pairs):
    text = "_".join(f"{key}_{value}" for key, value in pairs)
    shouted = "_".join(f"{key}_{value.upper()}" for key, value in pairs)
    assert parse_attributes(text, "here") == parse_attributes(shouted, "here")


@given(name=st.text(max_size=40).filter(lambda text: "section" not in text))
def test_anything_else_is_refused_by_name(name):
    path = Path("fan/train") / (name.replace("/", "-").replace("\0", "-") + ".wav")
    with pytest.raises(InputError) as caught:
        parse_clip(path, "fan", "train")
    assert printable(str(path)) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "split", "found"),
    [
        ("normal_id_01_00000000.wav", "test", "'normal_id_01_00000000.wav'"),
        ("section_00_source_train_normal_0000_.wav", "train", "section_00_source_train_normal_0000_.wav"),
        ("section_00_source_train_normal_000_spd_1.wav", "train", "normal_000_"),
        ("section_00_source_train_normal_00000_spd_1.wav", "train", "normal_00000_"),
        ("section_00_side_train_normal_0000_spd_1.wav", "train", "side"),
        ("section_٠٠_source_train_normal_0000_spd_1.wav", "train", "٠٠"),
        ("section_00_source_train_normal_٠٠٠٠_spd_1.wav", "train", "٠٠٠٠"),
        ("section_00_0000.wav\n.wav", "test", "0000"),
        ("section_00_source_test_normal_0000_spd_1.wav", "train", "with 'test' in the folder 'train'"),
        ("section_00_source_train_anomaly_0000_spd_1.wav", "train", "anomalous clip in the training folder"),
        ("section_00_0000.wav", "train", "gives no domain and label"),
    ],
)
def test_names_outside_the_grammar(name, split, found):
    path = Path("fan") / split / name
    with pytest.raises(InputError) as caught:
        parse_clip(path, "fan", split)
    assert caught.value.where == path
    assert found in caught.value.found
    assert "section_NN_{source|target}_train_normal_NNNN" in caught.value.expected
    assert caught.value.remedy.startswith("Rename the file")


@pytest.mark.parametrize("text", ["spd", "spd_1_load", "spd__1_2", "_", "spd_"])
def test_attributes_that_are_no_pairs(text):
    name = f"section_00_source_train_normal_0000_{text}.wav"
    with pytest.raises(InputError, match="every attribute key has a value") as caught:
        parse_clip(Path(name), "fan", "train")
    assert repr(text) in caught.value.found
    assert "key_value_key_value" in caught.value.expected
    assert caught.value.where == Path(name)

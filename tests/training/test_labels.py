"""The composite label, and that nothing of a test clip can get into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.data.clips import CHANNELS, Clip, parse_clip
from nearfar.data.layouts import read_dataset
from nearfar.training.labels import composite_class, label_samples


def train_clip(name: str, machine: str = "fan") -> Clip:
    return parse_clip(Path(machine) / "train" / f"{name}.wav", machine, "train")


SPEEDS = [
    train_clip("section_00_source_train_normal_0000_spd_1"),
    train_clip("section_00_source_train_normal_0001_spd_2"),
    train_clip("section_00_target_train_normal_0000_spd_2"),
]
TOY = train_clip("section_00_source_train_normal_0003_car_D2_spd_5_mic_2_mic_1", "ToyCarEmu")
PLAIN = train_clip("section_00_target_train_normal_0000_noAttribute", "valveEmu")


def test_machine_attributes_domain_and_channel_make_the_class() -> None:
    assert composite_class(SPEEDS[0], "near") == "fan|spd=1|source|near"
    assert composite_class(SPEEDS[2], "far") == "fan|spd=2|target|far"
    assert composite_class(PLAIN, "near") == "valveEmu|target|near"


def test_a_key_that_appears_twice_is_kept_twice() -> None:
    assert composite_class(TOY, "far") == "ToyCarEmu|car=d2|spd=5|mic=2|mic=1|source|far"
    other = train_clip("section_00_source_train_normal_0003_car_D2_spd_5_mic_3_mic_1", "ToyCarEmu")
    assert composite_class(other, "far") != composite_class(TOY, "far")


def test_attribute_values_that_differ_in_case_are_one_class() -> None:
    upper, lower = (
        train_clip(f"section_00_target_train_normal_0001_pro_{value}", "gearboxEmu") for value in ("Y", "y")
    )
    assert composite_class(upper, "near") == composite_class(lower, "near")


def test_another_section_is_another_machine() -> None:
    clip = train_clip("section_02_source_train_normal_0000_spd_1")
    assert composite_class(clip, "near") == "fan#02|spd=1|source|near"


@pytest.mark.parametrize(
    "name",
    [
        "section_00_source_test_normal_0000_spd_1",
        "section_00_target_test_anomaly_0000_noAttribute",
        "section_00_0007",
    ],
)
def test_a_test_clip_is_refused(name: str) -> None:
    clip = parse_clip(Path("fan") / "test" / f"{name}.wav", "fan", "test")
    with pytest.raises(ValueError, match=f"{name}.wav: a test clip has no training label"):
        composite_class(clip, "near")
    with pytest.raises(ValueError, match="a test clip"):
        label_samples([*SPEEDS, clip])


def test_each_recording_gives_a_near_and_a_far_sample_in_order() -> None:
    labelled = label_samples([*SPEEDS, TOY, PLAIN])
    assert [(sample.clip, sample.view) for sample in labelled.samples] == [
        (clip, channel) for clip in (*SPEEDS, TOY, PLAIN) for channel in ("near", "far")
    ]
    named = [labelled.classes[label] for label in labelled.labels]
    assert named == [composite_class(sample.clip, sample.view) for sample in labelled.samples]


def test_a_single_channel_halves_samples_and_classes() -> None:
    both, near = label_samples(SPEEDS), label_samples(SPEEDS, ["near"])
    assert len(near.samples) == len(SPEEDS)
    assert {sample.view for sample in near.samples} == {"near"}
    assert near.classes == tuple(name for name in both.classes if name.endswith("|near"))


def test_clips_of_the_same_condition_share_a_class() -> None:
    twin = replace(SPEEDS[0], path=SPEEDS[0].path.with_name("other.wav"), index=77)
    labelled = label_samples([SPEEDS[0], twin, SPEEDS[1]])
    assert labelled.labels[:2] == labelled.labels[2:4]
    assert labelled.classes == (
        "fan|spd=1|source|far",
        "fan|spd=1|source|near",
        "fan|spd=2|source|far",
        "fan|spd=2|source|near",
    )


@given(order=st.permutations([*SPEEDS, TOY, PLAIN]))
def test_the_numbering_does_not_depend_on_the_order_of_the_clips(order: list[Clip]) -> None:
    labelled, usual = label_samples(iter(order)), label_samples([*SPEEDS, TOY, PLAIN])
    assert labelled.classes == usual.classes
    assert sorted(labelled.classes) == list(labelled.classes)
    assert set(zip(labelled.samples, labelled.labels, strict=True)) == set(
        zip(usual.samples, usual.labels, strict=True)
    )


values = st.text("abcXYZ019.-", min_size=1, max_size=4)
conditions = st.tuples(
    st.sampled_from(["fan", "fanEmu", "ToyCar"]),
    st.lists(st.tuples(st.sampled_from(["spd", "mic", "d"]), values), max_size=3),
    st.sampled_from(["source", "target"]),
    st.sampled_from(CHANNELS),
)


def named(condition: tuple[str, list[tuple[str, str]], str, str]) -> str:
    machine, attributes, domain, channel = condition
    text = "_".join(f"{key}_{value}" for key, value in attributes) or "noAttribute"
    return composite_class(train_clip(f"section_00_{domain}_train_normal_0000_{text}", machine), channel)  # type: ignore[arg-type]


@given(one=conditions, other=conditions)
def test_two_classes_are_equal_exactly_where_the_conditions_are(
    one: tuple[str, list[tuple[str, str]], str, str], other: tuple[str, list[tuple[str, str]], str, str]
) -> None:
    def folded(condition: tuple[str, list[tuple[str, str]], str, str]) -> object:
        machine, attributes, domain, channel = condition
        return machine, [(key, value.casefold()) for key, value in attributes], domain, channel

    assert (named(one) == named(other)) == (folded(one) == folded(other))


def test_what_the_names_of_test_clips_say_changes_no_label(small_factory: Path, tmp_path: Path) -> None:
    """The whole way from folders to labels, once as it is and once with every test clip renamed."""

    def labels(root: Path) -> tuple[list[str], tuple[int, ...], tuple[str, ...]]:
        dataset = read_dataset(root)
        train = [clip for machine in dataset.machines for clip in dataset.train(machine)]
        labelled = label_samples(train)
        return [clip.name for clip in train], labelled.labels, labelled.classes

    for file in small_factory.rglob("*.wav"):
        name = file.name
        if "_test_" in name:
            name = name.replace("normal", "x").replace("anomaly", "normal").replace("x", "anomaly")
            name = name.replace("noAttribute", f"spd_9_flaw_{file.stem[-14:-12]}")
        renamed = tmp_path / file.relative_to(small_factory).parent / name
        renamed.parent.mkdir(parents=True, exist_ok=True)
        renamed.symlink_to(file)
    swapped = [clip for machine in ("hummer", "whiner") for clip in read_dataset(tmp_path).test(machine)]
    assert all(("spd", "9") in clip.attributes for clip in swapped)
    assert len(swapped) == 16
    assert labels(tmp_path) == labels(small_factory)

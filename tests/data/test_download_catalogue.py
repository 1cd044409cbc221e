"""The catalogue agrees with the specification."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nearfar.data.download.catalogue import ARCHIVES, RECORDS, chosen
from nearfar.errors import InputError

DEV = {"ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu"}
EVALUATION = {"ToyDrone", "ToothBrush", "SewingMachine", "BlowerDustCollector", "Sander"}


def test_there_are_seventeen_archives_each_with_a_sum_of_its_own():
    assert Counter(archive.part for archive in ARCHIVES) == {"dev": 7, "train": 5, "eval": 5}
    assert all(re.fullmatch("[0-9a-f]{32}", archive.md5) for archive in ARCHIVES)
    for distinct in ("md5", "filename"):
        assert len({getattr(archive, distinct) for archive in ARCHIVES}) == len(ARCHIVES)


def test_machines_are_those_of_the_challenge():
    machines = {part: {archive.machine for archive in ARCHIVES if archive.part == part} for part in RECORDS}
    assert machines == {"dev": DEV, "train": EVALUATION, "eval": EVALUATION}


def test_sizes_are_those_published_and_no_others():
    sizes = {archive.part: [a.size_bytes for a in ARCHIVES if a.part == archive.part] for archive in ARCHIVES}
    assert sum(sizes["dev"]) == 4_800_711_994
    assert sizes["train"] == sizes["eval"] == [None] * 5
    assert sum(archive.about_bytes for archive in ARCHIVES if archive.part == "train") == 2_800_000_000


def test_addresses_are_those_of_zenodo():
    by_name = {archive.filename: archive for archive in ARCHIVES}
    toycar = by_name["dev_ToyCar_r2.zip"]
    assert (toycar.machine, toycar.splits) == ("ToyCar", ("train", "test"))
    assert toycar.url() == "https://zenodo.org/records/19336329/files/dev_ToyCar_r2.zip"
    sander = by_name["eval_data_Sander_test.zip"]
    assert sander.splits == ("test",)
    assert sander.url("http://mirror/") == "http://mirror/records/20437238/files/eval_data_Sander_test.zip"


def test_the_catalogue_equals_the_specification(shared):
    text = (shared / "spec" / "dcase2026.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"\| (\w+\.zip)[^|]*\|[^|]*\| ([0-9a-f]{32}) \|", text))
    assert rows == {archive.filename: archive.md5 for archive in ARCHIVES}
    sizes = {name: int(size) for name, size in re.findall(r"\| (\w+\.zip)[^|]*\| (\d{7,}) \|", text)}
    assert sizes == {archive.filename: archive.size_bytes for archive in ARCHIVES if archive.size_bytes}
    records = dict(re.findall(r"\| (dev|add\. train|eval test) \| (\d{8}) \|", text))
    assert [int(number) for number in records.values()] == [record.number for record in RECORDS.values()]


@pytest.mark.parametrize(
    ("parts", "machines", "names"),
    [
        (["dev"], ["fan", "ToyCar"], {"dev_fan.zip", "dev_ToyCar_r2.zip"}),
        ([], ["Sander"], {"eval_data_Sander_train.zip", "eval_data_Sander_test.zip"}),
        (["eval"], ["Sander"], {"eval_data_Sander_test.zip"}),
        (["dev", "eval"], ["Sander", "fan"], {"dev_fan.zip", "eval_data_Sander_test.zip"}),
        ([], [], {archive.filename for archive in ARCHIVES}),
    ],
)
def test_choosing(parts, machines, names):
    assert {archive.filename for archive in chosen(parts, machines)} == names


@pytest.mark.parametrize(
    ("parts", "machines", "message"),
    [
        (["test"], [], "test: found no such part; expected dev, train or eval"),
        (["dev"], ["Fan"], "machines: found Fan; expected machines of dev: bearingEmu, fan, gearboxEmu"),
        (["dev"], ["Sander"], "found Sander, which is in eval and train; expected machines of dev"),
    ],
)
def test_unknown_parts_and_machines(parts, machines, message):
    with pytest.raises(InputError, match=message):
        chosen(parts, machines)

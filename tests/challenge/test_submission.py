"""Submission packages: what is written is what the template asks for, and every defect is found and named."""

import copy
import json
import shutil

import numpy as np
import pytest
import yaml

from nearfar.challenge.run import run_system, write_results
from nearfar.challenge.submission import write_submission
from nearfar.challenge.submission_check import check_submission
from nearfar.challenge.submission_meta import Author, dump_yaml, metadata, parse_author, read_authors
from nearfar.config import load_recipe
from nearfar.errors import InputError
from nearfar.evaluation.results import evaluate_scores
from nearfar.evaluation.scorefiles import (
    MachineDecisions,
    MachineScores,
    read_decisions,
    read_scores,
    write_decisions,
    write_scores,
)
from nearfar.evaluation.truth import GroundTruth
from nearfar.features import SOURCES
from nearfar.losses import LOSSES
from nearfar.pooling import POOLINGS
from nearfar.scoring import BACKENDS
from nearfar.thresholds import RULES

EVALUATION = ("BlowerDustCollector", "Sander", "SewingMachine", "ToothBrush", "ToyDrone")
DEVELOPMENT = ("ToyCar", "ToyCarEmu", "bearingEmu", "fan", "gearboxEmu", "sliderEmu", "valveEmu")
LABEL = "Last_INST_task2_1"
ADA = Author(firstname="Ada", lastname="Last", email="ada@inst.example", institution="Institute of Sound")
CLIPS = tuple(f"section_00_{index:04d}.wav" for index in range(200))


def write_run(folder, machines, names=CLIPS, recipe="tiny-fusion", parameters=123_456):
    """What a run leaves behind, without running it."""
    rng = np.random.default_rng(0)
    scores = [MachineScores(machine, "00", names, rng.uniform(size=len(names))) for machine in machines]
    folder.mkdir(parents=True)
    write_results("system", scores, folder, GroundTruth.from_names(scores), note=None)
    decided = [MachineDecisions(e.machine, "00", names, (e.scores > 0.5).astype(int)) for e in scores]
    write_decisions(folder / "scores", decided)
    (folder / "recipe.toml").write_text(load_recipe(recipe).with_changes(**{"audio.clip_seconds": 16.0}).to_toml())
    (folder / "environment.json").write_text(json.dumps({"total_parameters": parameters}))
    data = [{"machine": machine, "clips": [{"split": "train"}, {"split": "test"}]} for machine in machines]
    (folder / "data.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A package of the challenge without defects."""
    root = tmp_path_factory.mktemp("whole")
    write_submission(write_run(root / "run", EVALUATION), LABEL, root / "package", authors=[ADA])
    (root / "package" / "task2" / f"{LABEL}.technical_report.pdf").write_bytes(b"%PDF-")
    return root


@pytest.fixture
def package(whole, tmp_path):
    """A copy to spoil: the folder above task2."""
    return shutil.copytree(whole / "package", tmp_path / "package")


def found(package):
    return [f"{defect.file}: {defect.problem}" for defect in check_submission(package).defects]


def test_a_whole_package_has_no_defects(package):
    for folder in (package, package / "task2", package / "task2" / LABEL):
        report = check_submission(folder)
        assert (report.systems, report.defects) == ((LABEL,), ())
    assert check_submission(package).notes == ()


def test_scores_and_decisions_are_those_of_the_run(whole):
    for read, values in ((read_scores, "scores"), (read_decisions, "decisions")):
        there, sent = read(whole / "run" / "scores"), read(whole / "package" / "task2" / LABEL)
        assert [entry.machine for entry in sent] == sorted(EVALUATION, key=str.casefold)
        for one, other in zip(there, sent, strict=True):
            assert one.names == other.names
            np.testing.assert_array_equal(getattr(one, values), getattr(other, values))
    files = {path.name for path in (whole / "package" / "task2" / LABEL).iterdir()}
    assert files == {f"{LABEL}.meta.yaml"} | {
        f"{kind}_{machine}_section_00_test.csv"
        for kind in ("anomaly_score", "decision_result")
        for machine in EVALUATION
    }


def test_the_yaml_has_the_templates_keys(whole):
    text = (whole / "package" / "task2" / LABEL / f"{LABEL}.meta.yaml").read_text()
    tree = yaml.safe_load(text)
    assert list(tree) == ["submission", "system", "results"]
    assert set(tree["submission"]) == {"label", "name", "abbreviation", "authors"}
    (author,) = tree["submission"]["authors"]
    assert set(author) == {"firstname", "lastname", "email", "corresponding", "affiliation"}
    assert author["affiliation"] == {"institution": "Institute of Sound", "department": None, "location": None}
    assert author["corresponding"] is True
    assert set(tree["system"]) == {"description", "complexity", "external_datasets", "source_code"}
    assert set(tree["system"]["description"]) == {
        "input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings",
        "machine_learning_method", "aggregation_method", "domain_adaptation_method",
        "domain_generalization_method", "ensemble_method_subsystem_count", "decision_making", "attribute_usage",
        "external_data_usage", "development_data_usage",
    }  # fmt: skip
    assert tree["system"]["complexity"] == {"total_parameters": 123_456}
    assert tree["results"]["development_dataset"] == {
        machine: {"auc_source": None, "auc_target": None, "pauc": None} for machine in DEVELOPMENT
    }
    assert text.count("auc_source: !!null\n") == 7, "null is written out"
    assert "null" not in text.replace("!!null", "")
    assert "&id" not in text, "no references, which a person would not write"


def describe(name, **changes):
    recipe = load_recipe(name).with_changes(**changes)
    return metadata(recipe, label=LABEL, authors=[ADA], parameters=1, trained_on=["ToyDrone"])["system"]


def test_the_description_follows_the_recipe():
    fusion = describe(
        "eat-lora-fusion", **{"threshold.false_alarm_rate": 0.05, "augmentation.mixup_probability": 0.5}
    )
    said = fusion["description"]
    assert said["machine_learning_method"] == "EAT (LoRA), ArcFace, k-NN"
    assert said["aggregation_method"] == "attentive statistics pooling, average of near and far scores"
    assert said["ensemble_method_subsystem_count"] == 2
    assert said["data_augmentation"] == "mixup"
    assert said["decision_making"].startswith("quantile 0.95 of a gamma distribution")
    assert said["external_data_usage"] == "pre-trained model"
    assert [entry["name"] for entry in fusion["external_datasets"]][1] == "AudioSet"
    assert fusion["external_datasets"][0]["url"].endswith("worstchan/EAT-base_epoch30_pretrain")

    near = describe("tiny-near", **{"threshold.rule": "empirical"})
    assert near["description"]["aggregation_method"] == "attentive statistics pooling"
    assert near["description"]["ensemble_method_subsystem_count"] is None
    assert near["description"]["data_augmentation"] == "time shift"
    assert near["description"]["decision_making"] == "quantile 0.9 of the scores of normal training clips"
    assert near["description"]["external_data_usage"] is None
    assert near["external_datasets"] is None

    assert describe("ae-mse")["description"]["machine_learning_method"] == "AE"
    assert describe("ae-mse")["description"]["embeddings"] is None
    assert "Mahalanobis" in describe("ae-mahala")["description"]["machine_learning_method"]
    assert describe("ae-mse")["external_datasets"] is None


def test_every_choice_has_words_of_its_own():
    """Each entry of each table of choices is described, and no two alike."""
    for table, choices in (
        (POOLINGS, {"training.adaptation": "none", "features.source": "tokens", "features.pooling": ""}),
        (SOURCES, {"features.source": ""}),
        (LOSSES, {"head.loss": ""}),
        (BACKENDS, {"scoring.backend": ""}),
        (RULES, {"threshold.rule": ""}),
    ):
        said = {}
        for name, entry in table.items():
            changes = {key: value or name for key, value in choices.items()}
            if getattr(entry, "trained", False):
                changes["training.adaptation"] = "full"
            said[name] = tuple(map(str, describe("tiny-near", **changes)["description"].values()))
            words = entry.description.partition("{")[0]
            if table is SOURCES and entry.uses_encoder:  # described by the pooling
                words = entry.aggregation(entry.settings())
            assert any(words in text for text in said[name]), (name, said[name])
        assert len(set(said.values())) == len(table), table


def test_a_rule_that_was_replaced_is_described_as_it_was(tmp_path):
    """The gamma rule found no threshold for any machine, or for one, or for one that is not submitted."""
    run = write_run(tmp_path / "run", EVALUATION)
    gamma = "quantile 0.9 of a gamma distribution fitted to the scores of normal training clips"
    empirical = "quantile 0.9 of the scores of normal training clips"
    for number, (rules, expected) in enumerate(
        (
            (dict.fromkeys(EVALUATION, "empirical"), empirical),
            (dict.fromkeys(EVALUATION, "gamma") | {"Sander": "empirical"}, f"{gamma}; {empirical}"),
            (dict.fromkeys(EVALUATION, "gamma") | {"fan": "empirical"}, gamma),
        )
    ):
        rows = [{"machine": name, "section": "00", "rule": rule, "value": 0.5} for name, rule in rules.items()]
        (run / "thresholds.json").write_text(json.dumps(rows))
        folder = write_submission(run, LABEL, tmp_path / str(number), authors=[ADA])
        tree = yaml.safe_load((folder / f"{LABEL}.meta.yaml").read_text())
        assert tree["system"]["description"]["decision_making"] == expected


def test_a_system_without_an_encoder_claims_none():
    best = describe("nearfar-best")
    said = best["description"]
    assert best["external_datasets"] is None
    assert said["external_data_usage"] is None
    assert said["embeddings"] is None
    assert said["machine_learning_method"] == "statistics of the log-mel spectrogram, k-NN"
    assert said["front_end"].startswith("near without what far predicts of it, zero-padded")
    assert said["aggregation_method"] == (
        "mean and deviation over time per frequency band, "
        "distance as variance-minimising share of the density of normal clips"
    )
    for learnt in (
        "attribute_usage",
        "domain_generalization_method",
        "development_data_usage",
        "data_augmentation",
    ):
        assert said[learnt] is None


def test_a_frozen_encoder_is_not_said_to_be_trained():
    frozen = {"training.adaptation": "none", "features.source": "tokens", "features.pooling": "rdp"}
    scoring = {"scoring.views": ["near", "residual"], "scoring.fusion": "standardised"}
    more = {"scoring.domains": "separate", "scoring.enrichment": "memmix"}
    system = describe("eat-near", **frozen, **scoring, **more)
    said = system["description"]
    assert said["machine_learning_method"] == "EAT (frozen), k-NN"
    assert said["front_end"] == "near and near features less 0.5 of far features, zero-padded to 16.0 s"
    assert said["aggregation_method"] == (
        "relative deviation pooling of tokens, average of standardised near and residual scores"
    )
    assert said["domain_adaptation_method"] == "MemMixup"
    assert said["domain_generalization_method"] == "bank of each domain, smaller distance"
    assert said["external_data_usage"] == "pre-trained model"
    assert said["attribute_usage"] is None


def test_other_training_is_named():
    changes = {"head.loss": "adacos", "head.sub_centres": 3, "training.pseudo_labels": 4}
    more = {"training.target_share": 0.5, "augmentation.far_noise_probability": 0.3}
    said = describe("tiny-near", **changes, **more)["description"]
    assert said["machine_learning_method"] == (
        "EAT (full fine-tuning), AdaCos with 3 sub-centres, pseudo-labels by clustering, k-NN"
    )
    assert said["data_augmentation"] == "time shift, far channel of other clips as noise"
    assert said["domain_generalization_method"] == "domain in the class labels, target domain drawn more often"


def test_weights_of_ones_own_have_no_address(tmp_path):
    (entry,) = describe("eat-near", **{"encoder.weights": str(tmp_path / "mine")})["external_datasets"]
    assert entry == {"name": "mine", "url": None}
    (entry,) = describe("eat-near", **{"encoder.weights": "someone/encoder"})["external_datasets"]
    assert entry == {"name": "someone/encoder", "url": "https://huggingface.co/someone/encoder"}


def test_training_on_development_machines_is_said():
    recipe = load_recipe("tiny-near")
    both = metadata(recipe, label=LABEL, authors=[ADA], parameters=1, trained_on=["ToyDrone", "fan"])
    assert both["system"]["description"]["development_data_usage"] == "model training"
    assert describe("tiny-near")["description"]["development_data_usage"] is None


def test_yaml_comes_back_as_it_was():
    tree = {
        "a": None,
        "b": "null",
        "c": [None, {"d": None}],
        "e": "yes: null",
        "f": "two\nlines: null",
        "g": "Zoë",
    }
    text = dump_yaml(tree)
    assert yaml.safe_load(text) == tree
    assert text.startswith("a: !!null\nb: 'null'\n")


def labelled(per_group=3):
    return tuple(
        f"section_00_{domain}_test_{label}_{index:04d}_noAttribute.wav"
        for domain in ("source", "target")
        for label in ("normal", "anomaly")
        for index in range(per_group)
    )


def test_development_results_are_in_percent(tmp_path):
    run = write_run(tmp_path / "run", EVALUATION)
    dev = write_run(tmp_path / "dev", ("fan", "valveEmu"), labelled())
    folder = write_submission(run, LABEL, tmp_path / "out", authors=[ADA], development=dev)
    rows = yaml.safe_load((folder / f"{LABEL}.meta.yaml").read_text())["results"]["development_dataset"]
    assert list(rows) == list(DEVELOPMENT)
    entries = read_scores(dev / "scores")
    truth = GroundTruth.from_names(entries)
    expected = {row.machine: row.metrics for row in evaluate_scores(entries, truth).machines}
    for machine, row in rows.items():
        values = expected[machine]._asdict() if machine in expected else None
        assert row == (
            {key: values and round(100 * values[key], 2) for key in row} if values else dict.fromkeys(row)
        )
    assert found(tmp_path / "out") == []


def test_a_run_on_both_sets_brings_its_own_results(tmp_path):
    """As on a folder that holds the machines of all parts of the challenge."""
    run = write_run(tmp_path / "run", EVALUATION)
    fan = MachineScores("fan", "00", labelled(), np.random.default_rng(3).uniform(size=12))
    hidden = read_scores(run / "scores")
    truth = GroundTruth.from_names([*hidden, fan])
    write_results("system", [*hidden, fan], run, truth, note=None)
    folder = write_submission(run, LABEL, tmp_path / "out", authors=[ADA])
    rows = yaml.safe_load((folder / f"{LABEL}.meta.yaml").read_text())["results"]["development_dataset"]
    (row,) = evaluate_scores([fan], truth).machines
    assert rows["fan"] == {key: round(100 * value, 2) for key, value in row.metrics._asdict().items()}
    assert set(rows["valveEmu"].values()) == {None}
    assert len(list(folder.glob("anomaly_score_*.csv"))) == len(EVALUATION)
    write_results("system", hidden, run, truth, note=None)
    assert not list(run.glob("results.*")), "of other data"


def test_development_results_of_another_system_are_refused(tmp_path):
    run = write_run(tmp_path / "run", EVALUATION)
    for number, recipe in enumerate(("tiny-near", "tiny-lora-fusion", "ae-mse")):
        dev = write_run(tmp_path / f"dev{number}", ("fan",), labelled(), recipe)
        with pytest.raises(InputError, match=f"results of another system \\({recipe}\\)"):
            write_submission(run, LABEL, tmp_path / "out", authors=[ADA], development=dev)
    changed = write_run(tmp_path / "changed", ("fan",), labelled())
    other = load_recipe(changed / "recipe.toml").with_changes(**{"features.source": "log-mel"})
    (changed / "recipe.toml").write_text(other.to_toml())
    with pytest.raises(InputError, match="results of another system"):
        write_submission(run, LABEL, tmp_path / "out", authors=[ADA], development=changed)
    assert not (tmp_path / "out").exists()


def test_only_evaluation_machines_are_submitted(tmp_path):
    run = write_run(tmp_path / "run", ("mill",), CLIPS[:5])
    write_scores(run / "scores", [MachineScores("fan", "00", labelled(), np.zeros(12))])
    folder = write_submission(run, LABEL, tmp_path / "out", authors=[ADA])
    assert sorted(path.name for path in folder.glob("*.csv")) == [
        "anomaly_score_mill_section_00_test.csv",
        "decision_result_mill_section_00_test.csv",
    ]
    report = check_submission(tmp_path / "out")
    assert report.defects == ()
    assert any("other machines than the challenge's: mill" in note for note in report.notes)
    assert any("no technical report" in note for note in report.notes)


def test_a_flac_copy_is_submitted_under_the_original_names(tmp_path):
    run = write_run(tmp_path / "run", ("mill",), tuple(name.replace(".wav", ".flac") for name in CLIPS[:5]))
    folder = write_submission(run, LABEL, tmp_path / "out", authors=[ADA])
    assert read_scores(folder)[0].names == CLIPS[:5]
    assert found(tmp_path / "out") == []


def test_what_cannot_be_submitted(tmp_path, whole):
    run, dev = whole / "run", write_run(tmp_path / "dev", ("fan",), labelled())
    for label in ("Last_INST_task2_5", "Last_task2_1", "../x", "Last_INST_task1_1"):
        with pytest.raises(InputError, match="LastName"):
            write_submission(run, label, tmp_path / "out", authors=[ADA])
    with pytest.raises(InputError, match="authors: found none"):
        write_submission(run, LABEL, tmp_path / "out", authors=[])
    with pytest.raises(InputError, match="only clips whose names contain their label"):
        write_submission(dev, LABEL, tmp_path / "out", authors=[ADA])
    with pytest.raises(InputError, match=r"no recipe\.toml"):
        write_submission(run / "scores", LABEL, tmp_path / "out", authors=[ADA])
    with pytest.raises(InputError, match="is there already"):
        write_submission(run, LABEL, whole / "package", authors=[ADA])
    undecided = write_run(tmp_path / "undecided", EVALUATION)
    (undecided / "scores" / "decision_result_Sander_section_00_test.csv").unlink()
    with pytest.raises(InputError, match="no decisions on the clips of Sander section 00"):
        write_submission(undecided, LABEL, tmp_path / "out", authors=[ADA])
    assert not (tmp_path / "out").exists()


def test_authors(tmp_path):
    file = tmp_path / "authors.toml"
    file.write_text(
        '[[authors]]\nfirstname = "Ada"\nlastname = "Last"\nemail = "ada@inst.example"\n'
        'institution = "Institute of Sound"\n'
        '[[authors]]\nfirstname = "Bo"\nlastname = "Next"\nemail = "bo@inst.example"\ncorresponding = true\n'
    )
    authors = read_authors(file)
    assert authors[0] == ADA
    listed = metadata(load_recipe("tiny-near"), label=LABEL, authors=authors, parameters=1, trained_on=[])
    assert [entry["corresponding"] for entry in listed["submission"]["authors"]] == [False, True]
    text = "Ada Lou Last <ada@inst.example>"
    assert parse_author(text, institution="I") == ADA.model_copy(
        update={"firstname": "Ada Lou", "institution": "I"}
    )
    for wrong in ("", "authors = 3", "[[authors]]\nfirstname = 'A'", "[[authors]]\nage = 3", "[["):
        file.write_text(wrong)
        with pytest.raises(InputError, match=r"authors\.toml"):
            read_authors(file)
    with pytest.raises(InputError, match="no file that can be read"):
        read_authors(tmp_path / "none.toml")
    for wrong in ("Ada", "Ada <ada@inst.example>", "Ada Last ada@inst.example"):
        with pytest.raises(InputError, match="First Last"):
            parse_author(wrong)


SANDER = "anomaly_score_Sander_section_00_test.csv"
CALLS = "decision_result_Sander_section_00_test.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        (SANDER, "section_00_0007.wav", "section_00_0006.wav", "duplicate names (1), such as section_00_0006.wav"),
        (SANDER, "section_00_0007.wav", "section_00_0006.wav", "missing rows (1), such as section_00_0007.wav"),
        (
            SANDER,
            "section_00_0199.wav",
            "section_00_0200.wav",
            "clips that do not exist (1), such as section_00_0200",
        ),
        (SANDER, "section_00_0007.wav", "section_01_0007.wav", "row 8: the name 'section_01_0007.wav'"),
        (SANDER, "section_00_0007.wav", "0007.wav", "row 8: the name '0007.wav'"),
        (SANDER, "section_00_0007.wav,", "section_00_0007.wav,nan", "row 8: the score 'nan0."),
        (SANDER, "section_00_0007.wav,", "section_00_0007.wav,1,", "row 8: 3 columns"),
        (SANDER, "section_00_0000.wav", "name,score\nsection_00_0000.wav", "row 1: a header (name,score)"),
        (SANDER, "section_00_0000.wav", "\ufeffsection_00_0000.wav", "a byte order mark"),
        (SANDER, "section_00_0002.wav", "\nsection_00_0002.wav", "row 3: 0 columns"),
        (CALLS, "section_00_0007.wav,", "section_00_0007.wav,2", "row 8: the decision '2"),
        (CALLS, "section_00_0007.wav,", "section_00_0007.wav, ", "row 8: the decision ' "),
        (CALLS, "section_00_0007.wav", "section_00_0006.wav", "missing rows (1), such as section_00_0007.wav"),
    ],
)
def test_defects_of_rows(package, file, old, new, complaint):
    path = package / "task2" / LABEL / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    defects = found(package)
    assert any(defect.startswith(f"{LABEL}/{file}: ") and complaint in defect for defect in defects), defects
    assert all(defect.startswith(f"{LABEL}/{file}: ") for defect in defects), "nothing else is blamed"


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "", "high", "1_0"])
def test_scores_that_are_not_finite_numbers(package, score):
    path = package / "task2" / LABEL / SANDER
    lines = path.read_text().splitlines()
    lines[3] = f"section_00_0003.wav,{score}"
    path.write_text("\n".join(lines) + "\n")
    assert found(package) == [f"{LABEL}/{SANDER}: row 4: the score {score!r}; expected a finite number"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "an empty file"),
        (b"\xff\xfe\x00", "not CSV text"),
        (b"".join(b"a,b\n" for _ in range(50)), "further"),
    ],
)
def test_files_that_are_no_list_of_clips(package, content, complaint):
    (package / "task2" / LABEL / SANDER).write_bytes(content)
    defects = found(package)
    assert any(complaint in defect for defect in defects)
    assert any("missing rows (200)" in defect for defect in defects)
    assert len(defects) < 10, "fifty alike are not listed one by one"


def spoil(package, change):
    path = package / "task2" / LABEL / f"{LABEL}.meta.yaml"
    tree = yaml.safe_load(path.read_text())
    change(tree)
    path.write_text(yaml.safe_dump(tree))
    return [defect.removeprefix(f"{LABEL}/{LABEL}.meta.yaml: ") for defect in found(package)]


def paths_of(tree, before=()):
    """The paths of all keys of a tree, those in lists included."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(tree, dict):
            yield (*before, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*before, key))


def test_every_key_that_is_missing_is_named(package, whole):
    path = package / "task2" / LABEL / f"{LABEL}.meta.yaml"
    whole_tree = yaml.safe_load(path.read_text())
    keys = [keys for keys in paths_of(whole_tree) if keys[-1] != "corresponding"]
    assert len(keys) > 50
    for *parents, key in keys:
        tree = node = copy.deepcopy(whole_tree)
        for parent in parents:
            node = node[parent]
        del node[key]
        path.write_text(yaml.safe_dump(tree))
        dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in (*parents, key))[1:]
        defects = found(package)
        assert any(
            f"key missing: {dotted}" in defect or (key == "affiliation" and f"missing: {dotted}." in defect)
            for defect in defects
        ), (dotted, defects)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda t: t["submission"].update(label="Last_INST_task2_2"),
            f"'Last_INST_task2_2' in the folder {LABEL}",
        ),
        (lambda t: t["submission"].update(authors=[]), "submission.authors is not a list of at least one author"),
        (lambda t: t["submission"]["authors"][0].pop("corresponding"), "no author has corresponding: true"),
        (lambda t: t["system"].update(description="good"), "system.description is no table of keys"),
        (lambda t: t["system"]["complexity"].update(total_parameters=None), "total_parameters is None"),
        (lambda t: t["system"]["complexity"].update(total_parameters="1M"), "total_parameters is '1M'"),
        (lambda t: t["system"].update(external_datasets=[{"name": "x"}]), "external_datasets[0].url"),
        (lambda t: t["results"]["development_dataset"]["fan"].update(pauc=101), "fan.pauc is 101"),
        (lambda t: t["results"]["development_dataset"]["fan"].update(pauc="good"), "fan.pauc is 'good'"),
        (lambda t: t["results"]["development_dataset"]["fan"].update(pauc=0.61), "holds fractions"),
    ],
)
def test_values_that_cannot_be_right(package, change, complaint):
    (defect,) = spoil(package, change)
    assert complaint in defect


@pytest.mark.parametrize("text", ["a: [1", "just text", "- a", "!!python/object/apply:os.getcwd []", ""])
def test_a_meta_file_that_is_no_table(package, text):
    (package / "task2" / LABEL / f"{LABEL}.meta.yaml").write_text(text)
    (defect,) = found(package)
    assert "not YAML" in defect or "no keys" in defect


def test_defects_of_files_and_folders(package):
    system = package / "task2" / LABEL
    (system / SANDER).rename(system / "anomaly_score_Sanders_section_00_test.csv")
    (system / CALLS).rename(system / "decisions_Sander.csv")
    (system / f"{LABEL}.meta.yaml").rename(system / "meta.yaml")
    defects = found(package)
    assert f"{LABEL}: Sanders is not an evaluation machine of the challenge" in defects
    for name in (SANDER, CALLS, f"{LABEL}.meta.yaml"):
        assert f"{LABEL}/{name}: missing file" in defects
    for name in ("decisions_Sander.csv", "meta.yaml"):
        assert any(defect.startswith(f"{LABEL}/{name}: wrong file name") for defect in defects)
    assert len(defects) == 6


def test_hidden_files_are_no_defect(package):
    (package / "task2" / LABEL / ".DS_Store").touch()
    (package / "task2" / ".git").mkdir()
    assert found(package) == []


def test_more_than_four_systems(package):
    task2 = package / "task2"
    for number in (2, 3, 4):
        other = f"Last_INST_task2_{number}"
        shutil.copytree(task2 / LABEL, task2 / other)
        meta = (task2 / other / f"{LABEL}.meta.yaml").rename(task2 / other / f"{other}.meta.yaml")
        meta.write_text(meta.read_text().replace(LABEL, other))
    assert found(package) == []
    shutil.copytree(task2 / LABEL, task2 / "Last_INST_task2_5")
    defects = found(package)
    assert defects[0] == "task2: 5 systems; at most 4 may be submitted"
    assert any(defect.startswith("Last_INST_task2_5: a folder whose name is not") for defect in defects)


def test_a_folder_without_a_package(tmp_path):
    assert found(tmp_path) == [f"{tmp_path.name}: no system; expected task2/<label>/ with score files"]
    with pytest.raises(InputError, match="no such folder"):
        check_submission(tmp_path / "nothing")


def test_other_machines_are_judged_by_themselves(tmp_path):
    run = write_run(tmp_path / "run", ("mill",), CLIPS[:8])
    folder = write_submission(run, LABEL, tmp_path / "out", authors=[ADA])
    path = folder / "decision_result_mill_section_00_test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    assert found(tmp_path / "out") == [f"{LABEL}/{path.name}: missing rows (2), such as section_00_0006.wav"]


@pytest.fixture
def nearfar(nearfar_command):
    return nearfar_command


def test_the_command(nearfar, whole, package, tmp_path):
    author = ("--author", "Ada Last <ada@inst.example>", "--institution", "Institute of Sound")
    code, out, _ = nearfar("submit", whole / "run", "--label", LABEL, "--out", tmp_path / "out", *author)
    assert (code, f"{LABEL}: no defects" in out) == (0, True)
    for path in (package / "task2" / LABEL).iterdir():
        assert (tmp_path / "out" / "task2" / LABEL / path.name).read_bytes() == path.read_bytes()
    assert nearfar("submit", "--check", tmp_path / "out")[0] == 0
    (package / "task2" / LABEL / SANDER).unlink()
    code, out, _ = nearfar("submit", "--check", package)
    assert (code, f"{LABEL}/{SANDER}: missing file" in out, "1 defect" in out) == (1, True, True)
    code, out, _ = nearfar("submit", "--check", package, "--json")
    assert code == 1
    assert json.loads(out)["defects"] == [{"where": f"{LABEL}/{SANDER}", "what": "missing file"}]
    for arguments in ((), (whole / "run",), (whole / "run", "--check", package), ("--check", tmp_path / "no")):
        assert nearfar("submit", *arguments)[0] == 2


def test_from_recordings_to_a_package(nearfar, small_factory, small_recipe, tmp_path):
    """A development run, a run on recordings whose names hide their labels, and the package of the two."""
    hidden = shutil.copytree(small_factory, tmp_path / "hidden")
    for machine in ("hummer", "whiner"):
        for number, clip in enumerate(sorted((hidden / machine / "test").iterdir())):
            clip.rename(clip.with_name(f"section_00_{number:04d}.wav"))
    recipe = small_recipe.with_changes(**{"training.steps": 2})
    developed, evaluated = (
        run_system(recipe, data, tmp_path / name, model_folder=tmp_path / "model")
        for data, name in ((small_factory, "dev"), (hidden, "eval"))
    )
    assert developed.results is not None
    assert evaluated.results is None
    (tmp_path / "authors.toml").write_text(
        '[[authors]]\nfirstname = "Ada"\nlastname = "Last"\nemail = "ada@inst.example"\n'
    )
    code, out, error = nearfar(
        "submit", tmp_path / "eval", "--dev", tmp_path / "dev", "--label", LABEL, "--out", tmp_path / "package",
        "--authors", tmp_path / "authors.toml",
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert "hummer, whiner" in out, "a note says that these are not the challenge's machines"
    folder = tmp_path / "package" / "task2" / LABEL
    for sent, made in zip(read_scores(folder), evaluated.scores, strict=True):
        assert sent.names == made.names == CLIPS[:8]
        np.testing.assert_array_equal(sent.scores, made.scores)
    tree = yaml.safe_load((folder / f"{LABEL}.meta.yaml").read_text())
    hummer = developed.results.machines[0].metrics
    assert tree["results"]["development_dataset"]["hummer"]["pauc"] == round(100 * hummer.pauc, 2)
    assert tree["system"]["complexity"]["total_parameters"] > 10_000


def test_pooled_tokens_of_a_trained_head_can_be_submitted(nearfar, small_factory, small_recipe, tmp_path):
    """Tokens with the head's own pooling, from recordings to a checked package."""
    hidden = shutil.copytree(small_factory, tmp_path / "hidden")
    shutil.rmtree(hidden / "whiner")
    for number, clip in enumerate(sorted((hidden / "hummer" / "test").iterdir())):
        clip.rename(clip.with_name(f"section_00_{number:04d}.wav"))
    changes = {"training.steps": 1, "features.source": "tokens", "features.pooling": "asp"}
    run_system(small_recipe.with_changes(**changes), hidden, tmp_path / "run")
    author = ("--author", "Ada Last <ada@inst.example>")
    done = nearfar("submit", tmp_path / "run", "--label", LABEL, "--out", tmp_path / "package", *author)
    assert (done.code, done.err) == (0, "")
    assert nearfar("submit", "--check", tmp_path / "package").code == 0
    text = (tmp_path / "package" / "task2" / LABEL / f"{LABEL}.meta.yaml").read_text()
    said = yaml.safe_load(text)["system"]["description"]
    assert said["aggregation_method"].startswith("attentive statistics pooling, average of near and far")
    assert said["decision_making"].startswith("quantile 0.9 of ")

"""Quality of a frozen encoder: a linear probe on ESC-10, and nearest neighbours on recordings of machines.

    python benchmarks/encoder_quality.py --encoders eat-tiny,random:tiny:0 --esc10 ESC10 --machines DIR

ESC-10 is a folder with a folder of recordings per class; the first digit of a file's name is its fold. The
probe is multinomial logistic regression (scikit-learn, C = 1) on standardised features: the mean of the
encoder's patch tokens, or, under the name ``log-mel``, the mean and the deviation over time of each of the 128
log-mel bands. Machines are in the challenge's layout and scored by the recipe ``frozen-eat``: tokens of a view
(the near channel), averaged over time within each of 8 bands, are compared with those of the normal training clips
by the cosine. The score is the challenge's; a paired bootstrap over test clips gives 95 % intervals of the first
encoder minus each other one and minus their mean.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nearfar import load_encoder
from nearfar.challenge.run import SystemRun, run_system
from nearfar.config import load_recipe
from nearfar.data.audio import SAMPLE_RATE_HZ
from nearfar.evaluation.truth import GroundTruth
from nearfar.evaluation.uncertainty import compare
from nearfar.frontends.kaldi import KaldiFbank

LOG_MEL = "log-mel"


def clips(folder: Path) -> tuple[list[NDArray[np.float32]], list[str], list[int]]:
    """Waveforms at 16 kHz, classes and folds."""
    waveforms, classes, folds = [], [], []
    for path in sorted(folder.glob("*/*.ogg")):
        sound, rate = soundfile.read(path, dtype="float32")
        waveforms.append(soxr.resample(sound, rate, SAMPLE_RATE_HZ, quality="HQ"))
        classes.append(path.parent.name)
        folds.append(int(path.name[0]))
    return waveforms, classes, folds


def clip_features(name: str, std: float, waveforms: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    fbank = KaldiFbank(std=std)
    encoder = None if name == LOG_MEL else load_encoder(name)
    rows = []
    with torch.inference_mode():
        for waveform in waveforms:
            sound = torch.from_numpy(waveform)[None]
            if encoder is None:
                log_mel = fbank.log_mel(sound)[0]
                rows.append(torch.cat([log_mel.mean(0), log_mel.std(0)]))
            else:
                rows.append(encoder(fbank(sound))[0, 1:].mean(0))
    return torch.stack(rows).numpy()


def probe(features: NDArray[np.float32], classes: list[str], folds: list[int]) -> dict[int, float]:
    """Accuracy in percent on each fold, trained on the others."""
    target, fold = np.array(classes), np.array(folds)
    accuracy = {}
    for held_out in sorted(set(folds)):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        classifier.fit(features[fold != held_out], target[fold != held_out])
        accuracy[held_out] = 100 * float(classifier.score(features[fold == held_out], target[fold == held_out]))
    return accuracy


def machine_scores(name: str, std: float, data: Path, layers: tuple[int, ...] | None, view: str) -> SystemRun:
    """A run of the frozen tokens of an encoder."""
    recipe = load_recipe("frozen-eat").with_changes(
        **{
            "encoder.weights": name,
            "fbank.std": std,
            "features.layers": layers,
            "scoring.views": [view],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        finished = run_system(recipe, data, Path(folder))
    assert finished is not None
    return finished


def print_differences(runs: dict[str, SystemRun]) -> None:
    """Print the first run minus each other one, and minus their mean."""
    first, *others = runs
    truth = GroundTruth.from_names(runs[first].scores)
    rows = {name: [runs[name].scores] for name in others}
    if len(others) > 1:
        rows["the mean of these"] = [runs[name].scores for name in others]
    for name, scores in rows.items():
        overall = compare([[runs[first].scores]], scores, truth)[0].overall
        low, high = 100 * overall.low, 100 * overall.high
        print(f"{first} minus {name}: {100 * overall.value:+.1f} [{low:+.1f}, {high:+.1f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", default="eat-tiny,random:tiny:0,log-mel")
    parser.add_argument("--stds", default="4.569", help="std of the fbank, one for all or one per encoder")
    parser.add_argument("--layers", help="blocks whose tokens are compared, such as 1,4; default the last")
    parser.add_argument("--esc10", type=Path)
    parser.add_argument("--machines", type=Path)
    parser.add_argument("--view", default="near", help="near, or cancelled: without what far predicts of it")
    arguments = parser.parse_args()
    names = arguments.encoders.split(",")
    stds = [float(std) for std in arguments.stds.split(",")]
    sounds = clips(arguments.esc10) if arguments.esc10 else None
    runs: dict[str, SystemRun] = {}
    layers = tuple(map(int, arguments.layers.split(","))) if arguments.layers else None
    for name, std in zip(names, stds * len(names) if len(stds) == 1 else stds, strict=False):
        row: dict[str, object] = {"encoder": name, "fbank_std": std}
        if sounds:
            waveforms, classes, folds = sounds
            accuracy = probe(clip_features(name, std, waveforms), classes, folds)
            row |= {"esc10": round(float(np.mean(list(accuracy.values()))), 1)}
            row |= {"folds": {fold: round(value, 1) for fold, value in accuracy.items()}}
        if arguments.machines and name != LOG_MEL:
            run = machine_scores(name, std, arguments.machines, layers, arguments.view)
            assert run.results is not None
            runs[f"{name} at {std:g}" if name in runs else name] = run
            row |= {"machines": round(100 * run.results.official_score, 1)}
            row |= {each.machine: round(100 * each.score, 1) for each in run.results.machines}
        print(json.dumps(row), flush=True)
    if len(runs) > 1:
        print_differences(runs)


if __name__ == "__main__":
    main()

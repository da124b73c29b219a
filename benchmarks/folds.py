"""Divide the voices into four folds, draw the trials of each, and train models on the other three.

    python benchmarks/folds.py FOLD [--voices ../shared/voices] [--home exp-folds] [--preset tiny] [--set KEY=VALUE]

Prepares the experiment of one fold in HOME/fold-FOLD and trains its dense model. Finished parts are kept, and
interrupted ones are resumed. `pruning_quality.py` does this for every fold that it needs.
"""

import argparse
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stage_commands import make, svkit

from svkit.store.atomic import write_text
from svkit.store.provenance import is_finished
from svkit.store.trials import Trials, write_trials

NUM_FOLDS = 4
SEED = 24
"""Seed for drawing trials and validation speakers."""
VALID_SPEAKERS = 5
"""Speakers of each fold's training part that are held out, so that choices can be made on them."""
MAX_TARGETS = 45
"""Largest number of target trials of a speaker, as in trials_dev.txt."""
NONTARGETS_PER_TARGET = 3
NONTARGET_SHARES = {(True, True): 0.55, (False, True): 0.25, (True, False): 0.15, (False, False): 0.05}
"""Shares of nontarget trials by (same source package, same gender), as in trials_dev.txt."""


def read_speakers(voices: Path) -> pd.DataFrame:
    """Read speakers.tsv, indexed by speaker; a guessed gender counts like a known one."""
    table = pd.read_csv(voices / "speakers.tsv", sep="\t", dtype=str).set_index("speaker_id")
    return table.assign(gender=table["gender"].str.rstrip("?"), n_utt=table["n_utt"].astype(int))


def fold_speakers(speakers: pd.DataFrame) -> list[list[str]]:
    """Give each speaker, large sources first, to the fold with the fewest of its source, its gender, and utterances."""
    rows = speakers.assign(name=speakers.index, few=-speakers["n_utt"])
    rows["source"] = -rows["package"].map(rows["package"].value_counts())
    folds: list[list[str]] = [[] for _ in range(NUM_FOLDS)]
    for row in rows.sort_values(["source", "package", "gender", "few", "language", "name"]).itertuples():

        def load(fold: list[str], row: Any = row) -> tuple[int, int, int]:
            members = speakers.loc[fold]
            same_source, same_gender = members["package"] == row.package, members["gender"] == row.gender
            return int(same_source.sum()), int(same_gender.sum()), int(members["n_utt"].sum())

        min(folds, key=load).append(row.name)
    return [sorted(fold) for fold in folds]


def make_trials(speakers: pd.DataFrame, utterances: dict[str, list[str]], seed: int) -> Trials:
    """Draw trials among speakers, each pair of utterances once.

    Args:
        speakers: the speakers of a fold, with `package` and `gender`.
        utterances: the utterances of each speaker.
        seed: seed of the draws.
    """
    names = sorted(utterances)
    rng = np.random.default_rng([seed, zlib.crc32(" ".join(names).encode())])
    pairs: list[tuple[str, str]] = []
    for name in names:
        own = sorted(utterances[name])
        found = [(a, b) for index, a in enumerate(own) for b in own[index + 1 :]]
        pairs += [found[i] for i in rng.permutation(len(found))[:MAX_TARGETS]]
    num_targets = len(pairs)
    kinds: dict[tuple[bool, bool], list[tuple[str, str]]] = {kind: [] for kind in NONTARGET_SHARES}
    package, gender = speakers["package"], speakers["gender"]
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            kind = (bool(package[first] == package[second]), bool(gender[first] == gender[second]))
            kinds[kind].append((first, second))
    for kind, share in NONTARGET_SHARES.items():
        # All pairs of speakers of a kind are equally likely, until their pairs of utterances are used up.
        queues = {
            pair: rng.permutation(len(utterances[pair[0]]) * len(utterances[pair[1]])).tolist()
            for pair in kinds[kind]
        }
        for _ in range(round(share * NONTARGETS_PER_TARGET * num_targets)):
            left = [pair for pair in queues if queues[pair]]
            if not left:
                break
            first, second = left[rng.integers(len(left))]
            i, j = divmod(queues[first, second].pop(), len(utterances[second]))
            pairs.append((sorted(utterances[first])[i], sorted(utterances[second])[j]))
    labels = np.repeat([1, 0], [num_targets, len(pairs) - num_targets]).astype(np.int8)
    enroll, test = np.array(pairs, dtype=object).T
    return Trials.of(enroll, test, labels)


def fold_trials(voices: Path, fold: int, seed: int = SEED) -> tuple[list[str], Trials]:
    """Return the speakers that a fold evaluates and the trials among them, always the same for the same voices."""
    speakers = read_speakers(voices)
    names = fold_speakers(speakers)[fold]
    utterances = {
        name: sorted(f"{name}/{path.name}" for path in (voices / "wav" / name).glob("*.flac"))
        for name in names
    }
    return names, make_trials(speakers.loc[names], utterances, seed)


def prepare_fold(voices: Path, home: Path, fold: int) -> Path:
    """Prepare the experiment of a fold; return its directory.

    Args:
        voices: the corpus, with `wav`, `noise`, `music` and `speakers.tsv`.
        home: directory of all folds.
        fold: number of the fold, from 0.
    """
    exp = home / f"fold-{fold}"
    if not is_finished(exp / "data"):
        names, trials = fold_trials(voices, fold)
        write_text(exp / "eval_speakers.txt", "".join(f"{name}\n" for name in names))
        write_trials(exp / f"fold-{fold}.txt", trials)
        svkit(
            "prepare", "folder", voices / "wav", "--exp", exp, "--overwrite", "--preset", "tiny",
            "--eval-speakers", exp / "eval_speakers.txt", "--trials", exp / f"fold-{fold}.txt",
            "--valid-speakers", VALID_SPEAKERS, "--seed", SEED,
        )  # fmt: skip
    for kind in ("noise", "music"):
        svkit("prepare", kind, voices / kind, "--exp", exp, "--keep-finished", "--overwrite")
    return exp


def add_fold_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every benchmark over folds: recordings, where the folds are made, which of them."""
    parser.add_argument("--voices", type=Path, default=Path("../shared/voices"))
    parser.add_argument("--home", type=Path, default=Path("exp-folds"), help="where the folds are made")
    parser.add_argument("--folds", type=int, nargs="+", choices=range(NUM_FOLDS), default=range(NUM_FOLDS))


def train_dense(exp: Path, flags: list[str]) -> Path:
    """Train the dense model of a fold; `flags` are recipe options of the training commands."""
    return make(exp / "finetune", "finetune", "--exp", exp, *flags, last="lmft")


def main() -> None:
    """Prepare and train one fold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fold", type=int, choices=range(NUM_FOLDS))
    parser.add_argument("--voices", type=Path, default=Path("../shared/voices"))
    parser.add_argument("--home", type=Path, default=Path("exp-folds"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    flags = ["--preset", options.preset]
    flags += [word for override in options.overrides for word in ("--set", override)]
    print(train_dense(prepare_fold(options.voices, options.home, options.fold), flags))


if __name__ == "__main__":
    main()

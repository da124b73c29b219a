"""Compare variants of the speaker head with the published one, over folds of real people at the tiny size.

    python benchmarks/ablation.py [--folds 2] [--variants sum mean-std] [--page-only]

Each variant is trained by every stage of the dense recipe, as the dense model of `pruning_quality.py` in the same fold
was; that model is the published head, and its results are read from its evidence. What a fold shows of a variant is
kept in docs/results/ablation, so folds and variants can be added one by one. Finished stages are kept, and the same
command continues after an interruption. Writes ablation.json and ablation.md of all results so far.
"""

import argparse
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from evidence import Evidence, read_evidence, trials_sha256, write_evidence
from folds import NUM_FOLDS, add_fold_options, fold_trials, prepare_fold
from quality_page import comparison_cells, made_by_fold
from quality_pool import OURS, gather
from stage_commands import make, score

from svkit.config.load import load_recipe
from svkit.models.load import load_model
from svkit.models.session import make_accelerator
from svkit.reports.tables import Table, percent, to_markdown
from svkit.reports.timing import describe_machine
from svkit.store.atomic import write_json, write_text
from svkit.store.metrics import metrics_record, read_metrics
from svkit.store.scores import read_scores
from svkit.training.validation import Validator

PRESET = "tiny"
PUBLISHED = "published"
VARIANTS = {
    "last-state": ("only the encoder's last hidden state", "head.states=[-1]"),
    "two-states": ("only its last two hidden states", "head.states=[-1, -2]"),
    "no-adapters": ("no layer adapters", "head.layer_adapters=false"),
    "sum": ("learned weighted sum in place of MFA", "head.aggregation=sum"),
    "mean-std": ("mean and standard deviation in place of ASP", "head.pooling=mean-std"),
    "multi-head": ("attention in groups of channels in place of ASP", "head.pooling=multi-head"),
}
"""Name -> what is different, and the setting."""


def measure(name: str, fold: int, model: Path, exp: Path, flags: list[str], voices: Path) -> Evidence:
    """Measure a trained variant on the validation speakers and on the trials of the fold."""
    home, recipe = exp / "ablation", load_recipe(PRESET)
    embeddings = make(home / "embeddings" / name, "extract", *flags, "--model", model)
    trials = fold_trials(voices, fold)[1]
    place = score(home, exp / "data" / "trials" / f"fold-{fold}.txt", [embeddings])[name]
    network, data = load_model(model), exp / "data"
    accelerator = make_accelerator("fp32")
    validator = Validator(data / "valid.tsv", data / "valid_trials.txt")
    row = {
        "method": name,
        "stage": "lmft",
        "head_parameters": sum(parameter.numel() for parameter in network.head.parameters()),
        "valid_eer": validator.measure(network, recipe.extract, accelerator)["eer"],
        "eer": metrics_record(read_metrics(place))["eer"],
    }
    return Evidence(
        fold=fold,
        method=name,
        settings=settings(recipe.seed, name),
        made={
            "date": date.today().isoformat(),
            "machine": asdict(describe_machine()),
            "precision": "fp32",
            "teacher": None,
        },
        rows=[row],
        scores=read_scores(place).scores,
        trials_sha256=trials_sha256(trials),
    )


def settings(seed: int, name: str) -> dict[str, Any]:
    """Return the settings that the evidence on a variant must share to be pooled."""
    return {"preset": PRESET, "seed": seed, "changed": [VARIANTS[name][1]]}


def render(facts: dict[str, Any]) -> str:
    """The page."""
    valid: dict[str, list[float]] = {}
    for row in facts["rows"]:
        if row["stage"] == "lmft":
            name = PUBLISHED if row["method"] == "dense" else row["method"]
            valid.setdefault(name, []).append(row["valid_eer"])
    rows = []
    for one in facts["pooled"]:
        name, pooled = PUBLISHED if one["method"] == OURS else one["method"], one["pooled"]
        what = "MFA of all states, layer adapters, ASP" if name == PUBLISHED else VARIANTS[name][0]
        cells = [
            name,
            what,
            ", ".join(map(str, one["folds"])),
            f"{one['num_speakers']}",
            *comparison_cells(pooled),
        ]
        cells.append(f"{percent(sum(valid[name]) / len(valid[name]))}")
        rows.append(cells)
    headings = [
        "variant", "head", "folds", "speakers", "EER, % (95 %)", "published minus it, points (95 %)",
        "EER of validation speakers, %",
    ]  # fmt: skip
    return "\n\n".join(
        [
            "# Ablation of the speaker head",
            f"Made by `{facts['command']}`. {made_by_fold(facts)} Preset `{PRESET}`, dense models. Each variant is"
            " trained like the published head: same stages, steps and seed. It is compared with it on the folds where"
            " both were trained. A negative difference means that the published head makes fewer errors. Validation:"
            " the mean of the folds' EERs, each of five speakers held out of training.",
            to_markdown(Table(headings=headings, rows=rows, left=(0, 1))),
            "The encoder has four layers and starts from random weights, so nothing follows for a pretrained encoder"
            " of 24 layers.\n",
        ]
    )


def main() -> None:
    """Train what is missing, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_fold_options(parser)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--page-only", action="store_true", help="write the page of what is there")
    options = parser.parse_args()
    kept, seed = options.out / "ablation", load_recipe(PRESET).seed
    for fold in () if options.page_only else options.folds:
        for name in options.variants:
            if read_evidence(kept, fold, name, settings(seed, name)) is not None:
                continue
            exp = options.home / f"fold-{fold}"
            prepare_fold(options.voices, options.home, fold)
            flags = ["--exp", str(exp), "--preset", PRESET, "--set", "precision=fp32"]
            model = make(exp / "ablation" / name, "finetune", *flags, "--set", VARIANTS[name][1], last="lmft")
            write_evidence(kept, measure(name, fold, model, exp, flags, options.voices))
    known: dict[str, dict[int, Evidence | None]] = {
        name: {fold: read_evidence(kept, fold, name, settings(seed, name)) for fold in range(NUM_FOLDS)}
        for name in VARIANTS
    }
    dense = {"preset": PRESET, "seed": seed, "changed": [], "target": 0.8}
    tried = {fold for found in known.values() for fold, one in found.items() if one is not None}
    known[OURS] = {fold: read_evidence(options.out, fold, "dense", dense) for fold in sorted(tried)}
    facts = gather(known, options.voices)
    facts["command"] = "python benchmarks/ablation.py"
    write_json(options.out / "ablation.json", {"format": "svkit-ablation", "format_version": 1, **facts})
    write_text(options.out / "ablation.md", render(facts))
    print(render(facts))


if __name__ == "__main__":
    main()

"""Options that several commands share, and the recipe and defaults that follow from them."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from svkit.cli import console
from svkit.cli.option_groups import OptionGroup
from svkit.config.ranges import Range
from svkit.errors import ConfigError, FinishedError

if TYPE_CHECKING:
    from svkit.config.schema import Recipe
    from svkit.progress import Progress
    from svkit.reports.tables import Table
    from svkit.store.request import RunRequest

    Asked = TypeVar("Asked", bound=RunRequest)
Result = TypeVar("Result")


def option(flag: str, description: str, metavar: str | None = None) -> typer.models.OptionInfo:
    """Declare an option."""
    found: typer.models.OptionInfo = typer.Option(flag, metavar=metavar, help=description)
    return found


def number(flag: str, limits: Range, description: str, **settings: Any) -> Any:
    """Declare an option for one or more numbers in a range; any other is a usage error that names the option."""

    def check(value: float | list[float] | None) -> float | list[float] | None:
        for one in value if isinstance(value, list) else (value,):
            if one is not None and one not in limits:
                raise typer.BadParameter(limits.misfit(one, is_whole=isinstance(one, int)))
        return value

    return typer.Option(flag, callback=check, help=f"{description} [{limits}]", **settings)


def allow(description: str, *guards: str) -> Any:
    """Declare `--allow`; the shell completes its values, and the command's request checks them."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in guards if name.startswith(incomplete)]

    return typer.Option("--allow", metavar="GUARD", help=description, autocompletion=complete)


Workers = Annotated[
    int | None, number("--workers", Range(ge=1, le=1024), "Number of files to read at once.", metavar="N")
]
SeedOrBefore = Annotated[
    int | None,
    number("--seed", Range(ge=0, lt=2**32), "Seed of all random draws [default: as before, else 24]."),
]
Seed = Annotated[int, number("--seed", Range(ge=0, lt=2**32), "Seed of all random draws.")]
MinSeconds = Annotated[float, number("--min-seconds", Range(ge=0, le=3600), "Shorter files are bad.")]
Exp = Annotated[Path, typer.Option("--exp", envvar="SVKIT_EXP", help="Working directory of the experiment.")]

Channel = Annotated[
    str,
    option(
        "--channel",
        "Channel to use: a number counted from 0, the mean of all, or the loudest.",
        "N|mix|loudest",
    ),
]
SkipBad = Annotated[bool, option("--skip-bad", "Leave bad files out instead of stopping.")]
PersonRegex = Annotated[
    str | None,
    option("--speaker-regex", "Regular expression for the path below FOLDER; its first group is the person."),
]
AllowCut = Annotated[bool, option("--allow-cut", "Use the part of a truncated recording that can be read.")]
Gallery = Annotated[
    Path | None, option("--gallery", "Directory of enrolled people [default: gallery in --exp].", "DIR")
]
Model = Annotated[
    Path | None,
    option(
        "--model",
        "Checkpoint, or a name on the hub [default: the gallery's, else final pruned, else dense].",
        "CKPT",
    ),
]
Calibration = Annotated[
    Path | None,
    option("--calibration", "Calibration to apply [default: calibration.json beside the model].", "FILE"),
]
COST = Range(gt=0, le=1e9)
REJECTED, UNDECIDED = 10, 11
ExitCode = Annotated[
    bool, option("--exit-code", f"Exit with {REJECTED} if rejected, {UNDECIDED} if undecided.")
]


def exit_decided(decisions: "Sequence[bool | None]", *, asked: bool) -> None:
    """Exit with the code of the least certain decision, if `--exit-code` was given."""
    code = UNDECIDED if None in decisions else 0 if all(decisions) else REJECTED
    if asked and code:
        raise typer.Exit(code)


def parse_channel(text: str) -> "int | Literal['mix', 'loudest']":
    """Parse `--channel`; ConfigError unless it is a number, `mix` or `loudest`."""
    words: dict[str, Literal["mix", "loudest"]] = {"mix": "mix", "loudest": "loudest"}
    if text in words:
        return words[text]
    if re.fullmatch("[0-9]{1,4}", text):
        return int(text)
    raise ConfigError(
        f"--channel {text}: expected the number of a channel, counted from 0, or mix or loudest"
    )


def _complete_preset(incomplete: str) -> list[str]:
    from svkit.config.load import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Recipe that comes with svkit [default: as in exp/config.toml].",
        autocompletion=_complete_preset,
    ),
]
Config = Annotated[Path | None, option("--config", "TOML file with changes to the preset.", "FILE")]
Overrides = Annotated[
    list[str] | None, option("--set", "Change a value: optim.lr=1e-4; repeatable.", "KEY=VALUE")
]
PrintConfig = Annotated[bool, option("--print-config", "Print the resolved recipe as TOML and exit.")]
Overwrite = Annotated[
    bool, option("--overwrite", "Replace existing output; an unfinished run of this command is resumed.")
]
KeepFinished = Annotated[
    bool,
    option(
        "--keep-finished",
        "Keep finished output if its inputs and settings are the same; with --overwrite, replace it otherwise.",
    ),
]
Json = Annotated[bool, option("--json", "Print the result as JSON.")]
HubFile = Annotated[
    str | None, option("--file", "Which .pth to use if the model is a name on the hub.", "FILE")
]
Out = Annotated[Path | None, option("--out", "Write here instead of the default in --exp.", "DIR")]
Encoder = Annotated[str | None, option("--encoder", "Hub id, local transformers directory, or tiny.")]
Manifest = Annotated[
    Path | None, option("--manifest", "List of utterances to use instead of the experiment's.", "TSV")
]
AudioRoot = Annotated[
    str | None,  # Path would make one slash of the two in a URL
    option(
        "--audio-root",
        "Directory, or URL of tar shards, that the manifest's relative paths start from.",
        "DIR",
    ),
]
Noise = Annotated[Path | None, option("--noise", "Noise and music list [default: the prepared one].", "TSV")]
Rirs = Annotated[Path | None, option("--rirs", "Room impulse responses [default: the prepared ones].", "TSV")]
Augment = Annotated[
    bool | None,
    option(
        "--augment/--no-augment", "Use noise and reverberation in training [default: as before, else yes]."
    ),
]


@dataclass(frozen=True, kw_only=True)
class OutputOptions(OptionGroup):
    """Options of every command that writes into an experiment."""

    overwrite: Overwrite = False
    keep_finished: KeepFinished = False
    exp: Exp = Path("exp")
    json: Json = False

    def show(self, facts: object, lines: object) -> None:
        """Print the result: `facts` with `--json`, else `lines`."""
        console.result(facts if self.json else lines, as_json=self.json)

    def show_next(
        self, command: str | Callable[[], str], *, label: str = "next", is_last: bool = False
    ) -> None:
        """Show the command to run next, on stderr, unless the result is printed as JSON.

        Under make, which runs the next stage itself, only what follows the last stage is shown. Who updates an
        experiment has to update what follows, too: after the same two flags on this command, the next one has them.
        """
        if self.json or not is_last and "MAKELEVEL" in os.environ:
            return
        text = command if isinstance(command, str) else command()
        if self.keep_finished and self.overwrite and not is_last:
            from svkit.tools.following import UPDATE

            if not text.endswith(UPDATE):
                text += f" {UPDATE}"
        console.note(f"{label}: {self.to_type(text)}")

    def following(self, after: str | Path, made: Sequence[Path] = ()) -> str:
        """Return the command that follows in the experiment's chain (`svkit.tools.following`)."""
        from svkit.tools.following import following

        return following(self.exp, after, made)

    def to_type(self, command: str) -> str:
        """Return a command for this experiment as the user can type it.

        Without an activated environment, svkit is named as it was called, for example `.venv/bin/svkit`.
        """
        is_default = self.exp == Path(os.environ.get("SVKIT_EXP", "exp"))
        if Path(sys.argv[0]).name == "svkit" and shutil.which("svkit") is None:
            command = shlex.quote(sys.argv[0]) + command.removeprefix("svkit")
        return command if is_default else f"{command} --exp {shlex.quote(str(self.exp))}"


@dataclass(frozen=True, kw_only=True)
class TableOptions(OutputOptions):
    """Options of the commands that show tables."""

    csv: Annotated[Path | None, option("--csv", "Also write each table as a CSV file into DIR.", "DIR")] = (
        None
    )
    latex: Annotated[
        Path | None, option("--latex", "Also write each table as LaTeX (booktabs) into DIR.", "DIR")
    ] = None

    def check_tables(self, command: str) -> None:
        """Raise ConfigError, before anything slow, if tables cannot be written or would be overwritten."""
        for flag, directory, suffix in self._table_forms():
            if directory.suffix == f".{suffix}" or directory.exists() and not directory.is_dir():
                raise ConfigError(
                    f"{flag} {directory}: expected a directory; each table becomes a file in it"
                )
            if any(directory.glob(f"{command}-*.{suffix}")) and not (self.overwrite or self.keep_finished):
                raise ConfigError(
                    f"{flag} {directory}: already has tables of `svkit {command}`; give --overwrite to replace them"
                )

    def write_tables(self, command: str, tables: "Mapping[str, Table]") -> None:
        """Write the tables of a command, named after it, in the formats asked for, and print their paths."""
        from svkit.reports.tables import write_tables

        named = {f"{command} {name}": table for name, table in tables.items()}
        for _, directory, suffix in self._table_forms():
            for path in write_tables(directory, suffix, named):
                console.note(f"table: {path}")

    def _table_forms(self) -> list[tuple[str, Path, str]]:
        forms = (("--csv", self.csv, "csv"), ("--latex", self.latex, "tex"))
        return [(flag, directory, suffix) for flag, directory, suffix in forms if directory is not None]


@dataclass(frozen=True, kw_only=True)
class RunOptions(OutputOptions):
    """Options of every command that runs a recipe on a manifest."""

    out: Out = None
    manifest: Manifest = None
    audio_root: AudioRoot = None
    preset: Preset = None
    config: Config = None
    overrides: Overrides = None
    print_config: PrintConfig = False

    def is_set(self, key: str) -> bool:
        """Whether `--set` gives this key."""
        return any(override.partition("=")[0].strip() == key for override in self.overrides or ())

    def open_recipe(
        self, sections: Sequence[str], encoder: str | None = None, upstream: Path | None = None
    ) -> "Recipe":
        """Resolve the recipe to run: preset < exp/config.toml < upstream < --config < --set < --encoder.

        With `--print-config` the recipe is printed as TOML, ready to be edited and given to `--config`, and the
        command ends.

        Args:
            sections: sections of the recipe that a `--set` key without a section refers to.
            encoder: value of `--encoder`.
            upstream: checkpoint that the command starts from; its recipe and seed are the defaults.

        Raises:
            ConfigError: an unknown preset, key or value.
        """
        from svkit.config.load import load_recipe, preset_names, resolved, to_toml
        from svkit.scoring.lineage import made_with
        from svkit.store.experiment import FILE_NAME, noted_encoder, read_experiment

        experiment, noted = read_experiment(self.exp), self.exp / FILE_NAME
        made_by, seed = (None, None) if upstream is None else made_with(upstream)
        preset = self.preset or (made_by if made_by in preset_names() else None) or experiment.preset
        seed = experiment.seed if seed is None else seed
        defaults: dict[str, str | int] = {"seed": seed} if seed is not None else {}
        encoder_before = noted_encoder(self.exp, experiment.encoder)
        if encoder_before and preset == experiment.preset:
            defaults["encoder"] = encoder_before
        recipe = load_recipe(
            preset,
            None if self.config is None else _read_config(self.config),
            self.overrides or (),
            sections,
            defaults,
            preset_from="--preset" if self.preset else f"{noted}: preset",
            config_name=str(self.config),
        )
        if made_by not in (None, recipe.name):
            console.note(
                f"{upstream} was made with the recipe {made_by}, but this command runs {recipe.name}; "
                "the report will say that the chain mixes recipes"
            )
        elif not self.preset and preset != experiment.preset:
            console.note(
                f"using the preset {preset}, with which {upstream} was made ({noted} says {experiment.preset})"
            )
        recipe = replace(recipe, encoder=encoder) if encoder else recipe
        if self.print_config:
            self.show(resolved(recipe), to_toml(resolved(recipe)))
            raise typer.Exit
        return recipe

    def run(
        self,
        run: "Callable[[Asked, Progress], Result]",
        request: "Asked",
        following: Callable[[Path], str] | None = None,
        **chosen: str | None,
    ) -> "Result":
        """Run a request, then note the preset, seed and `chosen` flags in exp/config.toml for later commands.

        A result written elsewhere (`--out`) is not part of the experiment's chain, so nothing is noted. If all is
        finished already, the error also names the first command of the chain that has something to do, or elsewhere the
        one that follows, as `following` gives it.
        """
        from svkit.store.experiment import update_experiment

        with console.progress() as progress:
            try:
                done = run(request, progress)
            except FinishedError as error:
                if following is None:
                    raise
                # What is up to date may be made from what is not, of which it would keep the results of before.
                after = self.following("") if self.out is None else following(Path(error.final))
                raise ConfigError(f"{error}; or go on with `{self.to_type(after)}`") from error
            if self.out is None and console.is_main_process():
                seed = request.recipe.seed if self.is_set("seed") else None
                changes = {"preset": self.preset, "seed": seed, **chosen}
                changes = {key: value for key, value in changes.items() if value is not None}
                for change in update_experiment(self.exp, **changes) if changes else ():
                    progress.note(change)
        return done


@dataclass(frozen=True, kw_only=True)
class HearingOptions(OptionGroup):
    """Options of the commands that listen to recordings with a model."""

    model: Model = None
    file: HubFile = None
    channel: Channel = "0"
    allow_cut: AllowCut = False
    exp: Exp = Path("exp")
    json: Json = False

    def hearing(self, kind: "Callable[..., Result]", **own: Any) -> "Result":
        """Build a request of `kind`, with the model fetched if it is on the hub and the channel parsed."""
        checkpoint, channel = on_disk(self.model, self.file), parse_channel(self.channel)
        return self.request(kind, model=checkpoint, channel=channel, **own)


def on_disk(model: Path | None, file: str | None) -> Path | None:
    """Return the path of a model; a name on the hub is fetched, and converted once into the user's cache."""
    if model is None:
        if file is not None:
            raise ConfigError("--file: is only for a model on the hub; name that model too")
        return None
    from svkit.tools.convert import local_checkpoint

    with console.progress() as progress:
        return local_checkpoint(model, file, progress)


def augmentation(exp: Path, noise: Path | None, rirs: Path | None, flag: bool | None) -> dict[str, Any]:
    """Return the augmentation fields of a request, from the flags or else from exp/config.toml."""
    from svkit.store.experiment import read_experiment, resolve

    noted = read_experiment(exp)
    lists = {"noise": noise or resolve(exp, noted.noise), "rirs": rirs or resolve(exp, noted.rirs)}
    return {**lists, "augment": noted.augment != "none" if flag is None else flag}


def _read_config(path: Path) -> str:
    from svkit.store.files import TOML_BYTES, read_file

    try:
        return read_file(path, ConfigError, TOML_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: cannot be read as text: {error}") from None

"""Numbers on the command line: each option has its range, and a message repeats the option's name."""

import inspect
from typing import get_args

import pytest
from typer.testing import CliRunner

from svkit.cli.app import app


def _numbers(commands, path=()):
    """Yield (words of the command, option, whether it is whole) of all options that take a number."""
    for group in commands.registered_groups:
        yield from _numbers(group.typer_instance, (*path, group.name))
    for command in commands.registered_commands:
        words = (*path, command.name or command.callback.__name__)
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values():
            kind, option = get_args(parameter.annotation)
            kinds = {kind, *get_args(kind)}
            if kinds & {int, float}:
                yield words, option.default, int in kinds  # where typer keeps the flag


NUMBERS = sorted(set(_numbers(app)))


def _refusal(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_there_are_numbers():
    names = {option for _, option, _ in NUMBERS}
    assert names >= {
        "--sparsity",
        "--seed",
        "--top-n",
        "--prior",
        "--threshold",
        "--workers",
        "--min-seconds",
    }


@pytest.mark.parametrize(("command", "option", "is_whole"), NUMBERS)
def test_every_number_is_bounded_on_both_sides(command, option, is_whole):
    values = ["-100", "1" + "0" * 30] if is_whole else ["-100", "1e30", "nan", "inf"]
    for value in values:
        message = _refusal(*command, option, value)
        assert f"'{option}'" in message and "expected a " in message and "found" in message, message
    assert f"'{option}': expected a {'whole ' * is_whole}number" in _refusal(*command, option, "8GB")


def test_a_percentage_for_a_fraction_is_asked_about():
    message = _refusal("prune", "--sparsity", "80")
    assert "'--sparsity': expected a number >= 0.01 and <= 0.99, found 80; did you mean 0.8?" in message
    assert "0.5?" in _refusal("verify", "a.wav", "b.wav", "--prior", "50")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["prune", "--set", "prune.temperature=0"], "--set prune.temperature: expected a number > 0"),
        (["prune", "--set", "seed=-1", "--print-config"], "--set seed: expected a whole number >= 0"),
        (["distill", "--set", "optim.lr=-1"], "--set optim.lr: expected a number > 0"),
        (["prune", "--config", "FILE"], "my.toml: prune.temperature: expected a number > 0"),
        (["prune", "--preset", "smok"], "--preset: unknown preset 'smok'; did you mean 'smoke'?"),
        (["prune"], "config.toml: preset: unknown preset 'tinny'; did you mean 'tiny'?"),
    ],
)
def test_what_was_typed_is_what_is_named(arguments, named, tmp_path):
    (tmp_path / "config.toml").write_text('preset = "tinny"' if arguments == ["prune"] else 'preset = "tiny"')
    own = tmp_path / "my.toml"
    own.write_text("[prune]\ntemperature = 0")
    given = [str(own) if argument == "FILE" else argument for argument in arguments]
    assert named in _refusal(*given, "--exp", str(tmp_path))


@pytest.mark.parametrize("count", ["-3", "2.5", "nan", "1e9", "9" * 30])
def test_a_number_of_speakers_that_counts_nothing(count, tmp_path):
    from svkit.corpora.splits import is_count
    from svkit.errors import ConfigError

    with pytest.raises(ConfigError, match="^--eval-speakers .* expected a number of speakers"):
        is_count("--eval-speakers", count)
    named = tmp_path / count
    named.write_text("a\n")
    assert not is_count("--eval-speakers", str(named)) and is_count("--eval-speakers", "3")


@pytest.mark.parametrize("part", ["a=nan%", "a=150%", "a=-1", "a=1e400%", "a=0%"])
def test_parts_of_a_list(part, tmp_path):
    from svkit.errors import ConfigError
    from svkit.lists.split import _choose

    name, _, spec = part.partition("=")
    with pytest.raises(ConfigError, match=f"^--part {name}"):
        _choose({name: spec}, ["x", "y", "z"], seed=1)


@pytest.mark.parametrize("budget", ["macs=0", "macs=-1G", "macs=nan", "macs=" + "9" * 400, "macs=1e9", "6G"])
def test_budgets(budget):
    from svkit.errors import ConfigError
    from svkit.training.prune import parse_budget

    with pytest.raises(ConfigError, match="^--budget: expected macs=NUMBER"):
        parse_budget(budget)

"""Exit codes, one-line errors, cheap help."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from svkit.cli import app as app_module
from svkit.cli import console, score, signals
from svkit.cli.app import ErrorGroup, app
from svkit.errors import ArtifactError, ConfigError, DataError, TrainingError
from svkit.scoring import guards


def _find_commands(group: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, command in group.commands.items():
        found |= (
            _find_commands(command, f"{name} ")
            if hasattr(command, "commands")
            else {f"{prefix}{name}": command}
        )
    return found


COMMANDS = _find_commands(typer.main.get_command(app))
HEAVY = ("torch", "pandas", "numpy", "transformers", "soundfile", "matplotlib", "sklearn", "accelerate")


def _app_raising(error: BaseException) -> typer.Typer:
    failing = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False, rich_markup_mode=None)

    @failing.callback()
    def root() -> None:
        """Have commands."""

    @failing.command()
    def go() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("optim.lr: bad"), 2),
        (DataError("a.tsv:3: path: bad"), 3),
        (ArtifactError("exp/prune: missing"), 4),
        (TrainingError("loss is nan"), 5),
    ],
)
def test_each_family_of_errors_is_one_line_and_its_code(error: Exception, code: int) -> None:
    result = CliRunner().invoke(_app_raising(error), ["go"])
    assert result.exit_code == code
    assert result.stderr == f"error: {error}\n"
    assert result.stdout == ""


def test_interrupt_is_130() -> None:
    result = CliRunner().invoke(_app_raising(KeyboardInterrupt()), ["go"])
    assert result.exit_code == 130 and result.stderr == "error: interrupted\n"


@pytest.mark.parametrize(
    ("number", "work", "expected"),
    [
        (signal.SIGINT, "signal.raise_signal(number)", (130, "error: interrupted\n")),
        (signal.SIGTERM, "signal.raise_signal(number)", (143, "error: terminated\n")),
        (signal.SIGHUP, "signal.raise_signal(number)", (143, "error: terminated\n")),
        # Python drops what a finalizer raises, so the signal has to come again.
        (signal.SIGTERM, "Last(); time.sleep(30)", (143, "error: terminated\n")),
        (signal.SIGHUP, "Last(); time.sleep(30)", (143, "error: terminated\n")),
        (signal.SIGINT, "Last(); time.sleep(30)", (130, "error: interrupted\n")),
    ],
)
def test_a_signal_outside_the_stages(
    number: int, work: str, expected: tuple[int, str], tmp_path: Path
) -> None:
    """While commands are built, and within a finalizer."""
    program = tmp_path / "program.py"
    program.write_text(
        "import signal, sys, time\n"
        "from svkit.cli import app\n"
        f"number = {int(number)}\n"
        "class Last:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(number)\n"
        "def work(**_):\n"
        f"    {work}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "app.app = work\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == expected


def test_an_interrupt_while_the_commands_are_imported(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    program = "from svkit.__main__ import main\nmain()\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def test_under_nohup_a_lost_terminal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = {signal.SIGHUP: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}
    installed = []
    monkeypatch.setattr(signals.signal, "getsignal", handlers.get)
    monkeypatch.setattr(signals.signal, "signal", lambda number, _: installed.append(number))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    signals.install()
    assert installed == [signal.SIGTERM, signal.SIGINT]


def test_an_error_that_a_library_makes_of_a_signal_is_the_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
    result = CliRunner().invoke(_app_raising(ArtifactError("a.safetensors: not readable")), ["go"])
    assert (result.exit_code, result.stderr) == (143, "error: terminated\n")


def test_exit_of_a_stage_is_kept() -> None:
    """Training answers SIGTERM itself, with 143 after saving."""
    assert CliRunner().invoke(_app_raising(SystemExit(143)), ["go"]).exit_code == 143


def test_a_bug_shows_its_traceback_and_asks_for_a_report() -> None:
    result = CliRunner().invoke(_app_raising(ZeroDivisionError("x")), ["go"])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr and "please report" in result.stderr.splitlines()[-1]


def test_a_full_or_read_only_disk_is_no_bug() -> None:
    result = CliRunner().invoke(_app_raising(OSError(28, "No space left on device", "exp/x")), ["go"])
    assert result.exit_code == 4
    assert result.stderr == "error: exp/x: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["prune", "--sparsty", "0.8"], "--sparsity"),
        (["prun"], "Did you mean 'prune'?"),
        (["prune", "--sparsity", "1.5"], "0.99"),
        (["prune", "--sparsity", "much"], "--sparsity"),
        (["finetune", "--stage", "jiont"], "jiont"),
        (["info", "a", "b"], "b"),
        (["verify", "a", "b", "--false-accepts", "1%"], "--false-accepts; calibrate has it ("),
    ],
)
def test_usage_errors_are_one_line_and_2(arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and expected in result.stderr
    assert result.stderr.count("\n") == 1 and "--help" in result.stderr
    assert result.stdout == ""


def test_no_argument_shows_the_help() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2 and "Commands:" in result.output


def test_the_help_lists_the_verbs_in_the_order_of_the_chain() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout.partition("Commands:\n")[2]
    names = [line.split()[0] for line in text.splitlines() if line]
    assert names[:7] == ["prepare", "finetune", "prune", "distill", "extract", "score", "report"]
    assert set(names) == {name.split()[0] for name in COMMANDS}


def test_a_terminal_is_told_at_once_that_a_command_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its libraries are loaded, which takes seconds; files and pipes are not told."""
    said: list[str] = []
    monkeypatch.setattr(console, "note", said.append)
    command = console.announced(lambda: said.append("works"))
    command()
    assert said == ["works"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    command()
    assert said[1:] == ["<lambda>: loading", "works"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"Example: svkit {command}" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command: str) -> None:
    undocumented = [item.name for item in COMMANDS[command].params if not getattr(item, "help", "")]
    assert undocumented == []


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.stdout.startswith("svkit 0.")


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, svkit.cli.app; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert _python(code).stdout.strip() == "[]"
    code = f"import sys, svkit; svkit.__version__; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert _python(code).stdout.strip() == "[]"


def test_scoring_imports_no_torch() -> None:
    """It would cost 450 MB and two seconds; the tables that the command prints need none either."""
    used = ("cli.score", "scoring.score", "reports.conditions", "reports.results", "reports.wording")
    modules = ", ".join(f"svkit.{name}" for name in used)
    assert _python(f"import sys, {modules}; print('torch' in sys.modules)").stdout.strip() == "False"


def test_verify_imports_neither_tables_nor_reports_nor_training() -> None:
    """They would cost as much as torch itself; a decision needs none of them."""
    modules = ("pandas", "pyarrow", "scipy.optimize", "scipy.sparse", "accelerate", "transformers", "peft")
    code = (
        "import sys, svkit.scoring.verify, svkit.scoring.identify, svkit.scoring.enroll, svkit.tools.convert"
    )
    assert _python(f"{code}; print([m for m in {modules!r} if m in sys.modules])").stdout.strip() == "[]"


@pytest.mark.slow
def test_report_draws_whatever_backend_the_shell_of_a_notebook_names(tmp_path: Path) -> None:
    """There is nothing to report, which is found after the figures' module has been imported."""
    done = subprocess.run(
        [sys.executable, "-m", "svkit", "report", "--exp", str(tmp_path)],
        env={**os.environ, "MPLBACKEND": "module://not_installed_here"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr


def test_help_is_quick() -> None:
    """0.3 s is the target; CPU time and the best of a few runs, because the machine may be busy."""
    assert min(_help_cpu_seconds() for _ in range(4)) < 0.4


def _help_cpu_seconds() -> float:
    before = os.times()
    subprocess.run([sys.executable, "-m", "svkit", "--help"], capture_output=True, check=True)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def _complete(*words: str) -> list[str]:
    """Ask for completions as bash does."""
    environment = {
        **os.environ,
        "_SVKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["svkit", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "svkit"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_options_choices_and_presets() -> None:
    assert _complete("pru") == ["prune"]
    assert "--sparsity" in _complete("prune", "--spa")
    assert _complete("finetune", "--stage", "l") == ["lora", "lmft"]
    assert {"w2v-bert-2.0", "w2v-bert-2.0-no-lora"} < set(_complete("finetune", "--preset", "w2v"))


def test_the_shell_completes_what_a_guard_is_called() -> None:
    """All guards of a command that are in its help, and no others."""
    assert _complete("score", "t.txt", "--allow", "s") == ["shared-speakers", "self-trials", "stale"]
    assert _complete("prune", "--allow", "") == ["unconverged"]
    assert set(get_args(guards.Guard)) == set(score._GUARDS)


HEAVY_ROOMS = tuple(
    f"svkit.{room}"
    for room in ("tools", "lists", "demo", "training", "corpora", "reports", "scoring", "models", "store")
)


def test_files_stay_signatures() -> None:
    """A command's file imports its stage inside the function; what stands above would slow every --help."""
    folder = Path(app_module.__file__).parent
    for path in folder.glob("*.py"):
        top_level = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in top_level if line.split()[1].startswith(HEAVY_ROOMS)], path.name


def test_a_value_that_is_no_choice_is_named_without_the_librarys_own_words():
    text = CliRunner().invoke(app, ["finetune", "--stage", "joint,lmft"]).stderr
    assert "'joint,lmft' is not one of 'lora'" in text and "Value error" not in text

"""The `svkit` command: its verbs, and the one place where errors become exit codes.

Nothing heavy is imported here: each command's file holds a signature and imports its stage when it runs.
"""

import errno
import os
import re
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from svkit.cli import (
    calibrate,
    console,
    convert,
    distill,
    doctor,
    enroll,
    export,
    extract,
    finetune,
    identify,
    info,
    people,
    prepare,
    prune,
    push,
    report,
    score,
    signals,
    streams,
    verify,
)
from svkit.errors import ConfigError, SvkitError
from svkit.torch_pair import check_torch_pair

# Typer 0.29 vendors click, earlier versions import it. In both, this class is the parent of BadParameter.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM)
_NO_PATH = {
    errno.ENAMETOOLONG: "; use a shorter one",
    errno.ELOOP: "; remove the link that leads back to itself",
    errno.ENOTDIR: "; a part of this path is a file, expected a directory",
}
"""Errors of paths that no file can have, and what to do."""
_SYMLINK_LOOP = re.compile("Symlink loop from '(.*)'", re.DOTALL)
"""The error of pathlib before Python 3.13. Lists and recordings cause it; for outputs and models others come first."""
_NUMBERS = {
    "float_parsing": "a number, without a unit",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
}
"""What was expected, by the type of the error that pydantic reports."""
_PEER_LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
"""Words in the error of a collective operation when another process of the job has ended."""


class ErrorGroup(TyperGroup):
    """The root command: an error is one line on stderr and the exit code of its family."""

    def main(  # type: ignore[override]
        self, args: Any = None, prog_name: str | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run and exit: 0, 1 a bug, 2 usage, 3 data, 4 artifact, 5 training, 130 Ctrl-C, 143 SIGTERM or SIGHUP."""
        settings = {"args": args, "prog_name": prog_name, **extra}
        if not standalone_mode:
            return super().main(standalone_mode=False, **settings)
        try:
            code = self._exit_code(settings)
        except SystemExit as stop:  # 130 or 143: a stage has saved its state on a signal
            code = stop.code if isinstance(stop.code, int) else 1
        if _is_one_of_several():
            _leave_job(code)
        sys.exit(code)

    def _exit_code(self, settings: dict[str, Any]) -> int:
        try:
            _refuse_unwritable(sys.argv[1:] if settings["args"] is None else settings["args"])
            code = super().main(standalone_mode=False, **settings)
        except (*signals.STOPS, typer.Abort) as stop:
            return signals.exit_code(stop)
        except Exception as error:
            return signals.exit_code() if signals.was_received() else _failed(error)
        if code == signals.INTERRUPTED:  # typer catches the interrupt without a message
            return signals.exit_code(KeyboardInterrupt())
        return code if isinstance(code, int) else 0

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of `_COMMANDS`, for the help; typer itself would put groups last."""
        order = [_name(module) for module in _COMMANDS]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else -1)


def _refuse_unwritable(words: Iterable[Any]) -> None:
    """Raise ConfigError for arguments, and values of SVKIT_ variables, that provenance could not record."""
    variables = [value for name, value in os.environ.items() if name.startswith("SVKIT_")]
    for word in map(str, (*words, *variables)):
        if "\0" in word:
            raise ConfigError(f"{word}: contains a NUL character, which is not allowed in names")
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise ConfigError(f"{word}: not UTF-8, so it cannot be recorded; rename it, or use a link to it")


def _failed(error: Exception) -> int:
    """Print what went wrong; return the exit code of its family."""
    if isinstance(error, SvkitError):
        console.error(str(error))
        return error.exit_code
    if isinstance(error, _UsageError):
        usage: Any = error
        if type(error).__name__ == "NoArgsIsHelpError":
            usage.show()  # the help
        else:
            where = f" (see `{usage.ctx.command_path} --help`)" if usage.ctx else ""
            console.error(f"{_misuse(usage)}{where}")
        return 2
    if isinstance(error, OSError) and error.errno in (*_UNWRITABLE, *_NO_PATH):
        console.error(f"{error.filename or 'output'}: {error.strerror}{_NO_PATH.get(error.errno, '')}")
        return 2 if error.errno in _NO_PATH else 4
    text = str(error)
    if isinstance(error, RuntimeError) and (loop := _SYMLINK_LOOP.fullmatch(text)):
        console.error(
            f"{loop[1]}: a symbolic link that leads back to itself; expected a file or directory: remove it"
        )
        return 3
    if _is_one_of_several() and any(word in text for word in _PEER_LOST):
        console.error(
            "another process of this job has ended; see its message, then run the same command again to continue"
        )
        return 1
    traceback.print_exception(error)
    console.error(f"{type(error).__name__}: this is a bug, please report it with the lines above")
    return 1


def _misuse(usage: Any) -> str:
    """Return the message of a usage error, with pydantic's findings about numbers put in the words of svkit."""
    text: str = usage.format_message().replace("Value error, ", "")
    for found in usage.__cause__.errors() if hasattr(usage.__cause__, "errors") else ():
        if (kind := _NUMBERS.get(found["type"])) is not None:
            text = text.replace(found["msg"], f"expected {kind}, found {found['input']}")
    return text + _owners(usage)


def _owners(usage: Any) -> str:
    """Say which commands have the option that this one lacks, unless they are many."""
    option = getattr(usage, "option_name", None)
    if option is None or usage.ctx is None or "No such option" not in usage.message:
        return ""
    commands = usage.ctx.find_root().command.commands
    owners = [name for name, command in commands.items() if any(option in one.opts for one in command.params)]
    return (
        f"; {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} it" if 0 < len(owners) < 4 else ""
    )


def _is_one_of_several() -> bool:
    """Whether this process has joined a torchrun job; torch is asked only if something has imported it."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _leave_job(code: int) -> NoReturn:
    """End a process of a torchrun job without the interpreter's teardown.

    Gloo's threads may still release Python objects while the interpreter shuts down. That aborts the process (SIGABRT)
    although its work is done and written. After an error, the teardown waits half an hour for peers that do not answer.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


app = typer.Typer(
    name="svkit",
    cls=ErrorGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(value: bool) -> None:
    if value:
        import svkit

        console.result(f"svkit {svkit.__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Speaker verification with w2v-BERT 2.0: fine-tune, prune by 80 %, distill, and measure honestly.

    Try it without any data: svkit prepare demo, then finetune, prune, distill, extract, score, report.
    """
    # Before any command imports them; the doctor reports a mismatch itself.
    if context.invoked_subcommand != "doctor":
        check_torch_pair()


_COMMANDS = (
    *(prepare, finetune, prune, distill, extract, score, report),
    *(calibrate, verify, enroll, identify, people, info, convert, export, push, doctor),
)  # fmt: skip


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _in_short(text: str | None) -> str:
    """Return the first clause of a help text, which fits into the list of commands."""
    return re.split("[:;,.]", " ".join((text or "").partition("\n\n")[0].split()), maxsplit=1)[0]


for _module in _COMMANDS:
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name(_module), short_help=_in_short(_module.app.info.help))
    else:
        _command = getattr(_module, _name(_module))
        app.command(short_help=_in_short(_command.__doc__))(console.announced(_command))


def main() -> None:
    """Entry point of the `svkit` script."""
    streams.open_streams()
    try:
        signals.install()
        app(prog_name="svkit")
    except signals.STOPS as stop:  # while the commands are still being built
        sys.exit(signals.exit_code(stop))

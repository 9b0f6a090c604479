"""The command line. Each command is a file of this folder that exposes a click command `command`.

Names and one-line helps stand here, so that `microgpt --help` imports none of them, and above all
neither torch nor numpy. `main` is the one place where an exception becomes a sentence.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence

import click

from microgpt.errors import MicrogptError, MissingExtraError

COMMANDS = {
    "tokenize": "Train a tokenizer on text and write the text as token shards.",
    "tokenizer": "Inspect, compare and convert tokenizers.",
    "train": "Train a small GPT on a text file or a dataset.",
    "chat": "Talk to a trained model.",
    "generate": "Continue a prompt, for scripts.",
    "eval": "Measure a trained model on a whole data set.",
    "doctor": "Say whether a run is healthy, and what to do where it is not.",
    "runs": "List training runs, or compare them.",
}
"""Command names, in the order of a newcomer's day, and what each does."""

TRAINING_PACKAGES = ("torch", "safetensors", "tomli_w", "prompt_toolkit")
"""Modules that come with the extra `train`."""

_TORCH_MEMORY = (
    "out of memory: train with fewer --micro-batch-rows or --batch-rows, a shorter --context or "
    "fewer --params"
)
_INTERRUPTED = 130
"""What shells report of a process that Ctrl-C ended."""


class _LazyGroup(click.Group):
    """Finds a command's module only when that command is called or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command, importing its module; None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"microgpt.cli.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib.metadata import version

    click.echo(f"microgpt {version('microgpt')}")
    ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def _group() -> None:
    """From raw text to a small GPT that you trained, understood and talked to.

    \b
    Two commands to begin with, on any text file:
      microgpt train dataset.txt
      microgpt chat
    """


def require_training(command: str) -> None:
    """Does nothing where the packages of the extra `train` are installed.

    Call it first in a command's body, before its imports of torch.

    Raises:
        MissingExtraError: one is missing; the sentence says how to install it.
    """
    for module in TRAINING_PACKAGES:
        if importlib.util.find_spec(module) is None:
            raise _missing_extra(module, f"microgpt {command}")


def _missing_extra(module: str, who: str) -> MissingExtraError:
    return MissingExtraError(
        f"{who} needs the package {module}, which the tokenizer-only installation leaves out: "
        'pip install "microgpt[train]"'
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments) or ["--help"]))


def _run(arguments: list[str]) -> int:
    """Returns the exit status of one command; every failure becomes one line on standard error."""
    try:
        status = _group.main(arguments, prog_name="microgpt", standalone_mode=False)
        sys.stdout.flush()
    except MicrogptError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(_click_sentence(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):
            return _fail("the input ended before the question was answered", 1)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader left. Nothing more can be written, not even by Python's own flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_PACKAGES:
            return _unexpected(error)
        return _fail(str(_missing_extra(error.name, "this command")), MissingExtraError.exit_code)
    except OSError as error:
        return _fail(_os_sentence(error), 1)
    except MemoryError:
        return _fail("out of memory: give a smaller model, batch or input", 1)
    except Exception as error:
        return _fail(_TORCH_MEMORY, 1) if _is_out_of_memory(error) else _unexpected(error)
    return status if isinstance(status, int) else 0


def _is_out_of_memory(error: Exception) -> bool:
    """Whether this is what torch raises where a device, or its allocator for the CPU, has no more
    memory: known by its words, since torch may not be there to ask."""
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words
    )


def _fail(sentence: str, status: int) -> int:
    with contextlib.suppress(OSError):  # Standard error may be gone; the status still tells.
        click.echo(f"error: {sentence}", err=True)
    return status


def _unexpected(error: Exception) -> int:
    if os.environ.get("MICROGPT_TRACEBACK"):
        raise error
    detail = " ".join(str(error).split())
    return _fail(
        f"{type(error).__name__}: {detail} (this is a bug in microgpt; "
        "with MICROGPT_TRACEBACK=1 in the environment the same command shows where)",
        1,
    )


def _click_sentence(error: click.ClickException) -> str:
    """Returns click's message as one line, with the command whose help says more."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _os_sentence(error: OSError) -> str:
    """Returns what the system refused, about which file, and what to do where that is plain."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; make room and run the same command again"
    return where + reason[:1].lower() + reason[1:]

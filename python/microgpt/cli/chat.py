"""`microgpt chat`: talk to a trained model, line by line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from microgpt.cli import require_training
from microgpt.cli.sampling_options import gathered, sampling_options, unescaped
from microgpt.device import calm_threads
from microgpt.errors import MicrogptError, UsageError

if TYPE_CHECKING:
    from microgpt.inference.generate import Limits
    from microgpt.inference.sampling import Sampling
    from microgpt.inference.session import Loaded

HELP = {
    "temperature": ("T", "0 takes the likeliest token each time, 1 draws as the model learnt"),
    "top-k": ("K", "draw from the K likeliest tokens only; off"),
    "top-p": ("P", "draw from the fewest tokens that have share P together; off"),
    "min-p": ("P", "drop tokens below this fraction of the likeliest one's share; off"),
    "length": ("N", "most tokens of a reply"),
    "stop": ("TEXT", r"end a reply before TEXT (\n is a line end); off"),
    "seed": ("N", "repeat the same draws from here; off"),
    "settings": ("", "show all of these"),
    "probs": ("[N]", "show the N likeliest next tokens, with probabilities at temperature 1"),
    "text": ("[TEXT]", "set the text without a reply (then /probs, or Enter); alone: show it"),
    "keep": ("", "lines you type go on from the text so far, or begin a new one: switches"),
    "reset": ("", "forget the text"),
    "help": ("", "show this"),
    "quit": ("", "leave (also Ctrl-D)"),
}
"""Commands, what they take, what they do."""

_COMMAND = re.compile(r"/([a-z-]+)(?:\s+(.*))?", re.DOTALL)
"""A line that is one: `// a comment` and `/usr/bin` are text."""


@click.command("chat")
@click.argument("run", required=False)
@sampling_options
def command(run: str | None, **values: Any) -> None:
    """Talk to a trained model: the newest RUN, or the one named.

    It is a language model, not an assistant: it goes on with the text that you begin. Each line
    you type begins a new text; Enter alone goes on with the last. /help lists what you can change.
    """
    require_training("chat")
    calm_threads()
    options = gathered(values)
    sampling = options.sampling()
    loaded = options.load(run)
    chat = Chat(loaded, sampling, options.limits(loaded), options.seed)
    interactive = sys.stdin.isatty()
    if interactive:
        _note(chat.banner())
    for line in _lines(interactive):
        if not chat.answer(line):
            break


class Chat:
    """What stands between the lines: the text, and how replies to it are drawn."""

    def __init__(
        self, loaded: Loaded, sampling: Sampling, limits: Limits, seed: int | None
    ) -> None:
        from microgpt.inference.sampling import new_generator

        self.loaded = loaded
        self.session = loaded.session
        self.sampling = sampling
        self.limits = limits
        self.seed = seed
        self.keeps = False
        self._new_generator = new_generator
        self._generator = new_generator(seed)
        self._told_of_window = False

    def banner(self) -> str:
        """Returns who is speaking and how to speak to it."""
        config, model = self.loaded.config.model, self.session.model
        best = self.loaded.checkpoint.best
        facts = [
            self.loaded.run.name,
            f"{model.parameter_count():,} parameters",
            f"step {self.loaded.checkpoint.step:,}",
            *([best.text()] if best is not None else []),
            f"context {config.context}",
        ]
        return (
            " · ".join(facts)
            + f"\nIt goes on with the text you begin, up to {self._end_in_words()}. Each line "
            "begins a new text\n(/keep changes that), Enter alone goes on with the last, /probs "
            "shows what it expects next,\n/help the rest. Ctrl-C stops a reply, Ctrl-D leaves."
        )

    def answer(self, line: str) -> bool:
        """Acts on a line that was typed; returns False when it asks to leave."""
        if match := _COMMAND.fullmatch(line):
            name, argument = match[1], (match[2] or "")
            if name in ("quit", "exit"):
                return False
            try:
                self._act(name, argument)
            except MicrogptError as error:
                _note(str(error))
            return True
        if line or not self.session.decoder.ids:
            self._set_text(line, keep=self.keeps)
        self._reply()
        return True

    def _set_text(self, text: str, keep: bool) -> None:
        if keep:
            self.session.extend(text)
        else:
            self.session.begin(text)
            self._told_of_window = False

    def _reply(self) -> None:
        """Prints the continuation as it comes, until it ends or Ctrl-C is pressed."""
        ending, text = None, ""
        with _interrupts() as interrupted:
            for piece in self.session.reply(self.sampling, self.limits, self._generator):
                click.echo(piece.text, nl=False)
                text, ending = text + piece.text, piece.ending
                if interrupted():
                    ending = "interrupt"
                    break
        if not text.endswith("\n"):
            click.echo()
        if ending == "interrupt":
            _note("[stopped; Enter goes on]")
        elif ending == "length" and sys.stdin.isatty():
            _note(f"[{self.limits.length} tokens; Enter goes on]")
        start = self.session.decoder.window_start
        if start and not self._told_of_window:
            self._told_of_window = True
            context = self.loaded.config.model.context
            _note(
                f"[the text is longer than the context of {context} tokens: the model sees its "
                f"last {max(1, context // 2)} to {context}]"
            )

    def _act(self, name: str, argument: str) -> None:
        """Carries out a slash command."""
        if name in _SETTERS:
            if argument:
                _SETTERS[name](self, argument)
            _note(self._setting(name))
        elif name in HELP:
            getattr(self, f"_{name}")(argument)
        else:
            near = difflib.get_close_matches(name, HELP, n=1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists the commands"
            raise UsageError(f"no command /{name}: {hint}")

    def _settings(self, _: str) -> None:
        for name in _SETTERS:
            _note(self._setting(name))

    def _setting(self, name: str) -> str:
        values = {
            "temperature": self.sampling.temperature,
            "top-k": self.sampling.top_k,
            "top-p": self.sampling.top_p,
            "min-p": self.sampling.min_p,
            "length": self.limits.length,
            "stop": " ".join(map(repr, self.limits.stop)) or None,
            "seed": self.seed,
        }
        value = values[name]
        return f"{name} is {'off' if value is None else value}"

    def _probs(self, argument: str) -> None:
        count = _number(argument, int, "/probs") if argument else 10
        if count < 1:
            raise UsageError(f"/probs shows at least 1 token, not {count}")
        if not self.session.decoder.ids:
            self.session.begin("")
        for likely in self.session.likely(count):
            bar = "█" * round(40 * likely.probability)
            click.echo(f"{100 * likely.probability:6.2f} %  {_shown(likely.token):<14} {bar}")

    def _text(self, argument: str) -> None:
        if argument:
            self._set_text(argument, keep=self.keeps)
        else:
            click.echo(self.session.text)

    def _keep(self, _: str) -> None:
        self.keeps = not self.keeps
        _note("each line goes on from the text so far" if self.keeps else "each line is a new text")

    def _reset(self, _: str) -> None:
        self.session.decoder.restart()
        self._told_of_window = False
        _note("the text is forgotten")

    def _help(self, _: str) -> None:
        width = max(len(f"/{name} {takes}") for name, (takes, _) in HELP.items())
        for name, (takes, does) in HELP.items():
            _note(f"{f'/{name} {takes}':<{width}}  {does}")
        _note("Esc then Enter puts a line end into the line you type.")

    def _end_in_words(self) -> str:
        stops = ["the end of the line" if stop == "\n" else repr(stop) for stop in self.limits.stop]
        return " or ".join([*stops, f"{self.limits.length} tokens"])

    def set_sampling(self, **changes: Any) -> None:
        """Changes how ids are drawn."""
        self.sampling = dataclasses.replace(self.sampling, **changes)

    def set_limits(self, **changes: Any) -> None:
        """Changes when a reply ends."""
        self.limits = dataclasses.replace(self.limits, **changes)

    def set_seed(self, seed: int | None) -> None:
        """Begins the draws anew."""
        self._generator = self._new_generator(seed)
        self.seed = seed


def _number(text: str, kind: type[Any], name: str) -> Any:
    """Returns `text` as an int or a float."""
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} takes {what}, not {text!r}") from None


def _or_off(text: str, kind: type[Any], name: str) -> Any:
    return None if text == "off" else _number(text, kind, name)


_SETTERS: dict[str, Callable[[Chat, str], None]] = {
    "temperature": lambda c, v: c.set_sampling(temperature=_number(v, float, "/temperature")),
    "top-k": lambda c, v: c.set_sampling(top_k=_or_off(v, int, "/top-k")),
    "top-p": lambda c, v: c.set_sampling(top_p=_or_off(v, float, "/top-p")),
    "min-p": lambda c, v: c.set_sampling(min_p=_or_off(v, float, "/min-p")),
    "length": lambda c, v: c.set_limits(length=_number(v, int, "/length")),
    "stop": lambda c, v: c.set_limits(stop=() if v == "off" else (unescaped(v),)),
    "seed": lambda c, v: c.set_seed(_or_off(v, int, "/seed")),
}


def _shown(token: bytes) -> str:
    """Returns a token for the eye: quoted text, or bytes where it is no whole text."""
    try:
        return repr(token.decode())
    except UnicodeDecodeError:
        return repr(token)


def _note(text: str) -> None:
    """Prints what is not the model's, apart from its text."""
    click.secho(text, err=True, dim=True)


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed, which inside does nothing else: a
    token is always finished, so that the text and the model's view of it stay together."""
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _lines(interactive: bool) -> Iterator[str]:
    """Yields what is typed, line by line, with editing and history at a terminal."""
    if not interactive:
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise UsageError(f"line {number} on standard input is no UTF-8") from None
            yield text.removesuffix("\n").removesuffix("\r")
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    commands = WordCompleter([f"/{name}" for name in HELP], pattern=re.compile(r"^/[a-z-]*"))
    prompt: PromptSession[str] = PromptSession(
        "> ",
        history=_history(),
        completer=commands,
        key_bindings=keys,
        prompt_continuation="  ",
    )
    while True:
        try:
            yield prompt.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _history() -> Any:
    """Returns the history of lines, kept in the user's own folder where that can be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = Path(click.get_app_dir("microgpt")) / "chat-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))

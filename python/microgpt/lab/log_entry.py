"""A run's entry in the notebook, `LOG.md`: written by the program, from the run's folder alone.

The entries keep the form of a hand-kept log: a numbered heading with the outcome, a list of what
was done with what, the sample, a verdict. What the folder does not say is left out, not guessed.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from microgpt.errors import DataError
from microgpt.files import try_lock
from microgpt.lab.summary import Row, RunSummary, number, summarise
from microgpt.progress import count_text, duration_text, size_text
from microgpt.run_folder import RunFolder
from microgpt.text.corpora import command_of

NEW_LOG = "Runs of microgpt, in order; each entry was written by the program at the run's end.\n"
KEY_POINTS = 8
"""Evaluations shown of the curve, at most."""
SAMPLE_CHARACTERS = 1_000
LOCK_SECONDS = 30.0
"""How long to wait for another process that writes to the same log."""

AT_THE_FLOOR = 0.01
"""Nats a byte above the corpus' entropy that count as having reached it."""
OVERFITTED = 0.02
"""Share by which the validation loss has to rise from its lowest to be called overfitting."""
STILL_FALLING = 0.01
"""Share by which it has to fall over the last fifth of a run to be called unfinished."""


def append(run: RunFolder, log: Path) -> int | None:
    """Adds the run's entry at the end of `log`, made where missing; returns its number.

    Returns None, and writes nothing, where the log holds an entry of this run at this step already.
    The entry is written at once and behind a lock: it is there whole or not at all.

    Raises:
        CheckpointError: the folder holds no readable `run.json`.
        DataError: another process holds the log's lock, or the log is no UTF-8 text.
        OSError: the log cannot be written; it is as it was.
    """
    summary = summarise(run)
    with open(log, "a+b") as file:
        _wait_for(file.fileno(), log)
        file.seek(0)
        try:
            before = file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{log} is no UTF-8 text: name another file with --log") from error
        if _marker(summary) in before:
            return None
        last = max(_numbers(before), default=0)
        start = "" if not before or before.endswith("\n") else "\n"
        text = start + ("\n" if before else NEW_LOG + "\n") + entry(summary, last + 1, run)
        try:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), len(before.encode("utf-8")))
            raise
    return last + 1


def entry(summary: RunSummary, index: int, run: RunFolder) -> str:
    """Returns the entry as Markdown, numbered `index`; samples come from the run's folder."""
    source = _dictionary(summary.facts, "dataset")
    subject = source.get("corpus") or Path(str(source.get("path") or "an unknown text")).name
    blocks = [
        f"# {index}. Training on {subject}: {summary.name} ({outcome(summary)})",
        "\n".join(f"- {line}" for line in _facts(summary)),
        _curve(summary.evaluations),
        _sample(run),
        verdict(summary),
        _marker(summary),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def outcome(summary: RunSummary) -> str:
    """Returns the heading's word: what became of the run."""
    if summary.status != "finished":
        return summary.status
    if summary.above_floor is not None:
        if abs(summary.above_floor) <= AT_THE_FLOOR:
            return "success"
        return "short of the floor" if summary.above_floor > 0 else "below the floor"
    return "overfitted" if _rise(summary.evaluations) > OVERFITTED else "finished"


def verdict(summary: RunSummary) -> str:
    """Returns what the figures say, in a few sentences; only what they do say."""
    sentences = [*_ending(summary), *_floor_sentences(summary), *_trend_sentences(summary)]
    return " ".join(sentences)


def _marker(summary: RunSummary) -> str:
    """Returns the line that ends the entry and tells it apart: run, start and last step."""
    started = summary.facts.get("started") or "unknown"
    return f"<!-- microgpt run {summary.name} of {started} at step {summary.step} -->"


def _numbers(log: str) -> Iterator[int]:
    """Yields the numbers of the log's entries; what stands between fences is no heading."""
    fence = ""
    for line in log.splitlines():
        ticks = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if fence:
            if ticks and ticks[1].startswith(fence) and not line.strip("`~ "):
                fence = ""
        elif ticks:
            fence = ticks[1]
        elif heading := re.match(r"# (\d{1,9})\.", line):
            yield int(heading[1])


def _wait_for(descriptor: int, log: Path) -> None:
    """Waits for the lock. On a file system without locks there is nothing to wait for: an entry is
    one write, and two runs that end in the same moment might get the same number, no more."""
    deadline = time.monotonic() + LOCK_SECONDS
    with contextlib.suppress(OSError):
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise DataError(f"{log} is in use by another process: name another file with --log")
            time.sleep(0.05)


def _facts(summary: RunSummary) -> Iterator[str]:
    """Yields the list's lines, each where its facts are known."""
    facts, settings = summary.facts, summary.settings
    if command := facts.get("command"):
        yield f"command: `{_one_line(command)}`"
    yield from _data_lines(facts)
    yield from _tokenizer_lines(facts)
    if settings:
        yield _size_line(summary)
        yield _parts_line(settings)
        yield _rates_line(settings)
        yield _batch_line(settings)
    yield from _result_lines(summary)
    yield from (f"not healthy: {_one_line(finding)}" for finding in facts.get("findings") or ())
    yield from (f"rolled back: {_one_line(event)}" for event in facts.get("rollbacks") or ())
    if note := facts.get("note"):
        yield f"note: {_one_line(note)}"


def _data_lines(facts: dict[str, Any]) -> Iterator[str]:
    source = _dictionary(facts, "dataset")
    if not source:
        return
    parts = [f"`{_one_line(source.get('path') or 'unknown')}`"]
    if (size := number(source, "text_bytes")) is not None:
        parts.append(f"{size:,.0f} bytes")
    for key, words in (("sha256", "SHA-256"), ("fingerprint", "dataset")):
        if value := source.get(key):
            parts.append(f"{words} {str(value)[:16]}")
    for key, words in (("train_tokens", "training"), ("valid_tokens", "validation")):
        if (tokens := number(source, key)) is not None:
            parts.append(f"{tokens:,.0f} {words} tokens")
    yield "data: " + ", ".join(parts)
    if command := command_of(str(source.get("sha256"))):
        yield f"made by: `{command}`"


def _tokenizer_lines(facts: dict[str, Any]) -> Iterator[str]:
    tokenizer = _dictionary(facts, "tokenizer")
    if kind := tokenizer.get("kind"):
        size = number(tokenizer, "vocab_size")
        ids = f", {size:,.0f} ids" if size is not None else ""
        print_ = tokenizer.get("fingerprint")
        yield f"tokenizer: {kind}{ids}" + (f" ({str(print_)[:16]})" if print_ else "")


def _size_line(summary: RunSummary) -> str:
    get = summary.settings.get
    parameters = number(summary.facts, "parameters")
    count = f" ({parameters:,.0f} params)" if parameters is not None else ""
    return (
        f"embedding degree: {get('model.n_embd')}, num layers: {get('model.n_layer')}, "
        f"num heads: {get('model.n_head')}, num tokens: {get('model.context')}{count}"
    )


def _parts_line(settings: dict[str, Any]) -> str:
    get = settings.get
    parts = [
        f"positions: {get('model.position')}",
        f"norm: {get('model.norm')} ({get('model.norm_place')})",
        f"feed-forward: {get('model.feed_forward')}",
        "tied head" if get("model.tied_head") else "untied head",
    ]
    if get("model.qk_norm"):
        parts.append("QK-norm")
    for key, words in (("n_hidden", "feed-forward width"), ("n_kv_head", "key/value heads")):
        if (value := get(f"model.{key}")) is not None:
            parts.append(f"{words}: {value}")
    if (window := get("model.sliding_window")) is not None:
        parts.append(f"sliding window: {window}")
    if (taps := get("model.short_conv")) is not None:
        parts.append(f"short convolution: {taps}")
    if (start := get("model.document_start")) is not None:
        parts.append(f"attention stays inside documents, which begin with id {start}")
    return ", ".join(parts)


def _rates_line(settings: dict[str, Any]) -> str:
    get = settings.get
    rate, final = number(settings, "optimizer.lr"), number(settings, "schedule.final")
    parts = [f"dropout: {get('model.dropout')}", f"optimizer: {get('optimizer.name')}"]
    if get("optimizer.name") == "muon":
        parts.append(f"muon_lr: {get('optimizer.muon_lr')}")
    parts.append(f"base_lr: {rate}")
    if rate is not None and final is not None and get("schedule.shape") != "constant":
        parts.append(f"min_lr: {rate * final:.3g}")
    parts += [
        f"warmup_steps: {get('schedule.warmup_steps')}",
        f"decay_steps: {get('schedule.decay_steps')} ({get('schedule.shape')})",
        f"weight decay: {get('optimizer.weight_decay')}",
        f"clip: {get('optimizer.clip', 'none')}",
    ]
    return ", ".join(parts)


def _batch_line(settings: dict[str, Any]) -> str:
    rows, context = (number(settings, k) for k in ("training.batch_rows", "model.context"))
    product = f" ({rows * context:,.0f} tokens)" if rows and context else ""
    seeds = f"seed: {settings.get('training.seed')}, data seed: {settings.get('data.seed')}"
    return f"batch: {rows} rows{product}, {seeds}, dtype: {settings.get('training.dtype')}"


def _result_lines(summary: RunSummary) -> Iterator[str]:
    planned = number(summary.settings, "training.steps")
    parts = [f"step: {summary.step:,}" + (f" of {planned:,.0f}" if planned else "")]
    if (tokens := summary.tokens) is not None:
        parts.append(f"tokens: {count_text(tokens)}{_passes(summary, tokens)}")
    for key, value in (("loss", summary.loss), ("valid loss", summary.valid_loss)):
        if value is not None:
            parts.append(f"{key}: {value:.4f}")
    best = summary.best
    if best is not None:
        perplexity = number(best, "perplexity") or math.exp(min(best["valid_loss"], 700))
        parts.append(f"perplexity: {perplexity:.4g}")
    if summary.bits_per_byte is not None:
        parts.append(f"bits per byte: {summary.bits_per_byte:.4f}")
    yield ", ".join(parts)
    if best is not None and best["step"] != summary.step:
        last = summary.evaluations[-1]
        yield (
            f"those are of step {best['step']:,}, the best; "
            f"at step {last['step']:,} the valid loss was {last['valid_loss']:.4f}"
        )
    if (answers := summary.best_at_answers) is not None:
        right = number(answers, "valid_answers_right")
        share = "" if right is None else f"answers right: {right:.2%}, "
        yield (
            f"{share}loss on answers: {answers['valid_answer_loss']:.4f} at step "
            f"{answers['step']:,}, the best of them, whose checkpoint is the one in use"
        )
    yield from _cost_line(summary)


def _passes(summary: RunSummary, tokens: int) -> str:
    """Returns how often the data was seen, and tokens per parameter, in brackets."""
    source = _dictionary(summary.facts, "dataset")
    parts = []
    if available := number(source, "train_tokens"):
        parts.append(f"{tokens / available:.3g} epochs")
    if parameters := number(summary.facts, "parameters"):
        parts.append(f"{tokens / parameters:.3g} per parameter")
    return f" ({', '.join(parts)})" if parts else ""


def _cost_line(summary: RunSummary) -> Iterator[str]:
    facts, seconds = summary.facts, summary.elapsed_seconds
    parts = []
    if seconds is not None:
        where = ", ".join(str(facts[key]) for key in ("machine", "device") if facts.get(key))
        parts.append(
            f"elapsed: {duration_text(seconds)}" + (f" ({_one_line(where)})" if where else "")
        )
        if summary.tokens and seconds > 0:
            parts.append(f"{count_text(summary.tokens / seconds)} tokens/s")
    if (memory := number(facts, "peak_memory_bytes")) is not None:
        parts.append(f"peak memory: {size_text(memory)}")
    if torch := facts.get("torch"):
        parts.append(f"torch {torch}")
    if started := facts.get("started"):
        parts.append(f"started {str(started)[:16].replace('T', ' ')} UTC")
    if parts:
        yield ", ".join(parts)


def _curve(evaluations: list[Row]) -> str:
    """Returns a table of the evaluations at about doubling steps, with the best and the last."""
    if len(evaluations) < 2:
        return ""
    lines = ["| step | elapsed | loss | valid loss | bits per byte |", "|---|---|---|---|---|"]
    for row in _key_points(evaluations):
        elapsed = number(row, "elapsed_seconds")
        cells = [f"{row['step']:,}", duration_text(elapsed) if elapsed is not None else ""]
        for key in ("loss", "valid_loss", "bits_per_byte"):
            value = number(row, key)
            cells.append(f"{value:.4f}" if value is not None else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _key_points(evaluations: list[Row]) -> list[Row]:
    best = min(range(len(evaluations)), key=lambda i: evaluations[i]["valid_loss"])
    places = {0, best, len(evaluations) - 1}
    place = len(evaluations) - 1
    while place > 0 and len(places) < KEY_POINTS:
        places.add(place)
        place //= 2
    return [evaluations[place] for place in sorted(places)]


def _sample(run: RunFolder) -> str:
    """Returns the last sample between fences that nothing in it can close."""
    try:
        text = run.samples_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    parts = re.split(r"^== step (\d+) ==\n", text, flags=re.MULTILINE)
    if len(parts) < 3:
        return ""
    step, sample = parts[-2], parts[-1].strip("\n")
    if len(sample) > SAMPLE_CHARACTERS:
        sample = sample[:SAMPLE_CHARACTERS] + " [...]"
    sample = "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in sample
    )
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", sample)), default=0))
    return f"Sample at step {int(step):,}:\n\n{fence}\n{sample}\n{fence}"


def _ending(summary: RunSummary) -> Iterator[str]:
    reason = _one_line(summary.facts.get("reason") or "").rstrip(".")
    if summary.status == "failed":
        yield f"It failed: {reason or 'no reason was noted'}."
    elif summary.status == "stopped":
        yield f"It was stopped{f': {reason}' if reason else ''}; `--resume` continues it."
    elif summary.status == "killed":
        yield "It was killed; `--resume` continues it."
    elif reason == "patience":
        yield f"It ended at step {summary.step:,}, as the valid loss had long not gained."
    elif reason and reason != "budget":
        yield f"It ended: {reason}."


def _floor_sentences(summary: RunSummary) -> Iterator[str]:
    floor, above = summary.floor, summary.above_floor
    if floor is None or above is None:
        return
    if above < -AT_THE_FLOOR:
        yield (
            f"The valid loss lies {-above:.4f} nats a byte below the corpus' entropy of "
            f"{floor:.4f}: validation text was seen in training, or it is too short to tell."
        )
    elif above <= AT_THE_FLOOR:
        yield (
            f"The valid loss lies {above:+.4f} nats a byte from the corpus' entropy of "
            f"{floor:.4f}: the floor is reached, there is nothing left to learn."
        )
    else:
        yield (
            f"The valid loss lies {above:.4f} nats a byte above the corpus' entropy of {floor:.4f}."
        )
    per_byte = _bytes_per_token(summary)
    if per_byte and summary.loss is not None and summary.loss / per_byte < floor - AT_THE_FLOOR:
        yield (
            f"The training loss, {summary.loss / per_byte:.4f} nats a byte, lies below the "
            "entropy: the model learns its text by heart."
        )


def _bytes_per_token(summary: RunSummary) -> float | None:
    """Returns the mean bytes of a validation token: nats a token over nats a byte."""
    if summary.valid_loss is None or not summary.bits_per_byte:
        return None
    return summary.valid_loss / (summary.bits_per_byte * math.log(2))


def _trend_sentences(summary: RunSummary) -> Iterator[str]:
    evaluations, best = summary.evaluations, summary.best
    if best is None or len(evaluations) < 3:
        return
    last = evaluations[-1]
    if _rise(evaluations) > OVERFITTED:
        yield (
            f"It overfitted: from step {best['step']:,} on the valid loss rose, from "
            f"{best['valid_loss']:.4f} to {last['valid_loss']:.4f}."
        )
        return
    earlier = [row for row in evaluations if row["step"] <= 0.8 * last["step"]]
    fall = earlier[-1]["valid_loss"] - last["valid_loss"] if earlier else 0.0
    near = summary.above_floor is not None and summary.above_floor <= AT_THE_FLOOR
    if fall > STILL_FALLING * last["valid_loss"] and not near:
        yield (
            f"It had not levelled off: the valid loss fell by {fall:.4f} after step "
            f"{earlier[-1]['step']:,}."
        )
    else:
        yield "No sign of overfitting: the valid loss ended at or near its lowest."


def _rise(evaluations: list[Row]) -> float:
    """Returns by which share the last validation loss lies above the lowest."""
    losses = [row["valid_loss"] for row in evaluations]
    return losses[-1] / min(losses) - 1 if losses and min(losses) > 0 else 0.0


def _dictionary(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _one_line(text: Any) -> str:
    return " ".join(str(text).split()).replace("`", "'")

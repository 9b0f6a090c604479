"""`microgpt train`: from a text file to a trained model, or on from where a run stopped."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from microgpt.cli import require_training
from microgpt.config import OFF, SIZES, count, from_text, merged, overlaid, read_toml, without
from microgpt.errors import CheckpointError, MicrogptError, TrainingError, UsageError

if TYPE_CHECKING:
    from microgpt.config import RunConfig
    from microgpt.data.lines import Rules
    from microgpt.data.shards import Dataset
    from microgpt.run_folder import RunFolder
    from microgpt.text.tokenizer import Tokenizer
    from microgpt.training.ranks import Ranks
    from microgpt.training.trainer import Outcome, Trainer

_log = logging.getLogger("microgpt")

SAMPLE_TOKENS = 120
ANSWER_SAMPLE_TOKENS = 65_536
FEWEST_ANSWERS = 20
ANSWER_SHARE = 0.95
"""Lines that must hold one "=" for what follows it to be taken for answers."""


PARAMETERS_FLAG = "--params"

SWITCHES = {"compiled": "compile", "recompute_activations": "recompute_activations"}
"""Options that switch a setting of training on."""
SETTINGS = (
    ("--n-layer", "model.n_layer", "Blocks (num layers)."),
    ("--n-head", "model.n_head", "Attention heads in a block (num heads)."),
    ("--n-kv-head", "model.n_kv_head", "Key/value heads, fewer for grouped-query attention."),
    ("--n-embd", "model.n_embd", "Width of the model (embedding degree, d_model)."),
    ("--n-hidden", "model.n_hidden", "Width of the feed-forward (d_ff)."),
    ("--context", "model.context", "Tokens the model sees at once (num tokens, max_seq_len)."),
    ("--position", "model.position", "How positions are told: rope, learned, sinusoidal, none."),
    ("--norm", "model.norm", "rmsnorm, layernorm or none."),
    ("--norm-place", "model.norm_place", "pre or post."),
    ("--feed-forward", "model.feed_forward", "swiglu, gelu, relu or squared_relu."),
    ("--tied-head", "model.tied_head", "true: the head shares the embedding's matrix."),
    ("--attention", "model.attention", "softmax, or linear: decaying sums."),
    ("--sliding-window", "model.sliding_window", "Positions that attention looks back over."),
    ("--dropout", "model.dropout", "Share of activations dropped in training."),
    ("--optimizer", "optimizer.name", "muon (with AdamW outside the blocks) or adamw."),
    ("--lr", "optimizer.lr", "Peak rate of AdamW (base_lr)."),
    ("--muon-lr", "optimizer.muon_lr", "Peak rate of Muon."),
    ("--weight-decay", "optimizer.weight_decay", "Decoupled decay of matrices."),
    ("--clip", "optimizer.clip", "Largest gradient norm; off: none."),
    ("--schedule", "schedule.shape", "wsd, cosine or constant."),
    ("--warmup-steps", "schedule.warmup_steps", "Steps in which the rate rises (warmup_steps)."),
    ("--decay-steps", "schedule.decay_steps", "Steps in which it falls (decay_steps)."),
    ("--batch-rows", "training.batch_rows", "Rows of the context's length in a step."),
    ("--micro-batch-rows", "training.micro_batch_rows", "Rows at once; fewer accumulate."),
    ("--steps", "training.steps", "Budget: optimizer updates."),
    ("--epochs", "training.epochs", "Budget: passes over the training set."),
    ("--tokens", "training.tokens", "Budget: tokens, such as 10M."),
    ("--minutes", "training.minutes", "Budget: time; a step is measured first."),
    ("--evaluate-every", "training.evaluate_every", "Steps between evaluations."),
    ("--patience", "training.patience", "Evaluations without a gain that end the run."),
    ("--device", "training.device", "auto, cpu, cuda, cuda:1, mps."),
    ("--dtype", "training.dtype", "auto, float32, bfloat16 or float16."),
    ("--threads", "training.threads", "CPU threads; measured where not given."),
    ("--align", "data.align", "lines: rows begin at line starts."),
    ("--loss-after", "data.loss_after", "Learn only what follows this on a line, such as '='."),
    (
        "--answers-after",
        "data.answers_after",
        "Judge the best checkpoint by what follows this; '=' is found by itself.",
    ),
)
"""Flags that are settings: flag, key in the configuration, help."""


def _with_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Adds an option for each of `SETTINGS`; its text arrives under the key's name."""
    for flag, key, help in reversed(SETTINGS):
        option = click.option(flag, _parameter(key), metavar="VALUE", help=help)
        function = option(function)
    return function


def _parameter(key: str) -> str:
    return key.replace(".", "__")


@click.command()
@click.argument("path", required=False, metavar="[FILE]")
@click.option("--name", help="Name of the run; runs/NAME/ must be free.")
@click.option("--preset", help="Start from a named system: modern, femto, gpt2-tied, cs336...")
@click.option("--config", "config_file", metavar="TOML", help="Settings from a file.")
@click.option(PARAMETERS_FLAG, "parameters", help="Size to come near, such as 800k or 5M.")
@_with_settings
@click.option("--min-lr", metavar="VALUE", help="Rate at the end (min_lr).")
@click.option("--seed", metavar="VALUE", help="Seed of weights, dropout and data order.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the model (torch.compile).")
@click.option("--recompute-activations", is_flag=True,
              help="Blocks are computed again for gradients: less memory, more time.")  # fmt: skip
@click.option("--document-mask", is_flag=True, help="Attention stays inside documents.")
@click.option("--line-mask", is_flag=True,
              help="Attention stays inside lines, for those that stand by themselves.")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any setting by its key.")
@click.option("--byte", is_flag=True, help="Tokenize into bytes.")
@click.option("--bpe", is_flag=True, help="Train a BPE tokenizer on the text.")
@click.option("--vocab-size", help="Ids of the BPE tokenizer, such as 4096.")
@click.option("--tokenizer", metavar="PATH", help="Use this tokenizer.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Go on with a run; the last one that is not finished, if none is named.",
)
@click.option(
    "--processes", type=click.IntRange(1), help="Processes of this machine to share each batch."
)
@click.option(
    "--shard",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Whether each of several processes holds a part of the model; auto: of a large one.",
)
@click.option(
    "--tensor-parallel",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="So many processes share the heads and channels of each block.",
)
@click.option("--gpus", type=click.IntRange(1), help="So many processes, each with a GPU.")
@click.option(
    "--log", default="LOG.md", show_default=True, help="Notebook for the run's entry; off: none."
)
def command(
    path: str | None,
    resume: str | None,
    log: str,
    processes: int | None,
    gpus: int | None,
    shard: str,
    tensor_parallel: int,
    **options: Any,
) -> None:
    """Train a small GPT on FILE: text, a folder, or a dataset folder (dataset.txt if not given).

    What is left open is chosen for the text and the machine, and printed before training starts.
    Ctrl-C writes a checkpoint and ends; --resume goes on as if nothing had happened.
    """
    require_training("train")
    from microgpt.cli.launch import is_launched, launch
    from microgpt.device import calm_threads

    if gpus is not None:
        if options["training__device"] not in (None, "cuda"):
            raise UsageError(f"--gpus {gpus} trains on CUDA: leave out --device")
        if resume is None:
            options["training__device"] = "cuda"
    if not is_launched():
        count = max(processes or 1, gpus or 1)
        if count % tensor_parallel:
            raise UsageError(
                f"--tensor-parallel {tensor_parallel} needs a multiple of so many processes, not "
                f"{count}: give --processes or --gpus"
            )
        if count > 1:
            sys.exit(launch(sys.argv[1:], count))
    calm_threads()
    notebook = None if log == OFF else Path(log)
    if is_launched():
        from microgpt.training.ranks import Ranks

        ranks = Ranks.of_environment(tensor_parallel, None if shard == "auto" else shard == "on")
        _as_one_of_many(path, resume, options, notebook, ranks)
    else:
        _one(path, resume, options, notebook, None)


def _as_one_of_many(
    path: str | None,
    resume: str | None,
    options: Mapping[str, Any],
    log: Path | None,
    ranks: Ranks,
) -> None:
    """The first process does what a single one does; the others join it once it trains."""
    from microgpt.device import choose_device

    device = choose_device(options["training__device"] or "auto")
    with ranks.connected(device):
        if ranks.is_first:
            _one(path, resume, options, log, ranks)
        else:
            _join(ranks)


def _one(
    path: str | None,
    resume: str | None,
    options: Mapping[str, Any],
    log: Path | None,
    ranks: Ranks | None,
) -> None:
    """Begins a run, or goes on with one."""
    if resume is None:
        _begin(path or "dataset.txt", options, log, ranks)
    else:
        given = [_flag(option) for option, value in options.items() if value]
        given += [path] if path else []
        if given:
            raise UsageError(
                f"--resume goes on with the run's own settings: leave out {', '.join(given)}, or "
                "start a new run"
            )
        _resume(resume, log, ranks)


def _flag(name: str) -> str:
    flags = {_parameter(key): flag for flag, key, _ in SETTINGS}
    known = {"config_file": "--config", "parameters": PARAMETERS_FLAG, "sets": "--set",
             "compiled": "--compile"}  # fmt: skip
    return flags.get(name) or known.get(name) or "--" + name.replace("_", "-")


# What was asked for


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what preset, file and flags set, nested, the later over the earlier."""
    from microgpt.presets import preset

    earlier = overlaid(
        preset(options["preset"]) if options["preset"] else {},
        _file(Path(options["config_file"])) if options["config_file"] else {},
    )
    if options["parameters"] is not None:
        earlier = without(earlier, "model", (*SIZES, "n_hidden"))
    flags: list[Mapping[str, Any]] = []
    for flag, key, _ in SETTINGS:
        if (text := options[_parameter(key)]) is not None:
            flags.append(_setting(key, text, flag))
    if options["seed"] is not None:
        flags += [
            _setting(f"{part}.seed", options["seed"], "--seed") for part in ("data", "training")
        ]
    flags += [{"training": {key: True}} for name, key in SWITCHES.items() if options[name]]
    for text in options["sets"]:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: give KEY=VALUE, such as --set model.rope_theta=5000")
        flags.append(_setting(key, value, "--set"))
    given = overlaid(earlier, merged(*flags))
    if options["min_lr"] is not None:
        given = merged(given, _final_rate(given, options["min_lr"]))
    return given


def _file(path: Path) -> dict[str, Any]:
    tables = read_toml(path)
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {key!r} must be a table of settings, not {value!r}")
    return tables


def _parameters(options: Mapping[str, Any]) -> int | None:
    if options["parameters"] is None:
        return None
    try:
        return count(options["parameters"])
    except UsageError as error:
        raise UsageError(f"{PARAMETERS_FLAG}: {error}") from error


def _setting(key: str, text: str, flag: str) -> dict[str, Any]:
    try:
        value = from_text(key, text)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from error
    part, name = key.split(".")
    return {part: {name: value}}


def _final_rate(given: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Turns --min-lr, a rate, into the schedule's share of the peak."""
    from microgpt.config import OptimizerConfig, updated

    peak = updated(OptimizerConfig(), given.get("optimizer", {}), "settings, [optimizer]").lr
    try:
        share = float(text) / peak
    except ValueError as error:
        raise UsageError(f"--min-lr is {text!r}, but must be a number") from error
    if not 0 <= share <= 1:
        raise UsageError(f"--min-lr is {text}, but must lie between 0 and the peak, {peak:g}")
    return {"schedule": {"final": share}}


# A new run


def _begin(path: str, options: Mapping[str, Any], log: Path | None, ranks: Ranks | None) -> None:
    given = _given(options)
    _require_possible(given, options)
    dataset = _dataset(path, options)
    from microgpt.data.lines import line_rules, require_marked
    from microgpt.data.prepare import name_for
    from microgpt.model.sizes import parameter_count
    from microgpt.run_folder import RUNS, RunFolder
    from microgpt.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(dataset.tokenizer_path)
    if (start := _document_start(options, tokenizer)) is not None:
        given = merged(given, {"model": {"document_start": start}})
    config, plan = _planned(given, dataset, tokenizer, _parameters(options))
    data = replace(config.data, path=path, dataset=str(dataset.folder))
    config = replace(config, data=data)
    rules = line_rules(config.data, tokenizer)
    require_marked(rules, dataset.train)
    size = f"{parameter_count(config.model) / 1e6:.2g}M"
    run = RunFolder.create(RUNS, options["name"], stem=f"{name_for(path)}-{size}")
    with run.lock():
        run.write_config(config)
        _write_facts(run, config, dataset, path)
        findings = _data_findings(config, dataset, tokenizer, rules)
        run.update_facts(findings=findings)
        plan += [f"note   not healthy: {finding}" for finding in findings]
        click.echo("\n".join([f"run    {run.path}", *plan]), err=True)
        _carry_out(run, config, dataset, rules, log, ranks)


def _document_start(options: Mapping[str, Any], tokenizer: Tokenizer) -> int | None:
    """Returns the id behind which attention does not look back, where a flag asks for one."""
    from microgpt.data.lines import only_line_end

    if options["line_mask"]:
        return only_line_end(tokenizer)
    if not options["document_mask"]:
        return None
    if tokenizer.end_of_text_id is None:
        raise UsageError(
            "--document-mask needs a tokenizer with an end-of-text token, which begins documents: "
            "tokenize with --bpe, or leave it out"
        )
    return tokenizer.end_of_text_id


def _require_possible(given: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Does nothing where settings, flags, device and name can be had; the text, which takes longer
    to read, is not asked."""
    from microgpt.device import choose_device
    from microgpt.run_folder import RUNS, RunFolder
    from microgpt.training import plan

    if options["line_mask"] and options["document_mask"]:
        raise UsageError("--line-mask and --document-mask ask for two different masks: give one")
    if options["name"] is not None:
        RunFolder.require_free(RUNS, options["name"])
    choose_device(plan.settings(given, _parameters(options)).training.device)


def _data_findings(
    config: RunConfig, dataset: Dataset, tokenizer: Tokenizer, rules: Rules
) -> list[str]:
    from microgpt.training.health import data_findings

    return data_findings(config, dataset, tokenizer.decode_bytes, rules.ends)


def _dataset(path: str, options: Mapping[str, Any]) -> Dataset:
    from microgpt.data.shards import MANIFEST_FILE, Dataset

    if (Path(path) / MANIFEST_FILE).is_file():
        return Dataset.open(path)
    from microgpt.data.prepare import find_or_make

    return find_or_make(path, options)


def _planned(
    given: Mapping[str, Any], dataset: Dataset, tokenizer: Tokenizer, parameters: int | None
) -> tuple[RunConfig, list[str]]:
    """Returns the resolved configuration and the plan in words."""
    import torch

    from microgpt.device import Compute, choose_device, choose_dtype, cores
    from microgpt.training import plan
    from microgpt.training.measure import (
        evaluation_seconds,
        idle_memory_bytes,
        measured_dtype,
        measured_threads,
    )

    asked = given.get("training", {})
    device = choose_device(asked.get("device", "auto"))
    asked_dtype = asked.get("dtype", "auto")
    dtype = choose_dtype(asked_dtype, device)
    given = merged(given, {"training": {"device": device, "dtype": dtype}})
    kind = torch.device(device).type
    room = torch.cuda.get_device_properties(device).total_memory if kind == "cuda" else None
    machine = plan.Machine(kind, cores(), room)
    facts = plan.Facts(
        dataset.train.tokens,
        dataset.valid.tokens,
        tokenizer.vocab_size,
        _answers_after(dataset, tokenizer),
    )
    config, remarks = plan.plan_shape(given, facts, machine, parameters)
    # A peak: what tokenizing the text took just now is in it, where that was more.
    libraries = idle_memory_bytes(Compute.of(device, dtype))
    threads, seconds = measured_threads(config)
    if kind == "cpu" and asked_dtype == "auto":
        dtype, seconds = measured_dtype(config, seconds)
    adapts = kind == "cpu" and config.training.threads is None
    training = replace(config.training, threads=threads, adapt_threads=adapts, dtype=dtype)
    config = replace(config, training=training)
    memory = libraries + plan.memory_bytes(config)
    costs = seconds, evaluation_seconds(config, facts.valid_tokens)
    config = plan.plan_budget(config, facts, machine, *costs)
    return config, [
        *plan.describe(config, facts, plan.expected_seconds(config, *costs), memory),
        *(f"note   {r}" for r in remarks),
    ]


def _write_facts(run: RunFolder, config: RunConfig, dataset: Dataset, path: str) -> None:
    """Notes in the run's folder what it is made of."""
    import shutil

    import torch

    from microgpt.device import Compute, machine_text
    from microgpt.model.sizes import parameter_count
    from microgpt.text.corpora import recognise

    manifest = dataset.manifest
    inputs = manifest.source.inputs
    facts: dict[str, Any] = {
        "path": path,
        "fingerprint": dataset.fingerprint,
        "sha256": inputs[0].sha256 if len(inputs) == 1 else None,
        "text_bytes": manifest.source.text_bytes,
        "train_tokens": dataset.train.tokens,
        "valid_tokens": dataset.valid.tokens,
    }
    if len(inputs) == 1 and (corpus := recognise(Path(inputs[0].path))):
        facts |= {"corpus": corpus.name, "floor_nats_per_byte": corpus.floor_nats_per_byte}
    shutil.copyfile(dataset.tokenizer_path, run.tokenizer_path)
    tokenizer = manifest.tokenizer
    run.update_facts(
        command=shlex.join(["microgpt", *sys.argv[1:]]),
        parameters=parameter_count(config.model),
        dataset=facts,
        tokenizer={
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "kind": tokenizer.kind,
        },
        machine=machine_text(),
        torch=torch.__version__,
        device=Compute.of(config.training.device, config.training.dtype).name(),
    )


# A run that stopped


def _resume(name: str, log: Path | None, ranks: Ranks | None) -> None:
    from microgpt.data.lines import line_rules
    from microgpt.data.shards import Dataset
    from microgpt.run_folder import RUNS, RunFolder, now
    from microgpt.text.tokenizer import Tokenizer

    if name:
        run = RunFolder.open(name)
    else:
        run = next((r for r in RunFolder.all(RUNS) if not _is_finished(r)), None)
        if run is None:
            raise CheckpointError(
                f"{RUNS} holds no run to go on with: start one with `microgpt train FILE`"
            )
    with run.lock():
        facts, config = run.read_facts(), run.read_config()
        if _is_finished(run):
            raise UsageError(
                f"run {run.name!r} is finished: start a new one, with more --steps if it was too "
                "short, or name another with --resume RUN"
            )
        if config.data.dataset is None:
            raise CheckpointError(f"{run.config_path} names no dataset: start a new run")
        dataset = Dataset.open(config.data.dataset)
        if dataset.fingerprint != facts.get("dataset", {}).get("fingerprint"):
            raise CheckpointError(
                f"{dataset.folder} is not the dataset that run {run.name!r} was trained on: put "
                "that one back, or start a new run"
            )
        rules = line_rules(config.data, Tokenizer.from_file(run.tokenizer_path))
        run.update_facts(
            status="running", resumed=now(), reason=None, finished=None, elapsed_seconds=None
        )
        _carry_out(run, config, dataset, rules, log, ranks)


def _is_finished(run: RunFolder) -> bool:
    return run.read_facts().get("status") == "finished"


# Both


def _carry_out(
    run: RunFolder,
    config: RunConfig,
    dataset: Dataset,
    rules: Rules,
    log: Path | None,
    ranks: Ranks | None,
) -> None:
    """Trains, and writes down how it ended, however it ended."""
    try:
        if ranks is not None:
            ranks.text_from_first(str(run.path))
            run.update_facts(processes=ranks.world)
        outcome, trainer = _train(run, config, dataset, rules, ranks)
    except BaseException as error:
        status = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
        try:
            _write_down(run, log, status, _reason(error))
        except (OSError, MicrogptError) as second:  # not instead of the error itself
            _log.warning("what became of run %s could not be written: %s", run.name, second)
        raise
    try:
        _summarise(run, outcome, config)
    finally:
        peak = trainer.compute.peak_memory_bytes()
        _write_down(run, log, outcome.status, outcome.reason, peak)


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "a second Ctrl-C"
    if isinstance(error, TrainingError | CheckpointError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _write_down(
    run: RunFolder, log: Path | None, status: str, reason: str, peak_bytes: int = 0
) -> None:
    """Notes in the run's folder how it ended, and in the notebook what it came to."""
    from microgpt.device import peak_process_bytes
    from microgpt.lab import log_entry
    from microgpt.run_folder import now

    rows = run.read_metrics()
    # Of all processes that worked on it, one after the other.
    peaks = [peak_bytes, run.read_facts().get("peak_memory_bytes") or 0]
    peaks += [row.get("memory_bytes") or 0 for row in rows]
    run.update_facts(
        status=status,
        reason=reason,
        finished=now(),
        elapsed_seconds=rows[-1].get("elapsed_seconds") if rows else 0.0,
        peak_memory_bytes=max(peaks) or peak_process_bytes(),
    )
    number = None if log is None else log_entry.append(run, log)
    if number is not None:
        click.echo(f"entry {number} of {log} tells of this run", err=True)


def _join(ranks: Ranks) -> None:
    """Trains along with the first process, in the run that it names."""
    from microgpt.data.lines import line_rules
    from microgpt.data.shards import Dataset
    from microgpt.run_folder import RunFolder
    from microgpt.text.tokenizer import Tokenizer
    from microgpt.training.trainer import Silent, Trainer

    run = RunFolder(Path(ranks.text_from_first("")))
    config = run.read_config()
    rules = line_rules(config.data, Tokenizer.from_file(run.tokenizer_path))
    dataset = Dataset.open(config.data.dataset or "")
    lines = rules.training, rules.answers
    Trainer(run, config, dataset, Silent(), None, *lines, ranks=ranks).train()


def _train(
    run: RunFolder, config: RunConfig, dataset: Dataset, rules: Rules, ranks: Ranks | None
) -> tuple[Outcome, Trainer]:
    from microgpt.progress import Progress
    from microgpt.text.tokenizer import Tokenizer
    from microgpt.training.ranks import ALONE
    from microgpt.training.trainer import Trainer

    tokenizer = Tokenizer.from_file(run.tokenizer_path)
    with Progress("train", config.training.steps or 0, "steps") as progress:
        display = _Display(progress)
        lines = rules.training, rules.answers
        trainer = Trainer(
            run, config, dataset, display, _sampler(tokenizer), *lines, ranks=ranks or ALONE
        )
        if trainer.position.step:
            progress.stage("train", config.training.steps or 0, start=trainer.position.step)
            progress.write(f"going on from step {trainer.position.step:,}")
        return trainer.train(), trainer


def _answers_after(dataset: Dataset, tokenizer: Tokenizer) -> str | None:
    """Returns "=" where nearly every line of the validation set holds one, with something after it
    that is not all one answer; else None."""
    ids = dataset.valid.read(0, min(dataset.valid.tokens, ANSWER_SAMPLE_TOKENS))
    lines = tokenizer.decode_bytes(ids).splitlines()[1:-1]
    answers = [after.strip() for line in lines if line.count(b"=") == 1
               for after in [line.partition(b"=")[2]] if after.strip()]  # fmt: skip
    enough = len(lines) >= FEWEST_ANSWERS and len(answers) >= ANSWER_SHARE * len(lines)
    return "=" if enough and len(set(answers)) > 1 else None


def _sampler(tokenizer: Tokenizer) -> Callable[[Any, int], str]:
    """Returns what gives a text for a model and a seed."""
    from microgpt.inference.generate import Limits
    from microgpt.inference.sampling import Sampling, new_generator
    from microgpt.inference.session import Session

    def sample(model: Any, seed: int) -> str:
        session = Session(model, tokenizer)
        session.begin("")
        limits = Limits(SAMPLE_TOKENS, stop_ids=session.stop_ids)
        pieces = session.reply(Sampling(), limits, new_generator(seed))
        return "".join(piece.text for piece in pieces)

    return sample


def _summarise(run: RunFolder, outcome: Outcome, config: RunConfig) -> None:
    """Prints how it ended and what to do next."""
    from microgpt.progress import duration_text

    position = outcome.position
    took = duration_text(position.elapsed_seconds)
    if outcome.status == "stopped":
        click.echo(
            f"stopped by {outcome.reason} at step {position.step:,} of {config.training.steps:,}; "
            f"go on with: microgpt train --resume {run.name}",
            err=True,
        )
        return
    best = ""
    if position.best is not None:
        best = f", best {position.best.text()} at step {position.best.step:,}"
    why = " (no gain for so long as --patience allows)" if outcome.reason == "patience" else ""
    click.echo(f"done in {took} at step {position.step:,}{why}{best}", err=True)
    click.echo(f"talk to it: microgpt chat {run.name}", err=True)


class _Display:
    """Shows each step in the bar, and evaluations and samples above it."""

    def __init__(self, progress: Any) -> None:
        self.progress = progress
        self.valid: float | None = None
        self.tokens: int | None = None
        self.rate: float | None = None

    def step(self, row: Mapping[str, Any]) -> None:
        """Updates the bar, and prints a line where the validation loss was measured."""
        from microgpt.progress import count_text

        if self.tokens is not None and row["tokens"] > self.tokens:
            rate = (row["tokens"] - self.tokens) / row["step_seconds"]
            self.rate = rate if self.rate is None else 0.95 * self.rate + 0.05 * rate
        self.tokens = row["tokens"]
        note = f"loss {row['loss']:.4f}"
        if "valid_loss" in row:
            self.valid = row["valid_loss"]
            right = row.get("valid_answers_right")
            self.progress.write(
                f"step {row['step']:,}: {note}, valid loss {row['valid_loss']:.4f}, "
                f"perplexity {row['perplexity']:.4g}, {row['bits_per_byte']:.4f} bits per byte"
                + ("" if right is None else f", {right:.2%} of answers right")
            )
        if self.valid is not None:
            note += f", valid {self.valid:.4f}"
        if self.rate is not None:
            note += f", {count_text(self.rate)} tokens/s"
        self.progress.update(row["step"], note)

    def sample(self, step: int, text: str) -> None:
        """Prints the sample's first lines."""
        shown = text.strip("\n").splitlines()[:4]
        self.progress.write("\n".join("  | " + line[:100] for line in shown))

    def say(self, sentence: str) -> None:
        """Prints what the user should know."""
        self.progress.write(f"note   {sentence}")

"""Run folders made by hand, whole and broken."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from microgpt.config import RunConfig, updated
from microgpt.run_folder import RunFolder

FLOOR = 0.6445
FACTS: dict[str, Any] = {
    "status": "finished",
    "command": "microgpt train dataset.txt",
    "started": "2026-11-21T04:00:00.000+00:00",
    "parameters": 232_320,
    "dataset": {
        "path": "dataset.txt",
        "sha256": "27139d27f950000db91a0ff2dda0914420b016980c36cd65e4d6dd7b25dce8d4",
        "text_bytes": 114_584,
        "corpus": "addition",
        "floor_nats_per_byte": FLOOR,
        "train_tokens": 100_000,
    },
    "tokenizer": {"kind": "byte", "vocab_size": 256, "fingerprint": "ab" * 32},
    "machine": "2 x Xeon",
    "device": "cpu",
    "torch": "2.15.0",
    "elapsed_seconds": 136.0,
    "peak_memory_bytes": 512_000_000,
}


def rows(valid_losses: list[float], every: int = 100) -> list[dict[str, Any]]:
    """Returns metrics of a byte model: a row each `every` steps, from step 0 on."""
    return [
        {
            "step": i * every,
            "tokens": i * every * 2048,
            "elapsed_seconds": float(10 * i),
            "loss": loss,
            "valid_loss": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": loss / math.log(2),
        }
        for i, loss in enumerate(valid_losses)
    ]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    def make(
        name: str = "addition-1",
        valid_losses: tuple[float, ...] = (5.5, 2.0, 1.0, 0.7, 0.65),
        sample: str = "13 + 29 = 42;",
        settings: dict[str, Any] | None = None,
        **facts: Any,
    ) -> RunFolder:
        run = RunFolder.create(tmp_path / "runs", name)
        run.update_facts(**{**FACTS, **facts})
        model = {"model": {"n_embd": 64, "n_layer": 4, "n_head": 4, "context": 64}}
        training = {"training": {"steps": 400, "batch_rows": 32}}
        config = updated(RunConfig(), model | training, "test")
        run.write_config(updated(config, settings or {}, "test"))
        for row in rows(list(valid_losses)):
            run.append_metrics(row)
        if sample:
            run.append_sample(100, "an earlier one")
            run.append_sample(400, sample)
        return run

    return make

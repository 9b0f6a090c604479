"""Named starting points: preset name -> changes to the default `RunConfig`.

`modern` is the default itself, whose mathematics is exactly Qwen3's. The others repeat systems that
people came from, with their settings, or go their own way.
"""

from __future__ import annotations

import difflib
from typing import Any

from microgpt.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    "modern": {},
    # The tiny-corpora log: sinusoids, biased LayerNorm, GELU, an untied head over 256 byte ids.
    "femto": {
        "model": {
            "context": 64,
            "n_layer": 4,
            "n_head": 4,
            "n_embd": 64,
            "position": "sinusoidal",
            "norm": "layernorm",
            "norm_bias": True,
            "norm_eps": 1e-5,
            "qk_norm": False,
            "feed_forward": "gelu",
            "attention_output_bias": True,
            "feed_forward_bias": True,
            "head_bias": True,
            "dropout": 0.0,
        },
        "data": {"align": None},
        "optimizer": {
            "name": "adamw",
            "lr": 1e-3,
            "beta2": 0.999,
            "weight_decay": 0.01,
            "clip": None,
            "average_share": None,
        },
        "schedule": {
            "shape": "cosine",
            "warmup_steps": 100,
            "decay_steps": 50_000,
            "final": 0.01,
        },
        "training": {"batch_rows": 32},
    },
    # The WikiText log's second model (its first: --n-embd 16 --n-head 2 --n-hidden 64 --n-layer 2
    # --dropout 0.3 --lr 3e-4): learned positions, ReLU, a tied head with a bias of its own.
    "gpt2-tied": {
        "model": {
            "context": 512,
            "n_layer": 4,
            "n_head": 8,
            "n_embd": 128,
            "n_hidden": 512,
            "position": "learned",
            "norm": "layernorm",
            "norm_bias": True,
            "norm_eps": 1e-5,
            "qk_norm": False,
            "feed_forward": "relu",
            "qkv_bias": True,
            "attention_output_bias": True,
            "feed_forward_bias": True,
            "head_bias": True,
            "tied_head": True,
            "dropout": 0.1,
        },
        "optimizer": {
            "name": "adamw",
            "lr": 6e-4,
            "beta2": 0.999,
            "weight_decay": 0.1,
            "clip": 1.0,
            "average_share": None,
        },
        "schedule": {"shape": "constant", "warmup_steps": 0},
        "training": {"batch_rows": 32},
    },
    # The components log: RMSNorm, SwiGLU and RoPE without QK-norm, AdamW on a cosine.
    "cs336": {
        "model": {
            "context": 256,
            "n_layer": 4,
            "n_head": 8,
            "n_embd": 256,
            "norm_eps": 1e-5,
            "qk_norm": False,
            "dropout": 0.0,
        },
        "optimizer": {
            "name": "adamw",
            "lr": 1e-3,
            "beta2": 0.999,
            "weight_decay": 0.1,
            "clip": 1.0,
            "average_share": None,
        },
        "schedule": {"shape": "cosine", "final": 0.1},
        "training": {"batch_rows": 32},
    },
    # The fastest learner found here (docs/training.md), which leaves no way to standard formats.
    "nano": {"model": {"short_conv": 4}},
}


def preset(name: str) -> dict[str, Any]:
    """Returns the changes of preset `name`, for `config.updated`.

    Raises:
        UsageError: no preset has this name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no preset is called {name!r}{hint} (there are {', '.join(PRESETS)})")
    return PRESETS[name]

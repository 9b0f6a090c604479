"""The plainest writer of dataset folders: the format of docs/formats.md, spelled out with numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def shard_bytes(ids: Sequence[int], dtype: str) -> bytes:
    header = np.zeros(256, "<i4")
    magic, version = {"uint16": (20240520, 1), "uint32": (20240801, 7)}[dtype]
    header[:3] = magic, version, len(ids)
    return (
        header.tobytes()
        + np.asarray(ids, dtype).astype({"uint16": "<u2", "uint32": "<u4"}[dtype]).tobytes()
    )


def write_split(
    folder: Path, name: str, ids: Sequence[int], dtype: str, shard_tokens: int
) -> list[dict[str, Any]]:
    shards = []
    for number, start in enumerate(range(0, len(ids), shard_tokens)):
        part = ids[start : start + shard_tokens]
        data = shard_bytes(part, dtype)
        file = f"{name}-{number:05d}.bin"
        (folder / file).write_bytes(data)
        sha256 = hashlib.sha256(data[1024:]).hexdigest()
        shards.append({"file": file, "tokens": len(part), "bytes": len(data), "ids_sha256": sha256})
    return shards


def write_dataset_folder(
    folder: Path,
    train: Sequence[int],
    valid: Sequence[int],
    *,
    vocab_size: int = 256,
    shard_tokens: int = 100_000_000,
    tokenizer_json: bytes | None = None,
) -> Path:
    """Writes a sound dataset of these ids, a byte of text an id; returns `folder`."""
    folder.mkdir(parents=True)
    dtype = "uint16" if vocab_size <= 65_536 else "uint32"
    if tokenizer_json is not None:
        (folder / "tokenizer.json").write_bytes(tokenizer_json)
    splits = {}
    for name, ids in (("train", train), ("valid", valid)):
        shards = write_split(folder, name, ids, dtype, shard_tokens)
        splits[name] = {
            "tokens": len(ids), "documents": 1, "text_bytes": len(ids), "shards": shards,
        }  # fmt: skip
    manifest = {
        "format": "microgpt-dataset",
        "version": 2,
        "tokenizer": {
            "fingerprint": "0" * 64, "vocab_size": vocab_size, "end_of_text_id": None,
            "kind": "byte",
        },
        "dtype": dtype,
        "source": {
            "inputs": [], "text_bytes": len(train) + len(valid), "options": {},
            "fingerprint": "1" * 64,
            "notes": [],
        },
        "split": {"seed": 0, "fraction": 0.05, "rule": "tails"},
        **splits,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder

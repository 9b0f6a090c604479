"""The Rust core's signatures.

Errors: `UsageError` for a bad argument, `DataError` for a bad file or bytes, `OSError` where the
system refused, `KeyboardInterrupt` on Ctrl-C. `progress`, where there is one, is called from the
calling thread a few times a second with (stage, done, total, pieces): total is 0 where nobody knows
it, pieces are the distinct pieces met so far where they are counted.
"""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__version__: str
MAX_HEAD_WIDTH: int

Progress = Callable[[str, int, int, int], None]
Path = str | PathLike[str]
Text = str | bytes | bytearray | memoryview

class Tokenizer:
    """Immutable; safe to use from many threads at once."""

    @staticmethod
    def byte(special_tokens: Sequence[str]) -> Tokenizer: ...
    @staticmethod
    def from_merges(
        merges: Sequence[tuple[int, int]], pattern: str, special_tokens: Sequence[str]
    ) -> Tokenizer: ...
    @staticmethod
    def train(
        corpus: Corpus, counting: Counting, goal: Goal, progress: Progress | None
    ) -> Tokenizer: ...
    @staticmethod
    def load_huggingface(path: Path) -> Tokenizer: ...
    @staticmethod
    def load_json(json: str) -> Tokenizer: ...
    @staticmethod
    def load_tiktoken(
        path: Path, pattern: str, special_tokens: Sequence[tuple[str, int]] | None
    ) -> Tokenizer: ...
    @staticmethod
    def load_gpt2(vocab: Path, merges: Path) -> Tokenizer: ...
    def save_huggingface(self, path: Path) -> None: ...
    def save_tiktoken(self, path: Path) -> None: ...
    def save_gpt2(self, vocab: Path, merges: Path) -> None: ...
    def to_json(self) -> str: ...
    # `allowed` special tokens become ids, `refused` ones that are not allowed are an error, the
    # others are plain text; None is all of them.
    def encode(
        self,
        text: Text,
        allowed: Sequence[str] | None,
        refused: Sequence[str] | None,
        threads: int | None,
    ) -> NDArray[np.uint32]: ...
    def encode_with_offsets(
        self,
        text: Text,
        allowed: Sequence[str] | None,
        refused: Sequence[str] | None,
        threads: int | None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
    def encode_batch(
        self,
        texts: Sequence[Text],
        allowed: Sequence[str] | None,
        refused: Sequence[str] | None,
        threads: int | None,
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...
    def encode_to_list(
        self,
        text: Text,
        allowed: Sequence[str] | None,
        refused: Sequence[str] | None,
        threads: int | None,
    ) -> list[int]: ...
    def encode_batch_to_lists(
        self,
        texts: Sequence[Text],
        allowed: Sequence[str] | None,
        refused: Sequence[str] | None,
        threads: int | None,
    ) -> list[list[int]]: ...
    def count(
        self, text: Text, allowed: Sequence[str] | None, refused: Sequence[str] | None
    ) -> int: ...
    def split(self, text: Text) -> list[bytes]: ...
    # `ids`: a one-dimensional array of uint16, uint32 or int64.
    def decode(self, ids: NDArray[Any], errors: str) -> str: ...
    def decode_bytes(self, ids: NDArray[Any]) -> bytes: ...
    def decode_stream(self) -> DecodeStream: ...
    def token_bytes(self, id: int) -> bytes: ...
    def token_id(self, token: Text) -> int | None: ...
    def tokens(self) -> list[bytes | None]: ...
    def unreachable_ids(self) -> NDArray[np.uint32]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def special_tokens(self) -> dict[str, int]: ...
    @property
    def end_of_text_id(self) -> int | None: ...
    @property
    def merges(self) -> NDArray[np.uint32]:
        """Shape (n, 2): left id, right id, in order of rank."""
    @property
    def fingerprint(self) -> str: ...

def listed_ids(ids: list[Any]) -> NDArray[np.uint32] | None:
    """The ids in a list of ints; None where an item is anything else, or does not fit."""

class DecodeStream:
    """Feeds on ids, gives text that never ends inside a character."""

    def push(self, id: int) -> str: ...
    def finish(self) -> str: ...

class Files(Protocol):
    """Text files, each a text of its own."""

    @property
    def files(self) -> Sequence[Path]: ...

class Saved(Protocol):
    """Count files, in the order of the texts that they count."""

    @property
    def counts(self) -> Sequence[Path]: ...

class Texts(Protocol):
    """Texts in memory, taken as they come."""

    @property
    def texts(self) -> Iterable[str | bytes]: ...

class Counting(Protocol):
    """How pieces are counted; see `microgpt.text.tokenizer.Counting`."""

    @property
    def pattern(self) -> str: ...
    @property
    def special_tokens(self) -> Sequence[str]: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def memory(self) -> int | None: ...

class Goal(Protocol):
    """What ends training, and how it decides; see `microgpt.text.tokenizer.Goal`."""

    @property
    def vocab_size(self) -> int | None: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def tie(self) -> str: ...

class Source(Protocol):
    """What a dataset is read from; see `microgpt.data.prepare.Source`."""

    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def include(self) -> Sequence[str]: ...
    @property
    def format(self) -> str: ...
    @property
    def separator(self) -> str: ...
    @property
    def field(self) -> str: ...
    @property
    def valid_fraction(self) -> float | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def special_tokens(self) -> Sequence[str]: ...
    @property
    def standard_input(self) -> str | None: ...

Corpus = Source | Files | Saved | Texts

def write_dataset(
    tokenizer: Tokenizer,
    folder: Path,
    source: Source,
    *,
    shard_tokens: int,
    threads: int | None,
    progress: Progress | None,
) -> str:
    """Writes `folder`'s shards and manifest (resuming a broken-off write); returns the manifest."""

def save_counts(
    corpus: Corpus, counting: Counting, path: Path, progress: Progress | None
) -> tuple[int, int]: ...
def counted_bytes(counts: Sequence[Path]) -> int: ...
def input_fingerprint(source: Source, *, progress: Progress | None) -> str:
    """The manifest's `source.fingerprint` that this input, read like this, would give."""

def list_inputs(source: Source) -> list[tuple[PurePath, int]]:
    """The files that would be read, in order, and their lengths in bytes."""

def survey_inputs(source: Source) -> tuple[int, bool, int]:
    """About how many bytes of text there are; whether there is more than one document, and how many
    different bytes there are, in the first 16 MiB."""

def verify_dataset(folder: Path, *, progress: Progress | None) -> None:
    """Checks every shard's header, length and checksum."""

def unicode_version() -> str: ...

# The kernels of a training step on the CPU: flat, contiguous arrays, those named last are written
# or added to. `_Matrix` is float32, or uint16 that are the bits of bfloat16, one kind in a call. A
# `_back` takes the loss' derivative by the output, and gives those by the inputs. `rust/kernels`
# has the shapes.

_Array = NDArray[np.float32]
_Matrix = NDArray[np.float32] | NDArray[np.uint16]

def add_norm(
    x: _Array,
    branch: _Matrix | None,
    gain: _Array,
    eps: float,
    sum: _Array,
    y: _Matrix,
    scale: _Array,
    threads: int,
) -> None:
    """RMSNorm of x + branch, which goes to `sum`; without a branch that of `x`."""

def norm_back(
    slope: _Matrix,
    x: _Array,
    gain: _Array,
    scale: _Array,
    x_slope: _Array,
    copy: _Matrix | None,
    gain_slope: _Array,
    threads: int,
) -> None:
    """Adds to `x_slope`, then copies it to `copy`; adds to `gain_slope`."""

def drop_out(spec: tuple[int, float], x: _Matrix, width: int, threads: int) -> None:
    """Drops of rows of `width` numbers what `spec`, a key and a share, says."""

# `spec` has the attributes of `model.fused._Mix`.
def mix(spec: Any, x: _Matrix, y: _Matrix, threads: int) -> None:
    """A short causal convolution of each channel, beside the identity."""

def mix_back(spec: Any, x: _Matrix, slope: _Matrix, taps_slope: _Array, threads: int) -> None:
    """Puts the derivative by `x` in the place of `slope`, adds to `taps_slope`."""

# `spec` has the attributes of `model.fused._Heads`.
def attention(spec: Any, qkv: _Matrix, y: _Matrix, log_sums: _Array, threads: int) -> None:
    """Causal attention with QK-norm and rotation."""

def attention_back(
    spec: Any,
    slope: _Matrix,
    qkv: _Matrix,
    log_sums: _Array,
    qkv_slope: _Matrix,
    gain_slopes: _Array,
    threads: int,
) -> None:
    """Writes `qkv_slope`, adds to `gain_slopes` (queries', then keys')."""

def activate(kind: str, x: _Matrix, width: int, y: _Matrix, threads: int) -> None:
    """SwiGLU or squared ReLU, `width` outputs a row."""

def activate_back(kind: str, slope: _Matrix, width: int, x: _Matrix, threads: int) -> None:
    """Puts the derivative by `x` in its place."""

def cross_entropy(
    logits: _Matrix,
    targets: NDArray[np.int64],
    softcap: float | None,
    factor: float,
    threads: int,
) -> float:
    """The summed loss; `factor` times its derivative takes the place of the logits."""

def muon_direction(
    gradient: _Array,
    unit: bool,
    momentum: _Array,
    share: float,
    direction: _Matrix,
    threads: int,
) -> None:
    """Blends the gradient (`unit`: over its norm) into the momentum, and that into `direction`."""

def muon_apply(weights: _Array, update: _Matrix, keep: float, rate: float, threads: int) -> None:
    """weights x keep - rate x update."""

"""Token ids on disk: tokenizers, the split into training and validation, and the memory-mapped cache.

    cache/<key>/train.bin  validation.bin  validation_bytes.bin  meta.json

The key hashes the content of the corpus, the order of its documents, the tokenizer and the split, never a
path or a date, so that a cache can not be stale. A folder appears under its key complete or not at all, and
its checksums are verified when it is opened. `validation_bytes` holds how many bytes of text each validation
token stands for: the denominator of bits per byte.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dither.errors import UserError, require
from dither.files import disk_errors, sync, write_json
from dither.train import corpus
from dither.train.config import STDLIB, DataConfig

LAYOUT = 1  # enters the key; raise it when the meaning of the files changes
END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot|>", "[SEP]")


class Tokenizer(Protocol):
    """`encode` returns ids and, for each, the number of bytes of text it stands for."""

    vocab: int
    end: int | None
    fingerprint: str

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]: ...

    def decode(self, ids: np.ndarray) -> str: ...


class ByteTokenizer:
    """UTF-8 bytes, and 256 as the end of a document."""

    vocab = 257
    end: int | None = 256
    fingerprint = "bytes"

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = np.frombuffer(text.encode(), dtype=np.uint8)
        return ids, np.ones(len(ids), dtype=np.uint16)

    def decode(self, ids: np.ndarray) -> str:
        return bytes(i for i in ids.tolist() if i < 256).decode(errors="replace")


class HFTokenizer:
    """A `tokenizer.json` of the Hugging Face tokenizers library."""

    def __init__(self, path: Path, end_of_document: str) -> None:
        require("tokenizers", "train")
        import tokenizers

        try:
            content = path.read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except OSError as error:
            raise UserError(
                f"data.tokenizer = {str(path)!r}: {error.strerror}; give 'bytes' or a tokenizer.json"
            ) from None
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{path} is no tokenizer.json that this version of tokenizers reads ({error})"
            ) from None
        self._tokenizer.no_truncation()  # both may be stored in the file; a document is encoded whole
        self._tokenizer.no_padding()
        self.vocab = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        names = (end_of_document,) if end_of_document else END_NAMES
        ends = [self._tokenizer.token_to_id(name) for name in names]
        self.end: int | None = next((end for end in ends if end is not None), None)
        if self.end is None:
            raise UserError(
                f"{path} has no token {' or '.join(names)} to end a document with; "
                "set data.end_of_document to one of its special tokens"
            )
        self.fingerprint = hashlib.sha256(content).hexdigest() + f"/{self.end}"

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        # A token stands for the text between the end of what came before and its own end (offsets count
        # characters).
        ends = np.maximum.accumulate(np.array([end for _, end in encoding.offsets], dtype=np.int64))
        width = np.array([0, *itertools.accumulate(len(c.encode()) for c in text)], dtype=np.int64)
        return np.array(encoding.ids), np.diff(width[ends], prepend=0) if len(ends) else ends

    def decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids.tolist(), skip_special_tokens=False)


class NoTokenizer:
    """For corpora that are token ids already."""

    def __init__(self, vocab: int, end: int | None) -> None:
        self.vocab, self.end, self.fingerprint = vocab, end, f"none/{vocab}/{end}"

    def encode(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        raise UserError(
            "data.tokenizer = 'none' takes token files only; set it to 'bytes' or a tokenizer.json"
        )

    def decode(self, ids: np.ndarray) -> str:
        return " ".join(map(str, ids.tolist()))


def make_tokenizer(data: DataConfig) -> Tokenizer:
    if data.tokenizer == "bytes":
        return ByteTokenizer()
    if data.tokenizer != "none":
        return HFTokenizer(Path(data.tokenizer), data.end_of_document)
    if (end := data.end_of_document) and not (end.isdecimal() and int(end) < data.vocab):
        raise UserError(
            "with data.tokenizer = 'none', data.end_of_document is the id that ends a document, below "
            f"data.vocab = {data.vocab}, not {end!r}"
        )
    return NoTokenizer(data.vocab, int(data.end_of_document) if data.end_of_document else None)


@dataclass(frozen=True)
class Tokens:
    """An opened cache. `validation_bytes` is zero throughout where the bytes are unknown (token files)."""

    train: np.ndarray
    validation: np.ndarray
    validation_bytes: np.ndarray
    vocab: int
    hash: str
    meta: dict[str, Any]


def cache_dir() -> Path:
    """$DITHER_CACHE, or `dither` in the platform's cache directory."""
    if named := os.environ.get("DITHER_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dither"
    base = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dither"


def choose_validation(groups: dict[str, int], fraction: float, seed: int) -> set[str]:
    """Groups for validation: in an order fixed by the seed, each that still fits into `fraction` of the
    total; the smallest group where none fits. One group alone cannot be divided and gives the empty set."""
    if len(groups) < 2:
        return set()
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    room, chosen = fraction * sum(groups.values()), set()
    for group in order:
        if groups[group] <= room:
            room -= groups[group]
            chosen.add(group)
    return chosen or {min(order, key=lambda group: groups[group])}


def open_tokens(data: DataConfig, say: Callable[[str], None] = lambda text: None) -> Tokens:
    """Read the corpus, and return its token ids from the cache or after writing the cache.

    `say` receives one line about the corpus (size, content hash). Raises UserError for unusable files."""
    tokenizer = make_tokenizer(data)
    seen: set[bytes] = set()  # shared: a validation document never occurs in the training data
    held_out = None
    if data.validation_sources:
        held_out = corpus.survey(corpus.read(data.validation_sources, data, tokenizer.end), seen)
    found = corpus.survey(corpus.read(data.sources, data, tokenizer.end), seen)
    content = found.hash + (held_out.hash if held_out else "")
    if held_out is not None:
        content = hashlib.sha256(content.encode()).hexdigest()
        validation: set[str] = set()
        split = "given"
    else:
        validation = choose_validation(found.groups, data.validation, data.split_seed)
        split = f"{data.validation!r}/{data.split_seed}"
    if not found.documents:
        raise UserError("data.sources hold no document that is not also in data.validation_sources")
    say(
        f"corpus {content[:16]}: {found.documents + (held_out.documents if held_out else 0)} documents, "
        f"{sum(found.groups.values()):,} bytes, {found.duplicates} copies left out"
    )
    if data.reference and not content.startswith(data.reference):
        say(f"this is another corpus than {data.reference[:16]}: not comparable with the published table")
    order = found.order + (held_out.order if held_out else "")
    identity = f"{LAYOUT}/{content}/{order}/{tokenizer.fingerprint}/{split}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    meta = {
        "key": key,
        "hash": content,
        "documents": found.documents,
        "vocab": tokenizer.vocab,
        "split": split,
        "validation_groups": sorted(validation) if data.sources == (STDLIB,) else len(validation),
    }
    folder = cache_dir() / key
    other = "set DITHER_CACHE to another directory"
    try:
        if (tokens := _open(folder, say)) is not None:
            return tokens
        with disk_errors(folder, f"Free some space or {other}, then start again."):
            _write(folder, _pieces(data, tokenizer, found, held_out, validation), meta, tokenizer.vocab)
        tokens = _open(folder, say)
    except OSError as error:  # no permission, a read-only disk, a file in the way
        raise UserError(
            f"the token cache {folder} cannot be used ({error.strerror or error}); {other}"
        ) from None
    if tokens is None:
        raise UserError(f"{folder} cannot be read back; check the disk, or {other}")
    return tokens


Piece = tuple[str, np.ndarray, np.ndarray]  # split, ids, bytes of text per id


def _pieces(
    data: DataConfig,
    tokenizer: Tokenizer,
    found: corpus.Survey,
    held_out: corpus.Survey | None,
    validation: set[str],
) -> Iterator[Piece]:
    """Second pass: the ids of every kept document with its split, each followed by the end mark."""
    end = np.array([] if tokenizer.end is None else [tokenizer.end])
    unknown = found.ids or (held_out is not None and held_out.ids)
    for sources, survey in ((data.validation_sources, held_out), (data.sources, found)):
        if survey is None:
            continue
        read, count = hashlib.sha256(), 0
        for document in corpus.read(sources, data, tokenizer.end):
            key = survey.keys[count] if count < len(survey.keys) else None
            count += 1
            if key is None:  # a copy; documents beyond those surveyed are found below
                continue
            read.update(corpus.identity(document.group, document.digest()))
            if document.text is not None:
                ids, width = tokenizer.encode(document.text)
                if unknown:  # bits per byte of a part of the tokens would mean nothing
                    width = np.zeros(len(ids), dtype=np.uint16)
            else:
                ids, width = np.asarray(document.tokens), np.zeros(document.size, dtype=np.uint16)
            if len(ids) and int(ids.max()) >= tokenizer.vocab:
                raise UserError(
                    f"{document.name} holds the id {ids.max()}, beyond the {tokenizer.vocab} known ids"
                )
            ids = np.concatenate((ids, end))
            width = np.concatenate((width, np.zeros(len(end), dtype=np.uint16)))
            if survey is held_out or key in validation:
                yield "validation", ids, width
            elif held_out is None and not validation:  # one document only: its tail is held out
                cut = len(ids) - max(2, round(data.validation * len(ids)))
                yield "train", ids[:cut], width[:cut]
                yield "validation", ids[cut:], width[cut:]
            else:
                yield "train", ids, width
        if count != len(survey.keys) or read.hexdigest() != survey.order:
            raise UserError(
                f"a file of {', '.join(sources)} changed while it was read; start again when nothing writes "
                "there"
            )


def _write(folder: Path, pieces: Iterator[Piece], meta: dict[str, Any], vocab: int) -> None:
    aside = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    for leftover in folder.parent.glob(f"{folder.name}.tmp-*"):  # of a killed writer
        if leftover == aside or not _alive(int(leftover.name.rpartition("-")[2])):
            shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    dtype = "<u2" if vocab <= 1 << 16 else "<u4"
    names = ("train", "validation", "validation_bytes")
    length: dict[str, int] = dict.fromkeys(names, 0)
    crc: dict[str, int] = dict.fromkeys(names, 0)
    try:
        files = {name: (aside / f"{name}.bin").open("wb") for name in names}
        for split, ids, width in pieces:
            parts = [(split, ids.astype(dtype))]
            if split == "validation":
                parts.append(("validation_bytes", width.astype("<u2")))
            for name, part in parts:
                content = part.tobytes()
                files[name].write(content)
                length[name] += len(part)
                crc[name] = zlib.crc32(content, crc[name])
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        write_json(aside / "meta.json", {**meta, "dtype": dtype, "length": length, "crc32": crc})
        try:
            os.rename(aside, folder)
        except OSError:
            if not folder.is_dir():  # else another process wrote the same content first
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to somebody else, or this system does not say
    return True


def _open(folder: Path, say: Callable[[str], None]) -> Tokens | None:
    """Map a cache folder; None where there is none, or a damaged one (which is removed and said)."""
    if not folder.is_dir():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {}
        for name, length in meta["length"].items():
            dtype = "<u2" if name == "validation_bytes" else meta["dtype"]
            path = folder / f"{name}.bin"
            # an empty file cannot be mapped
            arrays[name] = np.memmap(path, dtype=dtype, mode="r") if length else np.empty(0, dtype)
            if len(arrays[name]) != length or zlib.crc32(arrays[name]) != meta["crc32"][name]:
                raise ValueError(f"{path.name} does not match its checksum")
        return Tokens(vocab=meta["vocab"], hash=meta["hash"], meta=meta, **arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"token cache {folder} is damaged ({error}); writing it again")
        shutil.rmtree(folder)
        return None

"""Documents from files: text, source code, JSON lines, Parquet, gzip, and token ids that exist already.

A corpus is a stream of `Document`s that can be read again, so that nothing larger than one document is held
in memory: the first pass hashes, de-duplicates and splits (`survey`), the second one tokenizes
(dither.train.tokens). A file that cannot be used raises UserError with its name and the way out; nothing is
skipped silently.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import json
import os
import sysconfig
import tokenize
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.train.config import STDLIB, DataConfig

# Generated at build time or not source of the language itself: these differ between machines with the same
# Python.
STDLIB_SKIP = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}
TEXT_SUFFIXES = set(
    ".txt .md .rst .tex .csv .tsv .html .xml .css .toml .yaml .yml .ini .cfg .py .pyi .rs .c .h .cc "
    ".cpp .hpp "
    ".cu .cuh .go .java .kt .js .ts .jsx .tsx .rb .php .pl .sh .sql .r .jl .lua .swift .scala .hs .ml".split()
)
DATA_SUFFIXES = {".jsonl", ".parquet", ".bin", ".npy", ".gz"}


@dataclass(frozen=True)
class Document:
    """`text` or `tokens` is set. `group` is what a split must not divide: the top-level package for the
    standard library, empty where it is the document itself."""

    name: str
    group: str = ""
    text: str | None = None
    tokens: np.ndarray | None = None

    def digest(self) -> bytes:
        """SHA-256 of the content (UTF-8 text, or little-endian uint32 ids)."""
        if self.text is not None:
            return hashlib.sha256(b"text" + self.text.encode()).digest()
        assert self.tokens is not None
        return hashlib.sha256(b"tokens" + self.tokens.astype("<u4").tobytes()).digest()

    @property
    def size(self) -> int:
        """Bytes of text, or number of token ids."""
        return len(self.text.encode()) if self.text is not None else len(self.tokens)  # type: ignore[arg-type]


@dataclass
class Survey:
    """What the first pass found. `hash` identifies content and grouping, whatever the files are called and
    wherever they lie; `keys` gives the group of every document of the stream, None for the copy of an earlier
    one."""

    hash: str = ""
    documents: int = 0
    duplicates: int = 0
    keys: list[str | None] = field(default_factory=list)
    groups: dict[str, int] = field(default_factory=dict)  # group -> size
    order: str = ""  # identifies the order of the documents too
    ids: bool = False  # some documents are token ids, whose text is unknown


def survey(documents: Iterator[Document], seen: set[bytes]) -> Survey:
    """Hash, count and de-duplicate a stream. `seen` holds digests met before and is extended."""
    found, lines = Survey(), []
    for document in documents:
        digest = document.digest()
        if digest in seen:
            found.keys.append(None)
            found.duplicates += 1
            continue
        seen.add(digest)
        key = document.group or digest.hex()
        found.keys.append(key)
        found.documents += 1
        found.ids |= document.tokens is not None
        found.groups[key] = found.groups.get(key, 0) + document.size
        lines.append(identity(document.group, digest))
    found.order = hashlib.sha256(b"".join(lines)).hexdigest()
    found.hash = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
    return found


def identity(group: str, digest: bytes) -> bytes:
    """What a kept document adds to `Survey.order`."""
    return hashlib.sha256(group.encode() + b"\0" + digest).digest()


def read(
    sources: tuple[str, ...], data: DataConfig, end_of_document: int | None = None
) -> Iterator[Document]:
    """Yield the documents of all sources in a fixed order. Token files are divided at `end_of_document`."""
    for source in sources:
        if source == STDLIB:
            yield from _stdlib(data)
            continue
        path = Path(source)
        if path.is_dir():
            files = sorted(_walk(path, data))
            if not files:
                raise UserError(
                    f"{path}: no text file in this folder (looked for "
                    f"{', '.join(sorted(TEXT_SUFFIXES)[:6])}, ... "
                    'and data files); name the files, or set data.include = ["*.suffix"]'
                )
            found = False
            for file in files:
                for document in read_file(file, data, end_of_document, empty_ok=True):
                    found = True
                    yield document
            if not found:
                raise UserError(f"{path}: every file in this folder is empty")
        else:
            yield from read_file(path, data, end_of_document)


def read_file(
    path: Path, data: DataConfig, end_of_document: int | None, group: str = "", empty_ok: bool = False
) -> Iterator[Document]:
    """Yield the documents of one file: its text, or its lines, rows or token sequences."""
    try:
        size = path.stat().st_size
        if size == 0:
            if empty_ok:
                return
            raise UserError(f"{path} is empty; remove it from data.sources")
        name = path.name.lower()
        if name.endswith(".parquet"):
            documents = _parquet(path, data)
        elif name.endswith((".bin", ".npy")):
            documents = _token_file(path, data, end_of_document)
        elif name.endswith((".jsonl", ".jsonl.gz")):
            documents = _jsonl(path, data)
        else:
            documents = iter([Document(str(path), group, text=_decode(_bytes(path), path))])
        yield from documents
    except FileNotFoundError:
        raise UserError(
            f'{path}: no such file or folder; data.sources names files, folders or "{STDLIB}"'
        ) from None
    except PermissionError:
        raise UserError(
            f"{path} cannot be read (permission denied); change its mode or leave it out"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged or no gzip file ({error}); unpack or replace it") from None


def _walk(folder: Path, data: DataConfig) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in files:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if any(fnmatch.fnmatch(relative, pattern) for pattern in data.exclude) or name.startswith("."):
                continue
            if data.include:
                wanted = any(fnmatch.fnmatch(relative, pattern) for pattern in data.include)
            else:
                wanted = path.suffix.lower() in TEXT_SUFFIXES | DATA_SUFFIXES
            if wanted:
                yield path


def _stdlib(data: DataConfig) -> Iterator[Document]:
    """The source of the running Python's standard library; the group is the top-level package or module."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(
            name for name in folders if name not in STDLIB_SKIP and not name.startswith(("config-", "."))
        )
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith("_sysconfigdata"):
                continue
            path = Path(folder, name)
            group = path.relative_to(root).parts[0].removesuffix(".py")
            for document in read_file(path, data, None, group=group, empty_ok=True):
                found = True
                yield document
    if not found:
        raise UserError(f"{root} holds no source of the standard library; name other files in data.sources")


def _bytes(path: Path) -> bytes:
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as file:
            return file.read()
    return path.read_bytes()


def _decode(content: bytes, path: Path) -> str:
    """UTF-8 text (a byte-order mark is dropped); Python source may declare another encoding (PEP 263)."""
    if not content:
        raise UserError(f"{path} unpacks to nothing; remove it from data.sources")
    encoding = "utf-8-sig"
    if path.suffix in (".py", ".pyi"):
        try:
            declared = tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        except SyntaxError:
            declared = "utf-8"  # not even the first lines decode: the error below names the byte
        if not declared.startswith("utf-8"):
            encoding = declared
    out = 'leave it out (data.exclude = ["PATTERN"] for a folder)'
    if (zero := content.find(b"\0")) >= 0:
        raise UserError(
            f"{path} looks binary (a zero byte at offset {zero}); {out}, or name token ids .bin or .npy"
        )
    try:
        return content.decode(encoding)
    except LookupError:
        raise UserError(f"{path} declares {encoding!r}, which is no text encoding; {out}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not {error.encoding} text (byte {content[error.start]:#04x} at offset "
            f"{error.start}); "
            f"convert it (iconv -f LATIN1 -t UTF-8) or {out}"
        ) from None


def _jsonl(path: Path, data: DataConfig) -> Iterator[Document]:
    count = 0
    with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[data.text_key]
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} is no JSON object ({error}); repair or remove it"
                ) from None
            except KeyError:
                raise UserError(
                    f"{path}, line {number} has no key {data.text_key!r}; set data.text_key "
                    f"(the line has {', '.join(map(repr, json.loads(line)))})"
                ) from None
            if not isinstance(text, str):
                raise UserError(
                    f"{path}, line {number}: {data.text_key!r} is no string but {type(text).__name__}"
                )
            if text:
                try:
                    text.encode()
                except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
                    raise UserError(
                        f"{path}, line {number}: {data.text_key!r} is not Unicode text ({error.reason} at "
                        f"character {error.start}); repair or remove it"
                    ) from None
                count += 1
                yield Document(f"{path}:{number}", text=text)
    if not count:
        raise UserError(f"{path} holds no text; remove it from data.sources")


def _parquet(path: Path, data: DataConfig) -> Iterator[Document]:
    require("pyarrow", "train")
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(
            f"{path} is no readable Parquet file ({error}); write it again or leave it out"
        ) from None
    if data.text_key not in file.schema_arrow.names:
        raise UserError(
            f"{path} has no column {data.text_key!r}; set data.text_key "
            f"(it has {', '.join(map(repr, file.schema_arrow.names))})"
        )
    count = row = 0
    for batch in _batches(file, path, data):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is not None and not isinstance(value, str):
                raise UserError(
                    f"{path}, row {row}: {data.text_key!r} is no string but {type(value).__name__}"
                )
            if value:
                count += 1
                yield Document(f"{path}:{row}", text=value)
    if not count:
        raise UserError(f"{path} holds no text; remove it from data.sources")


def _batches(file: Any, path: Path, data: DataConfig) -> Iterator[Any]:
    """The text column of an opened Parquet file in pieces."""
    try:
        yield from file.iter_batches(batch_size=256, columns=[data.text_key])
    except (OSError, ValueError) as error:  # Arrow's errors are both
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({reason}); write it again or leave it out") from None


def _token_file(path: Path, data: DataConfig, end_of_document: int | None) -> Iterator[Document]:
    """Token ids in native little-endian order (.bin) or a one-dimensional array (.npy)."""
    if path.suffix.lower() == ".bin":
        width = np.dtype(data.token_dtype).itemsize
        if path.stat().st_size % width:
            raise UserError(
                f"{path} is not a whole number of {data.token_dtype} values; set data.token_dtype"
            )
        tokens = np.memmap(path, dtype="<u2" if width == 2 else "<u4", mode="r")
    else:
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"{path} is no readable .npy file ({error}); write it again") from None
        if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
            raise UserError(
                f"{path} must be a one-dimensional uint16 or uint32 array, not "
                f"{tokens.dtype}{list(tokens.shape)}"
            )
    if not len(tokens):
        raise UserError(f"{path} holds no token; remove it from data.sources")
    ends = [] if end_of_document is None else (np.flatnonzero(tokens == end_of_document) + 1).tolist()
    start = 0
    for number, end in enumerate([*ends, len(tokens)]):
        length = end - start - (1 if number < len(ends) else 0)  # without the end mark, which is added again
        if length > 0:
            yield Document(f"{path}:{number}", tokens=np.asarray(tokens[start : start + length]))
        start = end

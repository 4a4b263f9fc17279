"""Tokenizers, the split, and the token cache."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dither.errors import UserError
from dither.train.config import DataConfig
from dither.train.tokens import HFTokenizer, cache_dir, choose_validation, open_tokens


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    """A byte-level BPE trained on a few words, saved as tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["alpha beta gamma delta"] * 20, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def write(folder: Path, documents: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(documents):
        (folder / f"{i}.txt").write_text(text)
    return str(folder)


def test_documents_are_split_whole_and_end_with_the_mark(tmp_path: Path) -> None:
    documents = [f"document {i} " * (i + 1) for i in range(30)]
    tokens = open_tokens(DataConfig(sources=(write(tmp_path / "d", documents),), validation=0.2))

    def decode(ids: np.ndarray) -> list[str]:
        parts = np.split(ids, np.flatnonzero(ids == 256) + 1)
        assert len(parts[-1]) == 0
        return [bytes(part[:-1].astype(np.uint8)).decode() for part in parts[:-1]]

    train, validation = decode(tokens.train), decode(tokens.validation)
    assert sorted(train + validation) == sorted(documents)
    size = sum(map(len, documents))
    assert 0.1 * size < sum(map(len, validation)) <= 0.2 * size
    assert tokens.validation_bytes.sum() == sum(map(len, validation))
    assert (tokens.validation_bytes[tokens.validation == 256] == 0).all()


def test_the_seed_decides_the_split_and_one_document_is_cut_at_its_tail(tmp_path: Path) -> None:
    groups = {f"g{i}": 10 for i in range(50)}
    assert choose_validation(groups, 0.1, 0) == choose_validation(dict(reversed(groups.items())), 0.1, 0)
    assert choose_validation(groups, 0.1, 0) != choose_validation(groups, 0.1, 1)
    assert len(choose_validation(groups, 0.1, 0)) == 5
    assert choose_validation({"a": 100, "b": 90}, 0.1, 0) == {"b"}
    text = "".join(chr(ord("a") + i % 26) for i in range(1000))
    tokens = open_tokens(DataConfig(sources=(write(tmp_path / "d", [text]),), validation=0.1))
    assert bytes(tokens.train.astype(np.uint8)).decode() == text[: len(tokens.train)]
    assert len(tokens.train) == 901 and len(tokens.validation) == 100


def test_given_validation_sources_never_reach_the_training_data(tmp_path: Path) -> None:
    train = write(tmp_path / "t", ["shared", "only train"])
    held_out = write(tmp_path / "v", ["shared", "held out"])
    tokens = open_tokens(DataConfig(sources=(train,), validation_sources=(held_out,)))
    assert bytes(tokens.train[:-1].astype(np.uint8)) == b"only train"
    assert len(tokens.validation) == len("shared") + len("held out") + 2


def test_the_cache_is_reused_checked_and_keyed_by_content(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DITHER_CACHE", str(tmp_path / "cache"))
    data = DataConfig(sources=(write(tmp_path / "d", ["some text"] + [f"text {i}" for i in range(9)]),))
    first = open_tokens(data)
    (folder,) = cache_dir().iterdir()
    stamp = (folder / "train.bin").stat().st_mtime_ns
    assert isinstance(first.train, np.memmap) and first.train.dtype == np.uint16
    open_tokens(data)
    assert (folder / "train.bin").stat().st_mtime_ns == stamp

    expected = np.array(first.train)
    content = bytearray((folder / "train.bin").read_bytes())
    (cache_dir() / f"{folder.name}.tmp-999999999").mkdir()  # left behind by a killed writer
    content[3] ^= 1
    (folder / "train.bin").write_bytes(content)
    said: list[str] = []
    again = open_tokens(data, said.append)
    assert any("damaged" in line and str(folder) in line for line in said)
    assert np.array_equal(again.train, expected) and again.hash == first.hash

    open_tokens(DataConfig(sources=data.sources, split_seed=1))
    write(tmp_path / "d", ["other text"])
    assert open_tokens(data).hash != first.hash
    assert len(list(cache_dir().iterdir())) == 3


def test_bits_per_byte_count_the_bytes_of_every_token_of_a_tokenizer(tmp_path: Path, bpe: Path) -> None:
    tokenizer = HFTokenizer(bpe, "")
    for text in ("alpha beta", "naïve 日本語 🙂🙂 text", "  spaces\n\n\tand tabs  ", ""):
        ids, widths = tokenizer.encode(text)
        assert len(ids) == len(widths) and widths.sum() == len(text.encode()), text
    documents = [f"alpha beta {i} gamma é" for i in range(20)]
    data = DataConfig(sources=(write(tmp_path / "d", documents),), tokenizer=str(bpe))
    tokens = open_tokens(data)
    ends = int((tokens.validation == tokenizer.end).sum())
    assert tokens.vocab == tokenizer.vocab and ends == 2
    assert int(tokens.validation_bytes.sum()) in {
        ends * len(documents[0].encode()) + extra for extra in range(3)
    }


def test_a_tokenizer_that_truncates_pads_or_leaves_holes_encodes_whole_documents(
    tmp_path: Path, bpe: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(bpe))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 900, "content": "</s>"})
    (tmp_path / "odd.json").write_text(json.dumps(content))
    odd, plain = HFTokenizer(tmp_path / "odd.json", "</s>"), HFTokenizer(bpe, "")
    text = "alpha beta gamma delta alpha beta"
    assert odd.encode(text)[0].tolist() == plain.encode(text)[0].tolist()
    assert odd.end is not None and odd.end < odd.vocab


def test_the_order_of_the_documents_enters_the_cache_but_not_the_hash(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", ["first text"]), write(tmp_path / "b", ["second", "third"])
    one, other = (open_tokens(DataConfig(sources=sources)) for sources in ((a, b), (b, a)))
    assert one.hash == other.hash and not np.array_equal(one.train, other.train)


def test_a_mixture_of_text_and_token_ids_has_no_bits_per_byte(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(200, dtype=np.uint16))
    sources = (write(tmp_path / "d", ["some text", "more text"]), str(tmp_path / "ids.npy"))
    tokens = open_tokens(DataConfig(sources=sources, validation_sources=sources[:1]))
    assert len(tokens.validation) == 20 and tokens.validation_bytes.sum() == 0


def test_a_cache_that_cannot_be_used_names_the_way_out(tmp_path: Path, monkeypatch) -> None:
    data = DataConfig(sources=(write(tmp_path / "d", ["some text", "more text"]),))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DITHER_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be used .*set DITHER_CACHE to another directory"):
        open_tokens(data)
    monkeypatch.setenv("DITHER_CACHE", str(tmp_path / "cache"))
    tokens = open_tokens(data)
    (meta,) = cache_dir().glob("*/meta.json")
    for content in ("[]", '{"length": 3}', '{"length": {}, "vocab": 1, "hash": "x"}'):
        meta.write_text(content)
        assert np.array_equal(open_tokens(data).train, tokens.train)


def test_tokenizers_that_cannot_be_used_are_named(tmp_path: Path, bpe: Path) -> None:
    with pytest.raises(UserError, match=r"No such file"):
        HFTokenizer(tmp_path / "nowhere.json", "")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad.json is no tokenizer.json"):
        HFTokenizer(tmp_path / "bad.json", "")
    with pytest.raises(UserError, match=r"has no token <end>.*data.end_of_document"):
        HFTokenizer(bpe, "<end>")


def test_token_files_have_no_bytes_and_ids_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "a.bin")
    data = DataConfig(sources=(str(tmp_path / "a.bin"),), tokenizer="none", vocab=1000)
    tokens = open_tokens(data)
    assert tokens.validation_bytes.sum() == 0 and len(tokens.train) + len(tokens.validation) == 1000
    with pytest.raises(UserError, match=r"holds the id 999, beyond the 999 known ids"):
        open_tokens(DataConfig(sources=data.sources, tokenizer="none", vocab=999))
    with pytest.raises(UserError, match=r"below data.vocab = 1000, not '1000'"):
        open_tokens(DataConfig(sources=data.sources, tokenizer="none", vocab=1000, end_of_document="1000"))
    with pytest.raises(UserError, match=r"takes token files only"):
        open_tokens(DataConfig(sources=(write(tmp_path / "d", ["text"]),), tokenizer="none", vocab=9))


def test_another_corpus_than_the_published_one_says_so(tmp_path: Path) -> None:
    sources = (write(tmp_path / "d", [f"text {i}" for i in range(9)]),)
    said: list[str] = []
    found = open_tokens(DataConfig(sources=sources, reference="0" * 16), said.append)
    assert any("not comparable with the published table" in line for line in said)
    said.clear()
    open_tokens(DataConfig(sources=sources, reference=found.hash[:16]), said.append)
    assert len(said) == 1 and found.hash[:16] in said[0]
    assert json.loads((next(cache_dir().glob("*/meta.json"))).read_text())["vocab"] > 0

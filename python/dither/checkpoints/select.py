"""Which tensors are quantized.

By default: every floating-point tensor of exactly two dimensions that is neither an embedding nor a head,
told by the parts of its name. One-dimensional tensors (norms, biases) and tensors of three and more
dimensions (convolutions, stacked experts) stay as they are. `only` replaces this rule by globs, `exempt`
takes tensors away from either. Globs match whole names, `*` matches dots too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from dither.checkpoints.tensors import TensorInfo
from dither.errors import UserError, suggest

EMBEDDING_PARTS = ("wte", "wpe", "emb", "tok_emb", "pos_emb", "token_embd", "position_embd", "shared")
HEAD_PARTS = ("lm_head", "head", "embed_out", "classifier", "score", "qa_outputs", "cls", "predictions")


def role(name: str) -> str | None:
    """`embedding` or `head` for a tensor that the default rule leaves alone, None for the others."""
    parts = name.lower().split(".")
    if any("embed" in part or part in EMBEDDING_PARTS for part in parts):
        return "embedding"
    if any(part in HEAD_PARTS for part in parts) or parts == ["output", "weight"]:  # the last: GGUF, Llama
        return "head"
    return None


def select(
    tensors: Iterable[TensorInfo], exempt: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, str | None]:
    """For every tensor, why it is left as it is, or None where it is to be quantized.

    Raises UserError for a glob that matches no tensor, and where nothing is left to quantize.
    """
    tensors = list(tensors)
    names = [tensor.name for tensor in tensors]
    for option, globs in (("--exempt", exempt), ("--only", only)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                raise UserError(f"{option} {glob!r} matches no tensor{_names(glob, names)}")
    reasons = {tensor.name: _reason(tensor, exempt, only) for tensor in tensors}
    if all(reasons.values()):
        shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:5])
        raise UserError(
            f"no tensor is left to quantize ({shown}{', ...' if len(reasons) > 5 else ''}); "
            "choose some with --only GLOB"
        )
    return reasons


def _reason(tensor: TensorInfo, exempt: Sequence[str], only: Sequence[str]) -> str | None:
    if any(fnmatchcase(tensor.name, glob) for glob in exempt):
        return "exempt"
    if only and not any(fnmatchcase(tensor.name, glob) for glob in only):
        return "not chosen"
    if tensor.dtype.startswith("GGUF:"):
        return "quantized already"
    if not tensor.is_float:
        return "no floating-point tensor"
    if not tensor.size or not tensor.shape:
        return "empty" if not tensor.size else "a single number"
    if only:
        return None
    if len(tensor.shape) != 2:
        return f"{len(tensor.shape)} dimension{'s' if len(tensor.shape) > 1 else ''}"
    return role(tensor.name)


def _names(glob: str, names: list[str]) -> str:
    shown = ", ".join(names[:12])
    more = f", and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{suggest(glob, names)}. The tensors: {shown}{more}"

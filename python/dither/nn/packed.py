"""PackedTensor: a torch tensor that holds codes and scales, and computes with the values they stand for.

    w = dither.quantize(weight, "nvfp4")        # a PackedTensor for a torch tensor
    F.linear(x, w), x @ w.T, w.dequantize(), w.to(torch.bfloat16), w.nbytes_held

It has the shape of the array and the dtype that its values are read in; memory holds the parts of the packed
array alone (see `dither.blocks`). Any operation on it first makes the values, in full and for that operation
only; moving, copying, pickling and state dicts keep the parts. It takes no gradient and cannot be changed in
place, but for `copy_` from one of the same layout (what `load_state_dict` does).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from dither import arrays
from dither.arguments import as_quantizer
from dither.blocks import Layout
from dither.errors import UserError
from dither.nn import kernels
from dither.nn.checks import check_draws, check_input, dtype_of, overlap
from dither.nn.fresh import empty
from dither.nn.kernels import WORDS
from dither.packing import check_packed_out, storable
from dither.quantizer import Quantizer
from dither.storage import PARTS
from dither.tensor import QuantizedTensor

_DTYPES = {"u8": torch.uint8, "fp32": torch.float32}
_aten = torch.ops.aten


class PackedTensor(Tensor):
    """A packed array as a torch tensor; made by `dither.quantize` and `PackedTensor.from_quantized`.

    Args:
        layout: shapes of the parts, and which elements share a scale.
        source: dtype word of the array that was quantized: values are formed in fp64 for fp64, else in fp32.
        dtype: of this tensor, to which values are rounded once.
        parts: the arrays that are held, by name (`layout.parts`), on one device.
    """

    packing: Layout
    source: str
    parts: dict[str, Tensor]

    @staticmethod
    def __new__(
        cls, layout: Layout, source: str, dtype: torch.dtype, parts: Mapping[str, Tensor]
    ) -> PackedTensor:
        have = {name: (tuple(part.shape), WORDS.get(part.dtype)) for name, part in parts.items()}
        if have != layout.parts:
            raise UserError(
                f"an array of shape {layout.shape} under {layout.quantizer} is {layout.parts}, not {have}"
            )
        device = parts["codes"].device
        self = Tensor._make_wrapper_subclass(cls, layout.shape, dtype=dtype, device=device)
        self.packing, self.source = layout, source
        self.parts = {name: part.detach().contiguous() for name, part in parts.items()}
        return self

    def __init__(self, *args: Any) -> None: ...

    @staticmethod
    def from_quantized(t: QuantizedTensor) -> PackedTensor:
        """The same array for torch; the memory is copied."""
        parts = {name: torch.from_numpy(part.copy()) for name, part in t.parts().items()}
        return PackedTensor(t.layout, t.dtype_word, dtype_of(t.dtype_word), parts)

    @property
    def quantized(self) -> QuantizedTensor:
        """The same array for numpy; on the CPU the memory is shared."""
        parts = {name: part.cpu().numpy() for name, part in self.parts.items()}
        layout = self.packing
        return QuantizedTensor(layout.quantizer, layout.shape, layout.axis, self.source, **parts)

    @property
    def quantizer(self) -> Quantizer:
        """How the array was quantized."""
        return self.packing.quantizer

    @property
    def codes(self) -> Tensor:
        """The element codes: see `dither.blocks` for where a code lies."""
        return self.parts["codes"]

    @property
    def scales(self) -> Tensor | None:
        """One scale a block: uint8 codes or float32; None for a plain cast."""
        return self.parts.get("scales")

    @property
    def nbytes_held(self) -> int:
        """Bytes held. (`nbytes` is torch's word for the number of elements times that of the dtype.)"""
        return self.packing.nbytes

    def dequantize(self, dtype: torch.dtype | str | None = None) -> Tensor:  # type: ignore[override]
        """The values as a plain tensor, in `dtype` (default: this tensor's), on its device."""
        target = self.dtype if dtype is None else dtype_of(dtype)
        held = [self.parts.get(name) for name in PARTS]
        if not (self.is_cpu or self.is_meta):
            held = [None if part is None else part.cpu() for part in held]
        layout = self.packing
        fields = (str(layout.quantizer), layout.shape, layout.axis, self.source, target)
        return torch.ops.dither.dequantize.default(*held, *fields).to(self.device)

    def _like(self, dtype: torch.dtype, parts: Mapping[str, Tensor]) -> PackedTensor:
        return PackedTensor(self.packing, self.source, dtype, parts)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return (
            f"PackedTensor({str(self.quantizer)!r}, shape={tuple(self.shape)}, axis={self.packing.axis}, "
            f"dtype={self.dtype}, device={str(self.device)!r}, {self.nbytes_held} bytes held)"
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        layout = self.packing
        fields = (str(layout.quantizer), layout.shape, layout.axis, self.source, self.dtype, self.parts)
        return _rebuild, (*fields, isinstance(self, torch.nn.Parameter))

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedTensor:
        if id(self) not in memo:
            new = self._like(self.dtype, {name: part.clone() for name, part in self.parts.items()})
            memo[id(self)] = parameter(new) if isinstance(self, torch.nn.Parameter) else new
        return memo[id(self)]

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return list(self.parts), (self.packing, self.source, self.dtype)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> PackedTensor:
        layout, source, dtype = meta
        return PackedTensor(layout, source, dtype, inner)

    def _stable_hash_for_caching(self) -> str:
        """What a compiled graph depends on, for torch's cache of them; shapes of the parts follow from it."""
        layout = self.packing
        fields = (layout.quantizer, layout.shape, layout.axis, self.source, self.dtype, self.device)
        return "PackedTensor " + " ".join(map(str, fields))

    def __getattr__(self, name: str) -> Any:
        # The other parts by their names, as torch asks for what __tensor_flatten__ lists.
        if name in ("tensor_scale", "zero_points"):
            return self.__dict__["parts"].get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        this = args[0] if args and isinstance(args[0], PackedTensor) else None
        if this is not None and func in (_aten.detach.default, _aten.alias.default):
            return this._like(this.dtype, this.parts)
        if this is not None and func is _aten.clone.default:
            return this._like(this.dtype, {name: part.clone() for name, part in this.parts.items()})
        if this is not None and func is _aten._to_copy.default:
            dtype = kwargs.get("dtype") or this.dtype
            if dtype in WORDS and dtype.is_floating_point:
                device = kwargs.get("device")
                return this._like(dtype, {k: v.to(device=device, copy=True) for k, v in this.parts.items()})
        if this is not None and func is _aten.copy_.default:
            return _copy(this, args[1])
        if func._schema.is_mutable and _writes_packed(func, args, kwargs):
            raise UserError(f"{func} would change a packed tensor in place: dequantize it first")
        args, kwargs = tree_map(unpacked, (args, kwargs))
        return func(*args, **kwargs)


_LIBRARY = torch.library.Library("dither", "FRAGMENT")
_LIBRARY.define(
    "dequantize(Tensor codes, Tensor? scales, Tensor? tensor_scale, Tensor? zero_points, str q, "
    "SymInt[] shape, int axis, str source, ScalarType dtype) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(_LIBRARY, "dequantize", "CPU")
def _dequantize(
    codes: Tensor,
    scales: Tensor | None,
    tensor_scale: Tensor | None,
    zero_points: Tensor | None,
    q: str,
    shape: Sequence[int],
    axis: int,
    source: str,
    dtype: torch.dtype,
) -> Tensor:
    y = empty(tuple(shape), dtype)
    held = {"codes": codes, "scales": scales, "zero_points": zero_points}
    parts = {name: kernels.source(part) for name, part in held.items() if part is not None}
    second = None if tensor_scale is None else float(tensor_scale)
    layout = Layout(kernels.parse(q), tuple(shape), axis)
    arrays.run_dequantize(layout, parts, second, source == "fp64", kernels.buffer(y))
    return y


@torch.library.register_fake("dither::dequantize", lib=_LIBRARY)
def _(codes, scales, tensor_scale, zero_points, q, shape, axis, source, dtype):
    return codes.new_empty(shape, dtype=dtype)


def unpacked(x: Any) -> Any:
    """The plain tensor of a packed one's values; anything else as it is."""
    return x.dequantize() if isinstance(x, PackedTensor) else x


def _writes_packed(func: Any, args: Any, kwargs: Any) -> bool:
    named = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return any(isinstance(named.get(name), PackedTensor) for name in written)


def _copy(to: PackedTensor, source: Any) -> PackedTensor:
    if not isinstance(source, PackedTensor) or source.packing != to.packing:
        what = repr(source) if isinstance(source, PackedTensor) else "a plain tensor"
        raise UserError(
            f"{what} cannot be copied into {to!r}: both must be packed in the same layout. "
            "Load plain weights before dither.nn.convert_, or quantize them with dither.quantize"
        )
    for name, part in to.parts.items():
        part.copy_(source.parts[name])
    to.source = source.source
    return to


def parameter(t: PackedTensor) -> torch.nn.Parameter:
    """A packed tensor as a parameter, which takes no gradient."""
    return torch.nn.Parameter(t, requires_grad=False)


def _rebuild(
    quantizer: str,
    shape: tuple[int, ...],
    axis: int,
    source: str,
    dtype: torch.dtype,
    parts: dict[str, Tensor],
    is_parameter: bool,
) -> Tensor:
    t = PackedTensor(Layout(Quantizer(quantizer), tuple(shape), axis), source, dtype, parts)
    return parameter(t) if is_parameter else t


# What torch.load(weights_only=True) may call: it checks the parts against the layout and runs nothing else.
torch.serialization.add_safe_globals([_rebuild])


def quantize(
    x: Tensor,
    q: Quantizer | str,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    out: Any = None,
) -> PackedTensor:
    """`dither.quantize` on a tensor: a PackedTensor on its device, or `out`, written over.

    The work is done on the CPU."""
    q = as_quantizer(q)
    word = check_input(x)
    layout = storable(q, tuple(x.shape), axis)
    held = {} if out is None else _parts_to_write(layout, x, out)
    draws = check_draws(q, x, seed, stream, offset, random, None, *held.values())
    device = "meta" if x.is_meta else "cpu"
    parts = {
        name: held[name]
        if name in held and x.is_cpu
        else torch.empty(shape, dtype=_DTYPES[word], device=device)
        for name, (shape, word) in layout.parts.items()
    }
    if not x.is_meta:
        buffers = {name: kernels.buffer(part) for name, part in parts.items() if name != "tensor_scale"}
        plain = kernels.source(unpacked(x).detach().cpu())
        tensor_scale = arrays.run_quantize(layout, plain, buffers, kernels.draws(*draws))
        if tensor_scale is not None:
            parts["tensor_scale"].fill_(tensor_scale)
    if out is None:
        return PackedTensor(layout, word, x.dtype, {k: part.to(x.device) for k, part in parts.items()})
    for name, part in held.items():
        part.copy_(parts[name])  # nothing to do on the CPU
    return out


def _parts_to_write(layout: Layout, x: Tensor, out: Any) -> dict[str, Tensor]:
    """The memory of `out` after the checks that it can take `x`."""
    if not isinstance(out, PackedTensor):
        raise TypeError(f"out= is a PackedTensor, as a first call returns it, not {type(out).__name__}")
    check_packed_out(layout, WORDS[x.dtype], out.packing, out.source)
    if out.device != x.device:
        raise UserError(f"out= is on {out.device}, the input on {x.device}")
    if x.is_cpu and not isinstance(x, PackedTensor) and any(overlap(x, part) for part in out.parts.values()):
        raise UserError("out= overlaps the input, which would be lost while it is read")
    return out.parts

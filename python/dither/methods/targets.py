"""Which weights a method treats: those of the model's sites, each parameter once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dither.errors import UserError, suggest
from dither.nn.packed import PackedTensor
from dither.nn.recipe import SITES
from dither.nn.sites import candidates, matching

WEIGHT_SITES = tuple(site for site in SITES if site not in ("attention", "product", "output", "residual"))


@dataclass(frozen=True)
class Target:
    """One weight: its name in the model, its position among all sites (for random streams), the parameter,
    the modules that share it, of which it is the attribute `attribute`, and those whose forward multiplies by
    it: the same, but for attention, which does not call its `out_proj`.
    """

    name: str
    index: int
    weight: nn.Parameter
    modules: tuple[nn.Module, ...]
    kind: str
    attribute: str = "weight"
    callers: tuple[nn.Module, ...] = ()

    @property
    def sees_inputs(self) -> bool:
        """Whether its modules are called with what the weight is multiplied by."""
        return self.attribute == "weight" and self.callers == self.modules

    @property
    def is_rows(self) -> bool:
        """Whether the weight lies in memory as [outputs, inputs]."""
        return self.weight.dim() <= 2 and not self._inputs_first

    @property
    def _inputs_first(self) -> bool:
        """Transposed convolutions, and GPT-2's Conv1D: the inputs are the first axis of the weight."""
        module = self.modules[0]
        return isinstance(module, _TRANSPOSED) or (
            self.kind == "linear" and not isinstance(module, nn.Linear | nn.MultiheadAttention)
        )

    def rows(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape with one output a row and its inputs along the last axis, where
        blocks run: [outputs, inputs], or [n] for the weight of a norm. A view where memory allows it.
        """
        if self.kind == "grouped":
            return weight.flatten(0, -2)
        rows = weight.flatten(1) if weight.dim() > 2 else weight
        return rows.t() if self._inputs_first else rows

    def like(self, rows: Tensor) -> Tensor:
        """The inverse of `rows`."""
        return (rows.t() if self._inputs_first else rows).reshape(self.weight.shape)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def find_targets(
    model: nn.Module, *, sites: Sequence[str] = ("linear",), exempt: Sequence[str] = ()
) -> list[Target]:
    """The weights of the sites of kinds `sites` (linear, head, embedding, norm) whose module name no glob of
    `exempt` covers.

    A weight that several modules share is listed once, under its first name, and is left out where any of
    them is exempt or of another kind. Raises UserError for an unknown kind, a glob that matches nothing, or
    where nothing is left.
    """
    sites = (sites,) if isinstance(sites, str) else tuple(sites)
    exempt = (exempt,) if isinstance(exempt, str) else tuple(exempt)
    for site in sites:
        if site not in WEIGHT_SITES:
            raise UserError(
                f"no method for the weights of {site!r}{suggest(site, WEIGHT_SITES)}; "
                f"sites are {', '.join(WEIGHT_SITES)}"
            )
    found = candidates(model)
    left_out = matching(found, list(exempt))
    owners = {id(m.out_proj): m for _, m, _ in found if isinstance(m, nn.MultiheadAttention)}
    chosen: dict[int, Target] = {}
    barred: set[int] = set()
    for index, (name, module, kind) in enumerate(found):
        attribute = "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"
        weight = getattr(module, attribute, None) if kind != "attention" else None
        if weight is None:
            if attribute != "weight" and kind in sites and name not in left_out:
                raise UserError(
                    f"{name}: attention with keys or values of another width (kdim=, vdim=) has three "
                    f"weights, which no method treats; exempt {name!r}"
                )
            continue
        caller = owners.get(id(module), module)
        if kind not in sites or name in left_out:
            barred.add(id(weight))
        elif id(weight) in chosen:
            first = chosen[id(weight)]
            chosen[id(weight)] = replace(
                first, modules=(*first.modules, module), callers=(*first.callers, caller)
            )
        else:
            own = name if attribute == "weight" else name.rpartition("in_proj")[0].removesuffix(".")
            full = f"{own}.{attribute}".lstrip(".")
            chosen[id(weight)] = Target(full, index, weight, (module,), kind, attribute, (caller,))
    targets = [target for key, target in chosen.items() if key not in barred]
    for target in targets:
        _check_parameter(target)
    if not targets:
        raise UserError(
            f"no weight of the sites {', '.join(sites)} is left after exempt={list(exempt)}; the model has: "
            + (", ".join(f"{name or '(the model)'} ({kind})" for name, _, kind in found) or "none")
        )
    return targets


def _check_parameter(target: Target) -> None:
    """UserError for a weight that is no parameter which can be read and written."""
    if isinstance(target.weight, UninitializedParameter):
        raise UserError(f"the shape of {target.name} is not known yet: call the model once first")
    if isinstance(target.weight, PackedTensor):
        raise UserError(f"{target.name} is packed already: dither.nn.convert_(model, None) unpacks it")
    if target.modules[0]._parameters.get(target.attribute) is not target.weight:
        raise UserError(
            f"{target.name} is computed from other parameters (weight_norm, a parametrization), so that it "
            "cannot be written; remove_parametrizations or remove_weight_norm of torch.nn.utils makes it "
            "one, or exempt it"
        )

"""gfloat's vectorized rounding, with every rounding and overflow mode it shares with us."""

import gfloat
import numpy as np
from gfloat import Domain, RoundMode, Signedness, formats

library = "gfloat"
FORMATS = {
    "e4m3": formats.format_info_ocp_e4m3,
    "e5m2": formats.format_info_ocp_e5m2,
    "e3m2": formats.format_info_ocp_e3m2,
    "e2m3": formats.format_info_ocp_e2m3,
    "e2m1": formats.format_info_ocp_e2m1,
    "binary8p4se": formats.format_info_p3109(8, 4),
    "binary8p3se": formats.format_info_p3109(8, 3),
    "binary4p2sf": formats.format_info_p3109(4, 2, domain=Domain.Finite),
    "binary8p1uf": formats.format_info_p3109(8, 1, Signedness.Unsigned, Domain.Finite),
    "bf16": formats.format_info_bfloat16,
    "fp16": formats.format_info_binary16,
}
MODES = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "up": RoundMode.TowardPositive,
    "down": RoundMode.TowardNegative,
    "stochastic_a": RoundMode.StochasticFastest,
    "stochastic": RoundMode.StochasticFast,
    "stochastic_c": RoundMode.Stochastic,
}


def cast(
    x: np.ndarray,
    format: str,
    rounding: str = "nearest_even",
    overflow: str = "saturate",
    random: np.ndarray | None = None,
    bits: int = 0,
) -> np.ndarray:
    if rounding not in MODES or overflow == "propagate":
        raise NotImplementedError
    options = {} if random is None else {"srbits": random.astype(np.int64), "srnumbits": bits}
    return gfloat.round_ndarray(
        FORMATS[format], x.astype(np.float64), MODES[rounding], sat=overflow == "saturate", **options
    )

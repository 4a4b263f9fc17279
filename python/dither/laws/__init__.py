"""Scaling laws: fits with a certificate, intervals, and what follows from them. Needs numpy alone.

fit = dither.laws.fit("chinchilla", frame, N="params", D="tokens", loss="val_loss")
print(fit); fit.interval(); fit.predict(N=7e9, D=1.4e11)
"""

from dither.laws.catalogue import LAWS, names
from dither.laws.certificate import Certificate
from dither.laws.engine import Objective
from dither.laws.fitting import Fit, fit, get
from dither.laws.law import FunctionLaw, Law, Parameter, SumLaw
from dither.laws.loss_to_loss import LossMap, loss_to_loss
from dither.laws.uncertainty import Bootstrap, Profile

__all__ = [
    "LAWS",
    "Bootstrap",
    "Certificate",
    "Fit",
    "FunctionLaw",
    "Law",
    "LossMap",
    "Objective",
    "Parameter",
    "Profile",
    "SumLaw",
    "fit",
    "get",
    "loss_to_loss",
    "names",
]

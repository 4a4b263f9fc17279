"""Scaling laws: fits with a certificate, intervals, and what follows from them. Needs numpy alone.

fit = dither.laws.fit("chinchilla", frame, N="params", D="tokens", loss="val_loss")
print(fit); fit.interval(); fit.predict(N=7e9, D=1.4e11)
"""

from dither.laws.benchmarks import Observational, observational
from dither.laws.catalogue import LAWS, names
from dither.laws.certificate import Certificate
from dither.laws.coverage import BetaBinomial, beta_binomial, pass_at_k
from dither.laws.crossover import Crossover, crossover, worth
from dither.laws.decisions import Decision, decide
from dither.laws.divergence import Logistic, logistic
from dither.laws.engine import Objective
from dither.laws.fitting import Fit, fit, get
from dither.laws.forecast import Prediction, predict_interval
from dither.laws.interval_fit import IntervalFit, fit_intervals
from dither.laws.intervals import interval_mean, interval_median, rerun_noise, rounded
from dither.laws.isoflop import approaches
from dither.laws.law import FunctionLaw, Law, Parameter, SumLaw
from dither.laws.loss_to_loss import LossMap, loss_to_loss
from dither.laws.mixtures import check_shares, filtered_error, mixing, mixture
from dither.laws.planning import budget
from dither.laws.profiles import Profile
from dither.laws.runs import read_runs
from dither.laws.schedules import Schedule, annealing, multi_power
from dither.laws.sensitivity import sensitivities
from dither.laws.simplex import best_mixture
from dither.laws.uncertainty import Bootstrap
from dither.laws.validation import Validation, validate

__all__ = [
    "LAWS",
    "BetaBinomial",
    "Bootstrap",
    "Certificate",
    "Crossover",
    "Decision",
    "Fit",
    "FunctionLaw",
    "IntervalFit",
    "Law",
    "Logistic",
    "LossMap",
    "Objective",
    "Observational",
    "Parameter",
    "Prediction",
    "Profile",
    "Schedule",
    "SumLaw",
    "Validation",
    "annealing",
    "approaches",
    "best_mixture",
    "beta_binomial",
    "budget",
    "check_shares",
    "crossover",
    "decide",
    "filtered_error",
    "fit",
    "fit_intervals",
    "get",
    "interval_mean",
    "interval_median",
    "logistic",
    "loss_to_loss",
    "mixing",
    "mixture",
    "multi_power",
    "names",
    "observational",
    "pass_at_k",
    "predict_interval",
    "read_runs",
    "rerun_noise",
    "rounded",
    "sensitivities",
    "validate",
    "worth",
]

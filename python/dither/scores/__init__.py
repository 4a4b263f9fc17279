"""Example scores one can trust: formulas by name, runs that merge, reliability beside every ranking.

scores = dither.scores.logit_scores(logits, labels)                 # {"loss": ..., "el2n": ..., ...}
tracker = dither.scores.Tracker(n_examples, scores=["el2n", "forgetting", "aum"])
tracker.update(index, logits, labels, step=step)                    # in your own loop
table = tracker.table(run="seed-0")                                 # merge tables, save, select
"""

from dither.scores import selection
from dither.scores.architectures import architecture_bias, fingerprints
from dither.scores.attribution import (
    gradient_features,
    less,
    linear_datamodeling_score,
    log_odds,
    tracin,
    trak,
)
from dither.scores.catalogue import SCORES
from dither.scores.conditions import Effect, class_share, condition_effect
from dither.scores.depth import activations, prediction_depth
from dither.scores.embeddings import duplicates, prototypes, prototypes_kmeans
from dither.scores.features import Features
from dither.scores.gradients import (
    class_gradients,
    grand,
    grand_last_layer,
    per_example_gradients,
    tracin_self,
)
from dither.scores.labels import confident_joint, label_issues
from dither.scores.models import dichotomous, disagreement, learnability, pvi, vote_entropy
from dither.scores.neighbours import knn_shapley
from dither.scores.overview import overview
from dither.scores.pointwise import logit_scores, sequence_scores
from dither.scores.projection import project
from dither.scores.ranks import kendall, rank, spearman
from dither.scores.reliability import (
    Reliability,
    auc,
    noise_curve,
    rank_pca,
    reliability,
    score_correlations,
    spearman_brown,
)
from dither.scores.retraining import Comparison, Retraining, retrain
from dither.scores.score import Score
from dither.scores.sources import read_logits, score_paths
from dither.scores.subset_record import SubsetRuns
from dither.scores.subset_runs import subset, subset_runs
from dither.scores.subsets import influence, memorization
from dither.scores.table import ScoreTable
from dither.scores.text import Importance, ngram_counts
from dither.scores.tracker import Tracker
from dither.scores.vog import VoG, vog

__all__ = [
    "SCORES",
    "Comparison",
    "Effect",
    "Features",
    "Importance",
    "Reliability",
    "Retraining",
    "Score",
    "ScoreTable",
    "SubsetRuns",
    "Tracker",
    "VoG",
    "activations",
    "architecture_bias",
    "auc",
    "class_gradients",
    "class_share",
    "condition_effect",
    "confident_joint",
    "dichotomous",
    "disagreement",
    "duplicates",
    "fingerprints",
    "gradient_features",
    "grand",
    "grand_last_layer",
    "influence",
    "kendall",
    "knn_shapley",
    "label_issues",
    "learnability",
    "less",
    "linear_datamodeling_score",
    "log_odds",
    "logit_scores",
    "memorization",
    "ngram_counts",
    "noise_curve",
    "overview",
    "per_example_gradients",
    "prediction_depth",
    "project",
    "prototypes",
    "prototypes_kmeans",
    "pvi",
    "rank",
    "rank_pca",
    "read_logits",
    "reliability",
    "retrain",
    "score_correlations",
    "score_paths",
    "selection",
    "sequence_scores",
    "spearman",
    "spearman_brown",
    "subset",
    "subset_runs",
    "tracin",
    "tracin_self",
    "trak",
    "vog",
    "vote_entropy",
]

"""Scores beyond logits: gradients, several models, embeddings, text."""

from __future__ import annotations

from dither.scores.score import Score

OTHERS = (
    Score(
        "grand", "||gradient of the loss||_2", "hard", "gradient norm", "per-example gradients",
        "a backward pass an example; of the last layer alone none (`grand_last_layer`)",
        "Paul et al., 2107.07075", "at initialisation it does not rank examples (2303.14753)",
        made_by=("grand", "grand_last_layer"),
    ),
    Score(
        "vog", "mean over inputs of std_k of d z_y / d x", "hard", "gradient", "K checkpoints",
        "K backward passes; the state is two fp32 an input element, or none example-major",
        "Agarwal et al., 2008.11600", "the default is the authors' ImageNet script, normalised by class",
        {
            "agarwal": "the default",
            "agarwal-toy": "their toy script: of p_y, normalised by class",
            "agarwal-toy-early": "the same, first 5 checkpoints, whose mean is the sum over all by 5",
            "agarwal-toy-middle": "the same, checkpoints 5 to 10",
            "agarwal-toy-late": "the same, checkpoints from 10 on",
            "datagnosis": "as the toy script, not normalised",
            "datagnosis-early": "the same, first 5 checkpoints",
            "datagnosis-middle": "the same, checkpoints 5 to 10",
            "datagnosis-late": "the same, checkpoints from 10 on",
            "kwok": "of p_y, unbiased variance, no root, not normalised (code of 2401.01867)",
            "emnlp": "variance without root over embeddings (2311.16298)",
            "emnlp-dataset": "the same, normalised over the data set",
        },
        made_by=("VoG", "vog"),
    ),
    Score(
        "learnability", "loss - loss of a held-out model", "neither", "nats", "a second model",
        "a forward pass; once the training of the second model", "RHO-LOSS, 2206.07137",
        "high: learnable and not yet learned",
    ),
    Score(
        "pvi", "log2 p_y - log2 p_y without the input", "easy", "bits", "a model of empty inputs",
        "a forward pass; once the training of the second model", "Ethayarajh et al., 2110.08420",
        "below 0 suggests a wrong label",
    ),
    Score(
        "prototype", "distance to the class mean or nearest centroid", "hard", "distance", "embeddings",
        "a pass over the embeddings; k-means without labels", "Sorscher et al., 2206.14486",
        made_by=("prototypes", "prototypes_kmeans"),
    ),
    Score(
        "memorization", "P[correct | i in S] - P[correct | i not in S]", "hard", "probability",
        "models of random subsets S", "hundreds of trainings", "Feldman and Zhang, 2008.03703",
        "NaN for an example that all subsets, or none, hold",
        {"feldman": "an empty side counts as accuracy 0"},
    ),
    Score(
        "influence", "the same of every training example on every test example", "neither", "probability",
        "models of random subsets S", "hundreds of trainings", "Feldman and Zhang, 2008.03703",
        "high: the test example needs it", {"feldman": "an empty side counts as accuracy 0"},
    ),
    Score(
        "knn_shapley", "Shapley value under a k-nearest-neighbour vote", "easy", "share", "embeddings",
        "a product of all pairs, and a sort for every test example", "Jia et al., 1908.08619",
    ),
    Score(
        "disagreement", "mean Jensen-Shannon divergence of two models", "hard", "nats", "several models",
        "several trainings", "ensembles (agreement)", "",
        {"symmetric-kl": "mean of KL(p, q) + KL(q, p) over pairs"},
    ),
    Score(
        "vote_entropy", "entropy of the classes that an ensemble votes for", "hard", "nats", "several models",
        "several trainings", "ensembles (agreement)",
    ),
    Score(
        "dichotomous", "1 if all models are right, -1 if none is, else 0", "easy", "-1, 0 or 1",
        "several models", "several trainings", "Meding et al., 2110.05922",
    ),
    Score(
        "duplicate", "greatest cosine with an example before it in its cluster", "neither", "cosine",
        "embeddings", "k-means, and a product of all pairs of each cluster", "SemDeDup, 2303.09540",
        "drop those above 1 - eps",
        made_by=("duplicates",),
    ),
    Score(
        "prediction_depth", "first layer from which on the k nearest neighbours vote for the prediction",
        "hard", "layers", "embeddings of every layer", "a product of all pairs for every layer: the dearest",
        "Baldock et al., 2106.09647", "k = 30",
        {"kwok": "an example votes for itself (code of 2401.01867)"},
    ),
    Score(
        "less", "sum_k eta_k cos(gradient of a task, Adam's step for the example)", "neither",
        "learning rate", "projected gradients of checkpoints, tests of a task",
        "K backward passes and projections", "2402.04333", "high: keep",
    ),
    Score(
        "trak", "phi(test) (Phi' Phi)^-1 phi(train) (1 - p_y)", "neither", "log odds", "projected gradients",
        "a backward pass and a projection a model, a solve of k x k", "2303.14186",
        "high: helps the test; check with `linear_datamodeling_score`",
        {"traker": "the inverse is divided by the mean of its absolute entries, as the package does"},
    ),
    Score(
        "tracin", "sum_k eta_k ||g_k||^2", "hard", "loss", "per-example gradients", "K backward passes",
        "Pruthi et al., 2002.08484", "of itself; `tracin` gives pairs",
        made_by=("tracin_self",),
    ),
    Score(
        "perplexity", "exp(mean over tokens of the loss)", "hard", "perplexity",
        "logits, labels of sequences", "one forward pass", "Marion et al., 2309.04564",
        "depends on length and tokenizer",
        made_by=("sequence_scores",),
    ),
    Score(
        "label_issue", "1 off the diagonal of the confident joint, else 0", "hard", "0 or 1",
        "out-of-sample probabilities, labels", "the trainings of a cross-validation", "1911.00068", "",
        {"cleanlab": "classes compete by p where several are confident; whole counts"},
        made_by=("label_issues",),
    ),
    Score(
        "importance", "sum over 1- and 2-grams of log p_target - log p_raw", "neither", "nats",
        "texts, and texts like those wanted", "5 ns a byte of text", "DSIR, 2302.03169",
        "high: like the target", {"dsir": "buckets by SHA-256, as the package; at about 1 MB/s"},
        made_by=("Importance",),
    ),
)  # fmt: skip

"""Example scores one can trust: formulas by name, runs that merge, reliability beside every ranking.

scores = dither.scores.logit_scores(logits, labels)                 # {"loss": ..., "el2n": ..., ...}
tracker = dither.scores.Tracker(n_examples, scores=["el2n", "forgetting", "aum"])
tracker.update(index, logits, labels, step=step)                    # in your own loop
table = tracker.table(run="seed-0")                                 # merge tables, save, select
"""

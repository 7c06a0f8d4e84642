"""Evaluation data: one file a kind of data set, and how images are brought to a model's size."""

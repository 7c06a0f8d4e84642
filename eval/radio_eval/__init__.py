"""Evaluation of RADIO models and their teachers: kNN, zero-shot, linear segmentation and SAM."""

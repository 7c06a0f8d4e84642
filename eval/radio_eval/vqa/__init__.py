"""Scores of visual question answering: LLaVA's answer files against the data sets' own files."""

"""Summaries of data sets of any size: computed once, kept on disk, read in chunks."""

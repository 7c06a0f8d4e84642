"""Labelled images in the layouts that people have: class folders, ImageNet, tar shards."""

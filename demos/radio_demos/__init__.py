"""Gradio demos: features, segmentation, zero-shot and chat."""

"""CLIP-style zero-shot classification and retrieval with RADIO's features."""

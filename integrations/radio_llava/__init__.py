"""LLaVA-1.5 with a RADIO vision tower: training, chat and evaluation."""

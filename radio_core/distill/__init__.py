"""Multi-teacher distillation: configs, losses, cache, trainer and recipes."""

"""The models that can be loaded by name, and how any model is loaded."""

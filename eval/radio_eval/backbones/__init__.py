"""Vision models of other libraries as the evaluators see them."""

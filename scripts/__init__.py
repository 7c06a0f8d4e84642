"""Maintainers' scripts: how the bundled weights came to be; and examples."""

"""On its way out: `radio_core.progress` is the place."""

from radio_core.progress import Progress, rich_progress, silent

__all__ = ["Progress", "rich_progress", "silent"]

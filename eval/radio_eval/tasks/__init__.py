"""Tasks: one file each, found by the names of `radio.evaluators`."""

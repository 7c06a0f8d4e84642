"""Sub-commands of `radio` that this package registers."""

"""The `radio` sub-commands of radio_llava."""

"""Training of the three toy teachers whose weights ship with radio_core."""

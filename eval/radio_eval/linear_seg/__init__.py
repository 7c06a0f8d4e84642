"""The linear probe of spatial features, as mmseg trains it."""

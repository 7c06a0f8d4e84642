"""The linear probe as mmseg trains and scores it."""

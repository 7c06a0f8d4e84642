"""Images with label maps: reading them, and mIoU."""

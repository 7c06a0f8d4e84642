"""Segment Anything on COCO: mIoU with ground-truth boxes, AP with a detector's."""

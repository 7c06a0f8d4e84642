"""COCO: instances, boxes and masks, and COCO's own AP."""

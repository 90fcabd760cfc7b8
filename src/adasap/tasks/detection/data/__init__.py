"""Images with boxes: readers, checks, batches, augmentation."""

"""Images with masks: readers, checks, augmentation, drawn shapes."""

"""What the page shows of a segmentation network."""

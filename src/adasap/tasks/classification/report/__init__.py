"""What the page shows of a classifier."""

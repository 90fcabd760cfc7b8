"""What the page shows of a detector."""

"""Networks that answer with a class for every pixel."""

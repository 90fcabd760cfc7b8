"""What the command line does, callable from Python: recipes, runs, evaluations, analyses, sweeps."""

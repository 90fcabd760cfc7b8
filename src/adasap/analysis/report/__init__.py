"""An analysis as tables, figures and a page of its own, and as a panel of a run's page."""

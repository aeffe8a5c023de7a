"""One command per claim of the pages; each keeps its results as JSON in `results/`."""

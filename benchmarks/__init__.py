"""One command a claim of the README; the results are kept beside it as JSON."""

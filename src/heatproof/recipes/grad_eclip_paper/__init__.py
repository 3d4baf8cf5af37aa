"""The claims of arXiv 2605.12952 as experiments: one experiment, one file, one page for all."""

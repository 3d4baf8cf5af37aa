"""HTML pages and the files of an explanation."""

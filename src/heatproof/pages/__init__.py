"""HTML pages from templates, and the files of an explanation. Pages take plain data."""

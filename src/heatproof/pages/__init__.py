"""HTML pages from templates, and the files of an explanation. Pages take plain data.

A new page is a template that extends `page.html`, and one call of `render.page` in the package
whose result it shows: pages import nothing of auditing, benchmarking, proofs or recipes.
"""

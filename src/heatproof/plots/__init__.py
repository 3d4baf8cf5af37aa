"""Drawings: colour scale, overlays, contact sheets, words, charts. They take plain data."""

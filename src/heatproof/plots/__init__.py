"""Pictures: colour, overlays, contact sheets, words, charts."""

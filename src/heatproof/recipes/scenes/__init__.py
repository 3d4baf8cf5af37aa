"""How the embedded reference model was trained and scored; the weights themselves are shipped."""

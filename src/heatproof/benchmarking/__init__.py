"""`heatproof benchmark`: methods x metrics x data on a model, from one pass over the pictures."""

"""Pictures with known truth, and pictures that users bring."""

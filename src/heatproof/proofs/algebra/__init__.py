"""The algebra behind `prove`: symbols, exact arithmetic, the forms of a method, limits."""

"""Long computations built on the library, which never imports them: our model, the paper."""

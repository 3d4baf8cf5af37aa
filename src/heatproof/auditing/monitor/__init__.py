"""What a method did to the model while it ran: hooks, modules called, weights changed."""

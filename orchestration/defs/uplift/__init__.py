"""What finished and running campaigns teach: whom an offer moves, and which offer to draw."""

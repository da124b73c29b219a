"""What `svkit report` is made of: gather facts, time models, draw, and render from the facts alone."""

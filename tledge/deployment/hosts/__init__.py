"""Ways to reach another machine."""

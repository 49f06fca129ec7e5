"""Tables and images to figures."""

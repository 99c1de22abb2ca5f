"""Models: what every hooked cell model offers, and those that can be read."""

"""``workbench geometry``: how many dimensions, how isotropic and how faithful what a model encodes is, layer by layer."""

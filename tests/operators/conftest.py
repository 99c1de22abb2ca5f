"""What the tests of readouts share."""

from fixtures_readout import latent  # noqa: F401

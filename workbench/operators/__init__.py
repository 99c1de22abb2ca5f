"""From heads to a small algorithm: operator export, adaptor, readout, and the exported file."""

"""An operator taken apart: factors, whether they last, what breaks without them, gene programs, smaller forms."""

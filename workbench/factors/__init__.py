"""Factors of an operator and their gene programs. A door for now."""

"""The extracted algorithm against what a user would pick instead: methods x splits x endpoints, one tidy table."""

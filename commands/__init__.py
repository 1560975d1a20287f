"""What a person types: one module for each thing that is done; cli.py puts them together."""

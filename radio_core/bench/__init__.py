"""How fast things are: measured in turns, with the machine recorded beside the numbers."""

"""Results of an evaluation as JSON, as a table in the terminal and as one HTML file."""

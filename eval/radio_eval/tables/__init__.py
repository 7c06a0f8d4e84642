"""Tables of models and tasks: the paper's Table 1 and Tables 3 to 6, and the quickstart's."""

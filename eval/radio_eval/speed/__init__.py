"""Speed beside the paper's: its Tables 7 and 8, and quality against speed (Figure 3)."""

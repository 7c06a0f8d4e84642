"""The ablations of the AM-RADIO paper, repeated in the toy world: Tables 3, 4, 5 and 6."""

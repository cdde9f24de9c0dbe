"""Count and limit the compute of a run: meter, FLOP costs, audit and guard."""

"""The search for bugs: random scenarios, invariants after every block, then a phase of calm."""

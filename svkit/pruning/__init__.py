"""Hard-concrete gates, their training objective, the cut and exact counting."""

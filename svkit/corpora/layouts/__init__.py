"""One file for each corpus layout."""

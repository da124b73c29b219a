"""From scores to numbers: back-ends, metrics and the data of figures."""

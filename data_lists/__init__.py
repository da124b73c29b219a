"""Official lists and the demo protocol as data files of the package."""

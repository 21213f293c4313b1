"""The file formats of a federation, which are read strictly; knows no network."""

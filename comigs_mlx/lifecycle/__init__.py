"""The life of an expert in a finished run: it is born, frozen, taken out."""

"""How contributions become the next generalists."""

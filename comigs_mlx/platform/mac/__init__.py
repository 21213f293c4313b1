"""What macOS offers a long run: staying awake, power and heat, a notification.

Each module asks the system's own commands through `commands`, the one seam that tests
replace. Elsewhere nothing is run, and every function answers as on a Mac that has no
battery, is cool, and needs nobody to keep it awake. No MLX.
"""
